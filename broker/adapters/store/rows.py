"""Rows to domain types and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from broker.adapters.store.session import EPOCH, Row
from broker.domain.actions import Action, ActionKind, ActionOutcome
from broker.domain.audit import AuditEvent, AuditRecord, canonical_facts
from broker.domain.effects import Effect, Verb
from broker.domain.errors import DenialClass
from broker.domain.findings import Hold
from broker.domain.identifiers import ActionId, LeaseId, TaskId, TokenAccessor, VaultLeaseId
from broker.domain.lease import Lease, LeaseState, RevokeCause
from broker.domain.quarantine import Quarantine, QuarantineTarget, TargetKind
from broker.domain.spiffe import SpiffeId
from broker.domain.task import EndCause, Outcome, Scope, Task, TaskEnd, TaskState

TASK_COLUMNS: Final = (
    "task_id", "owner", "agent_class", "task_type", "intent", "roles", "environment", "created_at", "deadline",
    "heartbeat_interval_us", "heartbeat_due", "fingerprint", "idempotency_key", "request_digest", "state",
    "svid_due", "tools",
)  # fmt: skip
LEASE_COLUMNS: Final = (
    "lease_id", "task_id", "role", "idempotency_key", "request_digest", "accessor", "intended_at",
    "max_expires_at", "state", "renewable", "attempts",
)  # fmt: skip
AUDIT_COLUMNS: Final = (
    "sequence", "previous_hash", "hash", "kind", "at", "actor", "task_id", "lease_id", "request_id", "facts",
)  # fmt: skip
ACTION_COLUMNS: Final = (
    "action_id", "task_id", "owner", "position", "kind", "name", "verbs", "resource", "destination",
    "arguments_digest", "at", "allowed", "reason", "denial_class", "labels", "sticks_until", "outcome", "idempotency_key",
)  # fmt: skip
QUARANTINE_COLUMNS: Final = ("kind", "name", "since", "imposed_by", "reason")


def task_row(task: Task) -> Mapping[str, Any]:
    """A new task as a row."""
    return {
        "task_id": task.task_id,
        "owner": str(task.owner),
        "agent_class": task.agent_class,
        "task_type": task.task_type,
        "intent": task.intent,
        "roles": json.dumps(sorted(task.scope.roles)),
        "environment": task.environment,
        "created_at": task.created_at,
        "deadline": task.deadline,
        "heartbeat_interval_us": task.heartbeat_interval // timedelta(microseconds=1),
        "heartbeat_due": task.heartbeat_due,
        "fingerprint": task.fingerprint,
        "idempotency_key": task.idempotency_key,
        "request_digest": task.request_digest,
        "state": task.state.value,
        "svid_due": task.svid_due,
        "tools": json.dumps(sorted(task.scope.tools)),
    }


def task_of(row: Row) -> Task:
    """A row as a task."""
    end = None
    if row["end_cause"] is not None:
        end = TaskEnd(
            cause=EndCause(row["end_cause"]),
            at=time_of(row["end_at"]),
            outcome=Outcome(row["end_outcome"]) if row["end_outcome"] else None,
            reason=row["end_reason"] or "",
        )
    return Task(
        task_id=TaskId(row["task_id"]),
        owner=SpiffeId.parse(row["owner"]),
        agent_class=row["agent_class"],
        task_type=row["task_type"],
        intent=row["intent"],
        scope=Scope(
            roles=frozenset(json.loads(row["roles"])), tools=frozenset(json.loads(row["tools"] or "[]"))
        ),
        environment=row["environment"],
        created_at=time_of(row["created_at"]),
        deadline=time_of(row["deadline"]),
        heartbeat_interval=timedelta(microseconds=row["heartbeat_interval_us"]),
        heartbeat_due=time_of(row["heartbeat_due"]),
        fingerprint=row["fingerprint"],
        idempotency_key=row["idempotency_key"],
        request_digest=row["request_digest"],
        state=TaskState(row["state"]),
        end=end,
        ended_at=time_or_none(row["ended_at"]),
        svid_due=time_or_none(row["svid_due"]),
        hold=Hold(row["hold"]) if row["hold"] else None,
    )


def lease_row(lease: Lease) -> Mapping[str, Any]:
    """An intended lease as a row."""
    return {
        "lease_id": lease.lease_id,
        "task_id": lease.task_id,
        "role": lease.role,
        "idempotency_key": lease.idempotency_key,
        "request_digest": lease.request_digest,
        "accessor": lease.accessor,
        "intended_at": lease.intended_at,
        "max_expires_at": lease.max_expires_at,
        "state": lease.state.value,
        "renewable": lease.renewable,
        "attempts": lease.attempts,
    }


def lease_of(row: Row) -> Lease:
    """A row as a lease."""
    return Lease(
        lease_id=LeaseId(row["lease_id"]),
        task_id=TaskId(row["task_id"]),
        role=row["role"],
        idempotency_key=row["idempotency_key"],
        request_digest=row["request_digest"],
        accessor=TokenAccessor(row["accessor"]),
        intended_at=time_of(row["intended_at"]),
        max_expires_at=time_of(row["max_expires_at"]),
        state=LeaseState(row["state"]),
        vault_lease_id=VaultLeaseId(row["vault_lease_id"]) if row["vault_lease_id"] else None,
        renewable=bool(row["renewable"]),
        issued_at=time_or_none(row["issued_at"]),
        expires_at=time_or_none(row["expires_at"]),
        revoke_cause=RevokeCause(row["revoke_cause"]) if row["revoke_cause"] else None,
        revoking_since=time_or_none(row["revoking_since"]),
        revoked_at=time_or_none(row["revoked_at"]),
        attempts=row["attempts"],
        next_attempt_at=time_or_none(row["next_attempt_at"]),
        account=row["account"],
    )


@lru_cache(maxsize=1024)
def _sorted_json(names: frozenset[str]) -> str:
    """One of the few sets that there are."""
    return json.dumps(sorted(names))


def action_row(action: Action) -> Mapping[str, Any]:
    """A new action as a row."""
    return {
        "action_id": action.action_id,
        "task_id": action.task_id,
        "owner": str(action.owner),
        "position": action.position,
        "kind": action.kind.value,
        "name": action.name,
        "verbs": _sorted_json(action.effect.verbs),
        "resource": action.effect.resource,
        "destination": action.effect.destination,
        "arguments_digest": action.arguments_digest,
        "at": action.at,
        "allowed": action.allowed,
        "reason": action.reason,
        "denial_class": action.denial_class.value if action.denial_class else None,
        "labels": _sorted_json(action.labels),
        "sticks_until": action.sticks_until,
        "outcome": action.outcome.value,
        "idempotency_key": action.idempotency_key,
    }


def action_of(row: Row) -> Action:
    """A row as an action."""
    return Action(
        action_id=ActionId(row["action_id"]),
        task_id=TaskId(row["task_id"]),
        owner=SpiffeId.parse(row["owner"]),
        position=row["position"],
        kind=ActionKind(row["kind"]),
        name=row["name"],
        effect=Effect(
            verbs=frozenset(map(Verb, json.loads(row["verbs"]))),
            resource=row["resource"],
            destination=row["destination"],
        ),
        arguments_digest=row["arguments_digest"],
        at=time_of(row["at"]),
        allowed=bool(row["allowed"]),
        reason=row["reason"],
        denial_class=DenialClass(row["denial_class"]) if row["denial_class"] else None,
        labels=frozenset(json.loads(row["labels"])),
        sticks_until=time_or_none(row["sticks_until"]),
        outcome=ActionOutcome(row["outcome"]),
        closed_at=time_or_none(row["closed_at"]),
        idempotency_key=row["idempotency_key"],
    )


def audit_row(record: AuditRecord) -> Mapping[str, Any]:
    """A record as a row."""
    event = record.event
    return {
        "sequence": record.sequence,
        "previous_hash": record.previous_hash,
        "hash": record.hash,
        "kind": event.kind,
        "at": event.at,
        "actor": event.actor,
        "task_id": event.task_id,
        "lease_id": event.lease_id,
        "request_id": event.request_id,
        "facts": record.facts_text or canonical_facts(event.facts),
    }


def audit_of(row: Row) -> AuditRecord:
    """A row as a record, exactly as stored: whether it is genuine is for `verify_chain` to say.

    Raises:
        ValueError, TypeError, OverflowError: the row holds no record at all; only tampering makes such a one.
    """
    return AuditRecord(
        sequence=row["sequence"],
        previous_hash=_text(row["previous_hash"]),
        hash=_text(row["hash"]),
        event=AuditEvent(
            kind=_text(row["kind"]),
            at=time_of(row["at"]),
            actor=_text(row["actor"]),
            task_id=_text(row["task_id"]),
            lease_id=_text(row["lease_id"]),
            request_id=_text(row["request_id"]),
            facts=json.loads(_text(row["facts"])),
        ),
    )


def quarantine_row(quarantine: Quarantine) -> Mapping[str, Any]:
    """A quarantine as a row."""
    return {
        "kind": quarantine.target.kind.value,
        "name": quarantine.target.name,
        "since": quarantine.since,
        "imposed_by": quarantine.by,
        "reason": quarantine.reason,
    }


def quarantine_of(row: Row) -> Quarantine:
    """A row as a quarantine."""
    return Quarantine(
        target=QuarantineTarget(kind=TargetKind(row["kind"]), name=row["name"]),
        by=row["imposed_by"],
        reason=row["reason"],
        since=time_of(row["since"]),
    )


def _text(value: object) -> str:
    """SQLite takes bytes in a text column; nothing of ours writes them."""
    if not isinstance(value, str):
        message = "not a text"
        raise TypeError(message)
    return value


def time_of(microseconds: int) -> datetime:
    """A column as a time."""
    return EPOCH + timedelta(microseconds=microseconds)


def time_or_none(microseconds: int | None) -> datetime | None:
    """A column as a time, if there is one."""
    return None if microseconds is None else time_of(microseconds)
