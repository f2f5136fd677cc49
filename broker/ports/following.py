"""What other replicas did, told while they do it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from broker.domain.audit import AuditRecord
from broker.domain.identifiers import TaskId


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What other replicas made durable, in order."""

    records: tuple[AuditRecord, ...] = ()
    """What they appended to the audit trail."""

    extended: tuple[TaskId, ...] = ()
    """Tasks of which a lease lives longer now; not told again to who missed it."""


class ChangeFeed(Protocol):
    """The other replicas, heard."""

    def news(self) -> AsyncIterator[News]:
        """Yield what other replicas do from now on, for ever; of the audit trail nothing is left out."""
        ...
