"""Audit events and the hash chain that binds them.

Each record's hash covers the hash before it, its place, its time and its event in one canonical form, so a record
that was changed, removed from the middle, inserted or moved breaks the chain at that place. A chain alone does
not show that its *end* was cut off: that takes a head (sequence number and hash) kept elsewhere, which
`verify_chain` compares when it is given one.

What always holds: an event has no secret in it (rule R6); its facts are plain JSON data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as _quoted
from typing import Final

from broker.domain.one_form import one_form
from broker.domain.quick import quick

GENESIS: Final = "0" * 64
"""Stands where the first record's predecessor would be."""


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """Something that happened, before it has its place in the chain."""

    kind: str
    """`task.declared`, `credential.issued`, …: a name of `AuditKind`."""
    at: datetime
    actor: str
    """SPIFFE ID of who did it; the broker's own for what it does by itself."""
    task_id: str = ""
    lease_id: str = ""
    request_id: str = ""
    facts: Mapping[str, object]


class AuditKind:
    """Every kind of event there is. Kinds are never renamed: old records stay readable."""

    TASK_DECLARED: Final = "task.declared"
    TASK_DENIED: Final = "task.denied"
    TASK_ENDING: Final = "task.ending"
    TASK_ENDED: Final = "task.ended"
    ACTION_ALLOWED: Final = "action.allowed"
    ACTION_DENIED: Final = "action.denied"
    ACTION_CLOSED: Final = "action.closed"
    CREDENTIAL_INTENDED: Final = "credential.intended"
    CREDENTIAL_DENIED: Final = "credential.denied"
    CREDENTIAL_ISSUED: Final = "credential.issued"
    CREDENTIAL_VOIDED: Final = "credential.voided"
    LEASE_RENEWED: Final = "lease.renewed"
    LEASE_REVOKING: Final = "lease.revoking"
    LEASE_REVOKED: Final = "lease.revoked"
    LEASE_REVOCATION_FAILED: Final = "lease.revocation-failed"
    QUARANTINE_IMPOSED: Final = "quarantine.imposed"
    QUARANTINE_RELEASED: Final = "quarantine.released"
    QUARANTINE_LISTED: Final = "quarantine.listed"
    INSTANCE_ENDED: Final = "instance.ended"
    LEASE_LISTED: Final = "lease.listed"
    ORPHAN_REVOKED: Final = "orphan.revoked"
    RECONCILED: Final = "lease.reconciled"
    OPERATOR_REFUSED: Final = "operator.refused"
    ANOMALY_FOUND: Final = "anomaly.found"
    ANOMALY_ANSWERED: Final = "anomaly.answered"
    ANOMALY_MARKED: Final = "anomaly.marked"
    ANOMALY_LISTED: Final = "anomaly.listed"
    HOLD_LIFTED: Final = "hold.lifted"
    SIGNAL_RECEIVED: Final = "signal.received"
    SIGNAL_UNDELIVERED: Final = "signal.undelivered"


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """An event in its place."""

    sequence: int
    """1 for the first, without gaps."""
    previous_hash: str
    event: AuditEvent
    hash: str
    facts_text: str = field(default="", compare=False, repr=False)
    """The event's facts in their canonical form, where they have been put into it already."""


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class ChainHead:
    """The newest record's place and hash; worth keeping where the broker cannot write."""

    sequence: int
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainFault:
    """Where and how the chain is broken."""

    sequence: int
    what: str


_CANONICAL: Final = one_form(ensure_ascii=True, allow_nan=True)


def canonical_facts(facts: Mapping[str, object]) -> str:
    """An event's facts, the same for the same content."""
    return _CANONICAL(facts)


def canonical(event: AuditEvent, facts: str = "") -> bytes:
    """The event as bytes, the same for the same content: sorted keys, no spaces, UTC with microseconds.

    `facts` are its facts in that form, where somebody has them: they are most of it.
    """
    at = event.at.astimezone(UTC).isoformat(timespec="microseconds")
    return (
        f'{{"actor":{_quoted(event.actor)},"at":{_quoted(at)},"facts":{facts or canonical_facts(event.facts)},'
        f'"kind":{_quoted(event.kind)},"lease_id":{_quoted(event.lease_id)},'
        f'"request_id":{_quoted(event.request_id)},"task_id":{_quoted(event.task_id)}}}'
    ).encode()


def record_hash(sequence: int, previous_hash: str, event: AuditEvent, facts: str = "") -> str:
    """SHA-256 over version tag, place, predecessor's hash and canonical event, as hex; `facts` as for `canonical`."""
    digest = hashlib.sha256()
    digest.update(b"tasklease-audit-v1\n")
    digest.update(f"{sequence}\n{previous_hash}\n".encode())
    digest.update(canonical(event, facts))
    return digest.hexdigest()


def append(head: ChainHead | None, event: AuditEvent) -> AuditRecord:
    """Give `event` the place after `head` (None: the first)."""
    sequence = 1 if head is None else head.sequence + 1
    previous_hash = GENESIS if head is None else head.hash
    facts = canonical_facts(event.facts)
    return AuditRecord(
        sequence=sequence,
        previous_hash=previous_hash,
        event=event,
        hash=record_hash(sequence, previous_hash, event, facts),
        facts_text=facts,
    )


def verify_chain(
    records: Iterable[AuditRecord], *, expected: ChainHead | None = None
) -> ChainHead | ChainFault | None:
    """Walk the chain from its first record.

    Returns the head when all is well (None for an empty chain), else the first fault. With `expected`, an earlier
    head, the chain must pass through it: a chain that was cut off before it, or rewritten, is a fault.
    """
    head: ChainHead | None = None
    seen_expected = expected is None
    for record in records:
        place = 1 if head is None else head.sequence + 1
        previous_hash = GENESIS if head is None else head.hash
        if record.sequence != place:
            return ChainFault(sequence=place, what=f"record {place} is missing")
        if record.previous_hash != previous_hash:
            return ChainFault(sequence=place, what="does not follow the record before it")
        if record.hash != record_hash(place, previous_hash, record.event):
            return ChainFault(sequence=place, what="content does not match its hash")
        head = ChainHead(sequence=place, hash=record.hash)
        if expected is not None and place == expected.sequence:
            if record.hash != expected.hash:
                return ChainFault(sequence=place, what="is not the record that the expected head names")
            seen_expected = True
    if not seen_expected and expected is not None:
        return ChainFault(
            sequence=expected.sequence, what="the chain ends before the expected head: records were cut off"
        )
    return head
