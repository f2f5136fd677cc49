"""Record what was refused to somebody who wanted to operate: who, what, and in which words."""

from __future__ import annotations

from typing import Final

from broker.domain.audit import AuditEvent, AuditKind
from broker.domain.changes import Append
from broker.domain.identifiers import RequestId
from broker.domain.peer import VerifiedIdentity
from broker.ports.store import Store
from broker.ports.system import Clock

MOST_OF_A_REQUEST: Final = 2000
"""Characters of a refused request that are kept: whoever is refused may have written anything."""


class RecordRefusal:
    """See the module."""

    def __init__(self, *, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def __call__(
        self, who: VerifiedIdentity, rpc: str, reason: str, *, request: str, request_id: RequestId
    ) -> None:
        """Make the attempt durable.

        Raises:
            StoreUnavailableError: it is not.
        """
        event = AuditEvent(
            kind=AuditKind.OPERATOR_REFUSED,
            at=self._clock.now(),
            actor=str(who.spiffe_id),
            request_id=request_id,
            facts={
                "rpc": rpc,
                "reason": reason,
                "request": request[:MOST_OF_A_REQUEST],
                "svid_sha256": who.svid_sha256,
            },
        )
        await self._store.commit([Append(event=event)])
