"""Notice what happens: have the instance's watch see each event, and answer what it finds.

What always holds: nothing that an event allows leaves before the event was seen and what was found at it was answered, durably.
A watch that fails lets nothing pass: whoever asks is told to try again, and the instance is looked at anew, from the store, by
the next event or the next round, so that nothing that was found is lost with the process or the try.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from typing import Protocol

from broker.anomaly.events import Event
from broker.anomaly.findings import Finding
from broker.domain.changes import Change
from broker.domain.errors import BrokerError, InstanceQuarantinedError, StoreUnavailableError
from broker.domain.findings import Answer, Found, RecordedFinding
from broker.domain.identifiers import TaskId
from broker.domain.sightings import Sighting
from broker.domain.spiffe import SpiffeId
from broker.ports.identity import Quarantine
from broker.ports.store import Store
from broker.ports.system import Clock
from broker.usecases.answer_findings import words
from broker.usecases.caller import AskingCaller, Caller
from broker.usecases.ownership import demand_free
from broker.usecases.task_work import called_event
from broker.usecases.watch_instances import found_of

logger = logging.getLogger(__name__)


class Watches(Protocol):
    """What finds: usecases.watch_instances."""

    async def observe(self, event: Event) -> tuple[Finding, ...]:
        """Take the next event of an instance; what is found."""
        ...

    def missed(self, instance: SpiffeId) -> None:
        """What is known of it may not be all."""
        ...

    async def look_again(self) -> tuple[Finding, ...]:
        """What is found of those that are stale."""
        ...

    def look_at_all(self) -> AsyncIterator[tuple[Finding, ...]]:
        """What is found of every instance that has an active task."""
        ...


class Answers(Protocol):
    """What answers: usecases.answer_findings."""

    async def __call__(
        self, found: Found, *, request_id: str = "", first: Sequence[Change] = ()
    ) -> RecordedFinding:
        """Record and answer."""
        ...


class Notice:
    """See the module. Implements usecases.noticing.Notices."""

    def __init__(
        self, *, watches: Watches, answers: Answers, store: Store, quarantine: Quarantine, clock: Clock
    ) -> None:
        self._watches = watches
        self._answers = answers
        self._store = store
        self._quarantine = quarantine
        self._clock = clock

    async def __call__(
        self, event: Event, *, request_id: str = "", first: Sequence[Change] = ()
    ) -> tuple[str, ...]:
        """Notice an event before anything that it allows leaves (`Notices`)."""
        recorded = await self._see(event, request_id, first)
        if not recorded:
            return ()
        if any(one.answer.rank >= Answer.APPROVE.rank for one in recorded):
            await self._demand_free(event)
        here = (one for one in recorded if (one.found.at, one.found.task_id) == (event.at, event.task_id))
        return tuple(words(one.found) for one in here if one.answer is Answer.WARN)

    async def quietly(self, event: Event, *, request_id: str = "") -> None:
        """Notice an event after which nothing leaves (`Notices`)."""
        try:
            await self._see(event, request_id, ())
        except BrokerError as error:
            logger.error("%s of %s is noticed later: %s", event.kind.value, event.instance, error.reason)

    def missed(self, instance: SpiffeId) -> None:
        """A step of it may be durable that is not going to be noticed (`Notices`)."""
        self._watches.missed(instance)

    async def too_late(self, caller: AskingCaller, task_id: TaskId) -> None:
        """A call names a task of the caller's that is over (`Notices`)."""
        if not isinstance(caller, Caller) or not caller.address:
            return  # from where an enforcer's subject called, or whoever has no address, says nothing
        peer = caller.peer
        with suppress(BrokerError):
            task = await self._store.task(task_id)
            if task is not None and task.owner == peer.spiffe_id:
                sighting = Sighting(
                    at=self._clock.now(), address=caller.address, svid_sha256=peer.svid_sha256
                )
                event = called_event(peer.spiffe_id, sighting, task)
                await self.quietly(event, request_id=caller.request_id)

    async def look_again(self) -> int:
        """A round: what stands in no single replica, and what could not be answered; return how much was found.

        Raises:
            StoreUnavailableError: some of it is still to be looked at.
        """
        found = await self._watches.look_again()
        return await self._answer_all(found)

    async def look_at_all(self) -> int:
        """Once after a start: what was durable when the process before ended, but was not found or not answered.

        Raises:
            StoreUnavailableError: some of it is still to be looked at.
        """
        count = 0
        async for found in self._watches.look_at_all():
            count += await self._answer_all(found)
        return count

    async def _see(self, event: Event, request_id: str, first: Sequence[Change]) -> list[RecordedFinding]:
        try:
            found = await self._watches.observe(event)
            return [await self._answers(found_of(one), request_id=request_id, first=first) for one in found]
        except BaseException as error:
            self._watches.missed(event.instance)  # what was found is not said a second time
            if isinstance(error, BrokerError) or not isinstance(error, Exception):
                raise
            # Its text may hold anything.
            logger.exception("the watch of %s failed: nothing is let through", event.instance)
            raise StoreUnavailableError from error

    async def _answer_all(self, found: Iterable[Finding]) -> int:
        count = 0
        waiting = list(found)
        try:
            while waiting:
                await self._answers(found_of(waiting[0]))
                waiting.pop(0)
                count += 1
        finally:
            for one in waiting:
                self._watches.missed(one.instance)
        return count

    async def _demand_free(self, event: Event) -> None:
        if self._quarantine.holds(event.instance):
            raise InstanceQuarantinedError
        task = None if event.task_id is None else await self._store.task(event.task_id)
        if task is not None:
            demand_free(task)
