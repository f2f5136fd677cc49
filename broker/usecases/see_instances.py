"""From where, and with which SVID instances call: noticed when it is another place or SVID than before, and in nobody's way.

What always holds: a call waits for nothing here; what waits to be noticed is bounded, and the oldest goes first when there is too
much of it, with a line in the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from typing import Final

from broker.domain.changes import SeeInstance
from broker.domain.errors import BrokerError
from broker.domain.peer import VerifiedPeer
from broker.domain.sightings import Sighting
from broker.domain.spiffe import SpiffeId
from broker.ports.store import Store
from broker.ports.system import Clock
from broker.usecases.noticing import Notices
from broker.usecases.task_work import called_event

logger = logging.getLogger(__name__)

_MOST_KNOWN: Final = 10_000
"""Instances of which the last place and SVID are in memory."""
_MOST_SHOWN: Final = 16
"""SVIDs that one instance uses at one place in turns without being new each time."""
_MOST_WAITING: Final = 1_000


class SeeInstances:
    """See the module. Of one event loop."""

    def __init__(self, *, store: Store, notice: Notices, clock: Clock) -> None:
        self._store = store
        self._notice = notice
        self._clock = clock
        self._last: OrderedDict[SpiffeId, tuple[str, set[str]]] = OrderedDict()
        """The place of the last call, and what was shown there since the instance came there."""
        self._waiting: deque[tuple[VerifiedPeer, Sighting]] = deque()
        self._work: asyncio.Task[None] | None = None
        self.dropped = 0

    def __call__(self, peer: VerifiedPeer, address: str) -> None:
        """It calls, from there. Quick; never waits, never raises."""
        place, shown = self._last.get(peer.spiffe_id, ("", None))
        if place == address and shown is not None and peer.svid_sha256 in shown:
            return
        if not address:
            return
        if place != address or shown is None or len(shown) >= _MOST_SHOWN:
            shown = set()
        shown.add(peer.svid_sha256)
        self._last[peer.spiffe_id] = (address, shown)
        self._last.move_to_end(peer.spiffe_id)
        if len(self._last) > _MOST_KNOWN:
            self._last.popitem(last=False)
        if len(self._waiting) >= _MOST_WAITING:
            dropped, _ = self._waiting.popleft()
            self.dropped += 1
            logger.error("too much to notice: from where %s called is not", dropped.spiffe_id)
        sighting = Sighting(at=self._clock.now(), address=address, svid_sha256=peer.svid_sha256)
        self._waiting.append((peer, sighting))
        if self._work is None or self._work.done():
            self._work = asyncio.get_running_loop().create_task(self._see_all(), name="see-instances")

    def forget(self, instance: SpiffeId) -> None:
        """Its next call is seen as if it were the first: nothing more is expected of it."""
        self._last.pop(instance, None)

    async def drain(self) -> None:
        """Wait until all that waits is noticed."""
        if self._work is not None:
            await asyncio.gather(self._work, return_exceptions=True)

    async def _see_all(self) -> None:
        while self._waiting:
            peer, sighting = self._waiting.popleft()
            try:
                await self._see(peer, sighting)
            except BrokerError as error:
                self.forget(peer.spiffe_id)
                logger.error("from where %s called is not recorded: %s", peer.spiffe_id, error.reason)
            except Exception:
                self.forget(peer.spiffe_id)
                logger.exception("from where %s called is not recorded", peer.spiffe_id)

    async def _see(self, peer: VerifiedPeer, sighting: Sighting) -> None:
        await self._store.commit([SeeInstance(instance=peer.spiffe_id, sighting=sighting)])
        await self._notice.quietly(called_event(peer.spiffe_id, sighting))
