"""What is done on a node again and again: end what lost its holder, renew what lives, keep the pools full.

    end_lost   L4 to L5 of identities whose holder died, that nobody took in time, or whose ending did not get through
    cool_down  L6
    renew      entries that would expire while their instance runs, or while they wait
    trim       those that wait for a class that changed, or in excess, end
    fill       identities ready for each class, as many as the catalog says

No round raises for one bad item. What SPIRE does not do now is tried again in the next round.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from broker.domain.launching import (
    UNUSED_FOR,
    USED_FOR,
    Holder,
    IdentityState,
    LaunchClass,
    LaunchedIdentity,
    entry_of,
)
from broker.ports.launching import CannotStartError, InstanceLedger, InstanceStarter, Node, NoRoomError
from broker.ports.registry import Outcome, WorkloadRegistry
from broker.ports.system import Clock
from broker.usecases.launch_identities import Ended, EndIdentities, MakeIdentities

logger = logging.getLogger(__name__)

BATCH: Final = 50
"""Identities that are made, renewed or ended in one call of SPIRE."""

LEAST_RECOVERY: Final = timedelta(seconds=20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pools:
    """How full the pools are after a round."""

    ready: dict[str, int]
    trouble: Mapping[str, str]


class KeepNode:
    """See the module."""

    def __init__(  # noqa: PLR0913 - the ports of several rounds
        self,
        *,
        ledger: InstanceLedger,
        registry: WorkloadRegistry,
        node: Node,
        make: MakeIdentities,
        end: EndIdentities,
        starter_of: Callable[[str], InstanceStarter],
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._registry = registry
        self._node = node
        self._make = make
        self._end = end
        self._starter_of = starter_of
        self._clock = clock

    async def end_lost(self) -> list[Ended]:
        """One round; what was ended, or could not be."""
        now = self._clock.now()
        lost = [
            one
            for one in self._ledger.identities()
            if one.state is IdentityState.RETIRING
            or (
                one.state in {IdentityState.PREPARING, IdentityState.USED}
                and (one.holder is None or not self._node.is_alive(one.holder))
            )
            or (one.state is IdentityState.READY and (one.expires_at is None or one.expires_at <= now))
        ]
        ended: list[Ended] = []
        for begin in range(0, len(lost), BATCH):
            ended += await self._end(lost[begin : begin + BATCH])
        return ended

    def cool_down(self) -> int:
        """One round; how many numbers are free again."""
        now = self._clock.now()
        cool = [
            one
            for one in self._ledger.identities(states=[IdentityState.COOLING])
            if one.free_at is not None and one.free_at <= now
        ]
        if not cool:
            return 0
        in_use = self._node.groups_in_use()
        freed = 0
        for one in cool:
            # Nothing can have it, unless a process of the instance slipped through: whoever has the number next is not it.
            if one.group in in_use and not self._starter_of(one.kind).end(one):
                logger.warning("group %d of %s is still in use", one.group, one.spiffe_id)
                continue
            self._ledger.forget(one)
            freed += 1
        return freed

    async def renew(self, classes: Mapping[str, LaunchClass], *, holder: Holder | None = None) -> int:
        """One round over all, or over those of one holder; how many entries live longer now."""
        now = self._clock.now()
        due = [
            (one, classes[one.agent_class])
            for one in self._ledger.identities(states=[IdentityState.READY, IdentityState.USED])
            if one.agent_class in classes
            and one.expires_at is not None
            and (holder is None or one.holder == holder)
            and one.expires_at - now <= _lifetime(one) / 2
            and one.kind != "kubernetes"  # its entry has what is not kept here: a pod's uid
        ]
        renewed, gone = 0, list[LaunchedIdentity]()
        for begin in range(0, len(due), BATCH):
            batch = due[begin : begin + BATCH]
            entries = [entry_of(of, one, expires_at=now + _lifetime(one)) for one, of in batch]
            for (one, _), result in zip(batch, await self._registry.update(entries), strict=True):
                if result.outcome is Outcome.DONE:
                    self._ledger.renewed(one, now + _lifetime(one))
                    renewed += 1
                    continue
                logger.warning("entry of %s is not renewed: %s", one.spiffe_id, result.outcome.value)
                if result.outcome is Outcome.GONE and one.state is IdentityState.READY:
                    gone.append(one)  # somebody deleted it: whoever took it would wait for an SVID in vain
        if gone:
            await self._end(gone)
        return renewed

    async def fill(self, classes: Mapping[str, LaunchClass], *, holder: Holder) -> Pools:
        """One round: as many ready as each class says; none waits for another's."""
        ready: dict[str, int] = {}
        trouble: dict[str, str] = {}

        async def fill_one(launch_class: LaunchClass) -> None:
            waiting = len(self._waiting(launch_class))
            missing = launch_class.ready - waiting
            ready[launch_class.name] = min(waiting, launch_class.ready)
            if missing > 0:
                try:
                    made = await self._make(launch_class, min(missing, BATCH), holder=holder, used=False)
                    ready[launch_class.name] += len(made)
                except (NoRoomError, CannotStartError) as error:
                    trouble[launch_class.name] = str(error)

        filled = await asyncio.gather(*map(fill_one, classes.values()), return_exceptions=True)
        for error in filled:
            if error is not None:
                raise error
        return Pools(ready=ready, trouble=trouble)

    async def trim(self, classes: Mapping[str, LaunchClass]) -> list[Ended]:
        """One round: what waits and that no class wants, as it is."""
        stale = [
            one
            for one in self._ledger.identities(states=[IdentityState.READY])
            if one.agent_class not in classes or classes[one.agent_class].recipe != one.recipe
        ]
        for launch_class in classes.values():
            stale += self._waiting(launch_class)[launch_class.ready :]
        return await self._end(stale)

    def _waiting(self, launch_class: LaunchClass) -> list[LaunchedIdentity]:
        waiting = self._ledger.identities(states=[IdentityState.READY])
        return [
            one
            for one in waiting
            if one.agent_class == launch_class.name and one.recipe == launch_class.recipe
        ]


def _lifetime(identity: LaunchedIdentity) -> timedelta:
    return USED_FOR if identity.state is IdentityState.USED else UNUSED_FOR
