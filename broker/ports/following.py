"""What other replicas did, told while they do it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, Protocol

from broker.domain.audit import AuditKind, AuditRecord
from broker.domain.identifiers import TaskId

WORK: Final = frozenset(
    {
        AuditKind.TASK_DECLARED,
        AuditKind.CREDENTIAL_INTENDED,
        AuditKind.CREDENTIAL_DENIED,
        AuditKind.ACTION_ALLOWED,
        AuditKind.ACTION_DENIED,
        AuditKind.ACTION_CLOSED,
        AuditKind.TASK_ENDING,
        AuditKind.INSTANCE_ENDED,
    }
)
"""Those of what an instance does, or is done to its tasks: its watch has to see them."""

TOLD: Final = WORK | frozenset(
    {
        AuditKind.TASK_ENDED,
        AuditKind.LEASE_REVOKED,
        AuditKind.QUARANTINE_IMPOSED,
        AuditKind.QUARANTINE_RELEASED,
    }
)
"""The kinds of audit records that other replicas are told of: those about which they may have something in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What other replicas made durable, in order."""

    records: tuple[AuditRecord, ...] = ()
    """What they appended to the audit trail, of the kinds in `TOLD`."""

    extended: tuple[TaskId, ...] = ()
    """Tasks of which a lease lives longer now; not told again to who missed it."""


class ChangeFeed(Protocol):
    """The other replicas, heard."""

    def news(self) -> AsyncIterator[News]:
        """Yield what other replicas do from now on, for ever; of the records nothing is left out."""
        ...
