"""What other replicas did, told while they do it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from broker.domain.audit import AuditRecord


class ChangeFeed(Protocol):
    """The audit trail as it grows in other replicas."""

    def records(self) -> AsyncIterator[Sequence[AuditRecord]]:
        """Yield what other replicas appended since this began, in order and without a gap, for ever.

        An empty sequence says that others cannot be heard at the moment; what they do meanwhile comes later.
        """
        ...
