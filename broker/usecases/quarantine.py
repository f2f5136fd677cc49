"""Quarantine, release, and look at what is quarantined.

    Q1  the quarantine is durable, with its audit record: from here on the store takes no new task and no lease of the
        target, in whatever replica, nor one that was under way
    Q2  it is known in this process: the next call is refused, on open connections too, and attached streams end
    Q3  every active task of the target ends (usecases.end_quarantined), for the cause QUARANTINED

A crash after Q1 is made good at the next start, before the first call is taken, and by a round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from broker.domain.audit import AuditEvent, AuditKind
from broker.domain.changes import AddQuarantine, Append, RemoveQuarantine
from broker.domain.errors import QuarantineNotFoundError, StoreUnavailableError
from broker.domain.quarantine import Quarantine, QuarantineTarget, TargetKind
from broker.domain.spiffe import SpiffeId
from broker.ports.identity import QuarantineInMemory
from broker.ports.store import Conflict, ConflictError, QuarantinePage, QuarantineStatus, Store
from broker.ports.system import Clock, Steps
from broker.usecases.caller import OperatorCaller
from broker.usecases.end_quarantined import EndQuarantined
from broker.usecases.task_events import TaskEvents

PATIENCE: Final = timedelta(seconds=10)
"""How long an answer waits for what the target held to be revoked; after that it says how much is left."""

_OTHERS_TAKE: Final = timedelta(seconds=2)
"""How long an answer waits for tasks that another replica, which was told of the quarantine, is ending."""

_LOOK_AGAIN: Final = timedelta(seconds=0.05)


@dataclass(frozen=True, slots=True, kw_only=True)
class Imposed:
    """What came of a quarantine by the time of the answer."""

    status: QuarantineStatus
    tasks_found: int


class QuarantineInstances:
    """See the module."""

    def __init__(  # noqa: PLR0913 - the ports of one path
        self,
        *,
        store: Store,
        memory: QuarantineInMemory,
        end_quarantined: EndQuarantined,
        events: TaskEvents,
        clock: Clock,
        steps: Steps,
    ) -> None:
        self._store = store
        self._memory = memory
        self._end_quarantined = end_quarantined
        self._events = events
        self._clock = clock
        self._steps = steps
        self._background: set[asyncio.Task[None]] = set()

    async def impose(self, caller: OperatorCaller, target: QuarantineTarget, reason: str) -> Imposed:
        """Quarantine `target`; where it is quarantined already, that quarantine stays.

        Raises:
            StoreUnavailableError: nothing is quarantined by this; or it is, and what is left cannot be read.
        """
        quarantine = Quarantine(
            target=target, by=str(caller.operator.spiffe_id), reason=reason, since=self._clock.now()
        )
        event = self._event(AuditKind.QUARANTINE_IMPOSED, caller, target, reason)
        # A caller that goes away must not come in between Q1 and Q2.
        await asyncio.shield(self._start(self._hold(quarantine, event)))
        found = await self._status(quarantine)
        now, patience = asyncio.get_running_loop().time, caller.patience(PATIENCE) * 0.9
        end = now() + patience.total_seconds()
        await self._end(patience)  # Q3
        status = await self._over(quarantine, min(end, now() + _OTHERS_TAKE.total_seconds()))
        return Imposed(status=status, tasks_found=found.unfinished_tasks)

    async def release(
        self, caller: OperatorCaller, target: QuarantineTarget, reason: str
    ) -> tuple[QuarantineStatus, ...]:
        """Release `target`; return the other quarantines that concern it, if it is an instance.

        Raises:
            QuarantineNotFoundError: no quarantine of exactly this target stands.
            StoreUnavailableError: it still stands.
        """
        await self._end_quarantined()  # else a task that it should have ended would live on
        event = self._event(AuditKind.QUARANTINE_RELEASED, caller, target, reason)
        try:
            await self._store.commit([RemoveQuarantine(target=target), Append(event=event)])
        except ConflictError as error:
            if error.conflict is Conflict.QUARANTINE_MISSING:
                raise QuarantineNotFoundError from error
            raise StoreUnavailableError from error  # a task came in between: try again
        self._memory.let_go(target)
        if target.kind is not TargetKind.INSTANCE:
            return ()
        others = [
            await self._store.quarantine(one) for one in QuarantineTarget.all_of(SpiffeId.parse(target.name))
        ]
        return tuple(one for one in others if one is not None)

    async def page(self, caller: OperatorCaller, *, page_size: int, page_token: str) -> QuarantinePage:
        """One page of the quarantines that stand.

        Raises:
            FieldInvalidError: the page token is not one of ours.
        """
        page = await self._store.quarantine_page(page_size=page_size, page_token=page_token)
        await self._store.commit([Append(event=self._event(AuditKind.QUARANTINE_LISTED, caller))])
        return page

    async def follow(self) -> None:
        """A round: learn what other replicas quarantined, and end what the quarantined still have.

        Raises:
            StoreUnavailableError: what was known stays known.
        """
        if await self._memory.refresh():
            self._events.wake()
        await self._end_quarantined()

    async def drain(self) -> None:
        """Wait for endings under way."""
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._end_quarantined.settled()

    async def _hold(self, quarantine: Quarantine, event: AuditEvent) -> None:
        await self._store.commit([AddQuarantine(quarantine=quarantine), Append(event=event)])  # Q1
        self._steps.reached("quarantine.durable")
        self._memory.hold(quarantine.target)  # Q2
        self._events.wake()

    async def _end(self, patience: timedelta) -> None:
        work = self._start(self._end_and_settle())
        await asyncio.wait({work}, timeout=patience.total_seconds())
        if work.done():
            work.result()

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        work = asyncio.create_task(coroutine, name="quarantine")
        self._background.add(work)
        work.add_done_callback(self._background.discard)
        return work

    async def _end_and_settle(self) -> None:
        await self._end_quarantined()
        await self._end_quarantined.settled()

    async def _over(self, quarantine: Quarantine, end: float) -> QuarantineStatus:
        """The status when no task is left, or at the loop's time `end`."""
        now = asyncio.get_running_loop().time
        while (status := await self._status(quarantine)).unfinished_tasks and now() < end:  # noqa: ASYNC110 - others end it, elsewhere
            await asyncio.sleep(_LOOK_AGAIN.total_seconds())
        return status

    async def _status(self, quarantine: Quarantine) -> QuarantineStatus:
        status = await self._store.quarantine(quarantine.target)
        # Released by somebody else since: what this call did is still what it did.
        return status or QuarantineStatus(quarantine=quarantine, unfinished_tasks=0)

    def _event(
        self, kind: str, caller: OperatorCaller, target: QuarantineTarget | None = None, reason: str = ""
    ) -> AuditEvent:
        facts: dict[str, object] = {
            "roles": sorted(role.value for role in caller.operator.roles),
            "svid_sha256": caller.operator.svid_sha256,
        }
        if target is not None:
            facts |= {"target": target.kind.value, "name": target.name, "reason": reason}
        return AuditEvent(
            kind=kind,
            at=self._clock.now(),
            actor=str(caller.operator.spiffe_id),
            request_id=caller.request_id,
            facts=facts,
        )
