"""A watch for each instance that works, in memory, and made again from the store whenever it may have missed something.

    W1  an event that follows what was seen is folded; nothing is read, and nothing waits
    W2  where something may be missing (no watch yet, a gap in a chain, an event out of order, another replica at work), all
        that is stored of the instance is folded in order, and replaces the watch
    W3  what that finds is told where it was found at this very event, or is recorded nowhere yet

What always holds: events of one instance are folded one after another, and one watch of it is made at a time. An event is told
of once what it is about is durable; so what no watch has seen (a crash, a cancelled call) is in the store, and is found when a
watch is made: at the instance's next event, in a round, after a start. What a rule has said of a task's past is not said anew of
it under other parameters, so that what an operator lets go on is not stopped again by a restart. So two replicas that each see a part find what one
finds that sees everything. A finding has the same id each time. What is held is bounded, in watches and in each.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from broker.anomaly.bounded import Recent
from broker.anomaly.detector import Parameters
from broker.anomaly.events import Event, EventKind, in_order
from broker.anomaly.findings import Finding
from broker.anomaly.learning import Model
from broker.anomaly.watching import Watch, WatchParameters
from broker.domain.errors import BrokerError
from broker.domain.findings import Found
from broker.domain.identifiers import TaskId
from broker.domain.spiffe import SpiffeId
from broker.domain.task import Task
from broker.ports.policy import CatalogSource
from broker.ports.store import FindingFilter, Store
from broker.ports.system import Clock
from broker.usecases.task_work import events_of_instance
from broker.usecases.turns import Turns
from broker.usecases.usual import Usual

logger = logging.getLogger(__name__)

MOST_WATCHES: Final = 2_000
"""Instances that are watched at once; the one that did nothing for longest goes, and comes back from the store."""

MOST_MODELS: Final = 16
"""Different states of what was learned that watches are judged by at once."""

LATE: Final = timedelta(hours=1)
"""What is found of a task that has ended is told as long as it happened no longer ago."""

_MOST_POSITIONS: Final = 1_024
_MOST_UNSTORED: Final = 64
_AT_ONCE: Final = 4
_PAGE: Final = 100
_BREATH: Final = 200
"""Events that are folded at a stretch while others wait."""

_MEASURED: Final = 64
"""Events after which it is counted again what a watch holds."""

_UNSTORED: Final = frozenset({EventKind.CALLED, EventKind.INSTANCE_ENDED})


@dataclass(slots=True)
class _Held:
    """A watch, and what it has seen."""

    watch: Watch
    model: Model
    positions: Recent[TaskId, int] = field(default_factory=lambda: Recent(_MOST_POSITIONS))
    """Of the newest action of each task."""
    found: tuple[Finding, ...] = ()
    """What was found when it was made."""
    stale: bool = False
    folded: int = 0
    size: int = 0


def found_of(finding: Finding) -> Found:
    """As it is recorded."""
    return Found(
        detector=finding.detector.value,
        rule=finding.rule,
        severity=finding.severity,
        confidence=finding.confidence,
        instance=finding.instance,
        task_id=finding.task_id,
        at=finding.at,
        evidence=finding.evidence,
        expected=finding.expected,
        happened=finding.happened,
    )


class WatchInstances:
    """See the module. Of one event loop."""

    def __init__(
        self,
        *,
        store: Store,
        catalogs: CatalogSource,
        clock: Clock,
        parameters: WatchParameters | None = None,
        most: int = MOST_WATCHES,
    ) -> None:
        self._store = store
        self._catalogs = catalogs
        self._clock = clock
        self._parameters = parameters or WatchParameters()
        self._most = most
        self._usual = Usual(store, clock)
        self._models: list[Model] = []
        self._held: OrderedDict[SpiffeId, _Held] = OrderedDict()
        self._unstored: Recent[SpiffeId, tuple[Event, ...]] = Recent(most)
        """What was told and is in no store: it is folded again with what is."""
        self._due: dict[SpiffeId, None] = {}
        """Whose watches the next round makes again."""
        self._turns: Turns[SpiffeId] = Turns()
        self._size = 0

    @property
    def watches(self) -> int:
        """How many there are."""
        return len(self._held)

    def size(self) -> int:
        """Values that all of them hold, as counted not long ago."""
        return self._size

    def most(self) -> int:
        """Values that those that there are can hold at most."""
        return len(self._held) * _most_of_one(self._parameters)

    async def observe(self, event: Event) -> tuple[Finding, ...]:
        """Take what has just become durable; what is found at it, and what turns out to have been found before.

        Raises:
            StoreUnavailableError: the watch had to be made again and could not; the next round tries.
        """
        if event.kind in _UNSTORED:
            before = self._unstored.get(event.instance) or ()
            self._unstored.put(event.instance, (*before, event)[-_MOST_UNSTORED:])
        if not self._turns.is_taken(event.instance):
            held = self._held.get(event.instance)
            if held is not None and _follows(held, event):
                return self._fold(held, event)
        async with self._turns.of(event.instance):
            held = self._held.get(event.instance)
            if held is not None:
                if _follows(held, event):
                    return self._fold(held, event)
                if not held.stale and _is_known(held, event):
                    return tuple(one for one in held.found if _is_at(one, event))
            return await self._make(event.instance, event)

    def stale(self, instance: SpiffeId) -> None:
        """Note that another replica did something about it, or that what was found could not be recorded."""
        held = self._held.get(instance)
        if held is not None:
            held.stale = True
            self._due[instance] = None

    def missed(self, instance: SpiffeId) -> None:
        """Something of it may be durable that no watch was told of: the next round looks, whether it is watched here or not."""
        self.stale(instance)
        self._due[instance] = None

    def stale_by_task(self, task_id: TaskId) -> None:
        """The same, where it is known of which task alone."""
        for instance in [one for one, held in self._held.items() if task_id in held.positions]:
            self.stale(instance)

    async def look_again(self) -> tuple[Finding, ...]:
        """Make the watches again that may have missed something; what they find. One that fails keeps no other waiting.

        Raises:
            StoreUnavailableError: none could be made; the next round tries.
        """
        due, self._due = self._due, {}
        found: list[Finding] = []
        failed: list[BrokerError] = []
        waiting = list(due)
        try:
            while waiting:
                some, waiting = waiting[:_AT_ONCE], waiting[_AT_ONCE:]
                found += await self._look_at(some, failed)
        except BaseException:
            self._due = due | self._due  # what was found is not told: it is found again
            raise
        if failed and len(failed) == len(due):
            raise failed[0]
        return tuple(found)

    async def look_at_all(self) -> AsyncIterator[tuple[Finding, ...]]:
        """Make a watch of every instance with an active task; what each finds, a few at a time.

        One that fails keeps no other waiting: it is the next round's.

        Raises:
            StoreUnavailableError: it cannot be read which ones there are; called again, it begins again.
        """
        after = ""
        while owners := await self._store.active_owners(after, _PAGE):
            for start in range(0, len(owners), _AT_ONCE):
                found = await self._look_at(owners[start : start + _AT_ONCE], [])
                if found:
                    yield tuple(found)
            after = str(owners[-1])

    # Making a watch ----------------------------------------------------------------------------------------

    async def _look_at(self, instances: Sequence[SpiffeId], failed: list[BrokerError]) -> list[Finding]:
        """What they find; why some could not be looked at is added to `failed`, and the next round tries those."""
        results = await asyncio.gather(*map(self._look_at_one, instances), return_exceptions=True)
        found: list[Finding] = []
        for instance, result in zip(instances, results, strict=True):
            match result:
                case tuple():
                    found += result
                case BrokerError():
                    failed.append(result)
                case Exception():  # its text may hold anything
                    logger.error("the watch of %s failed: %s", instance, type(result).__name__)
                case _:
                    raise result
        return found

    async def _look_at_one(self, instance: SpiffeId) -> tuple[Finding, ...]:
        async with self._turns.of(instance):
            held = self._held.get(instance)
            return () if held is not None and not held.stale else await self._make(instance, None)

    async def _make(self, instance: SpiffeId, event: Event | None) -> tuple[Finding, ...]:
        """In the instance's turn."""
        try:
            return await self._made(instance, event)
        except BaseException:
            self._forget(instance)
            self._due[instance] = None  # what was durable must be found, whoever gave up here
            raise

    async def _made(self, instance: SpiffeId, event: Event | None) -> tuple[Finding, ...]:
        known = self._held.get(instance)
        model = await self._usual.current() if known is None else known.model
        if known is not None:
            known.stale = False  # what comes from now on may not be in what is read
        told = self._unstored.get(instance) or ()
        besides = (*told, event) if event is not None else told
        events, tasks = await events_of_instance(
            self._store,
            instance,
            self._catalogs.current(),
            most_tasks=Parameters().most_tasks,
            besides={one.task_id for one in besides if one.task_id is not None},
        )
        held = _Held(watch=Watch(model, self._parameters), model=model)
        held.found = await _folded(held, in_order(events, besides))
        held.size = held.watch.size()
        new = await self._new(held.found, tasks, event)
        held.stale = known is not None and known.stale
        self._hold(instance, held)
        return new

    async def _new(
        self, found: tuple[Finding, ...], tasks: tuple[Task, ...], event: Event | None
    ) -> tuple[Finding, ...]:
        """Those at this event, and those of late that are recorded nowhere."""
        if not found:
            return ()
        active = {task.task_id for task in tasks if task.end is None}
        since = self._clock.now() - LATE
        wanted = FindingFilter(instance=str(found[0].instance))
        page = await self._store.finding_page(wanted, page_size=_PAGE, page_token="")
        recorded = {one.finding_id for one in page.findings}
        judged = {
            (one.found.task_id, one.found.detector, one.found.rule): one.found_at
            for one in reversed(page.findings)  # the newest last
        }
        new = []
        for one in found:
            if event is None or not _is_at(one, event):
                if one.task_id not in active and one.at < since:
                    continue
                finding_id = found_of(one).finding_id
                if finding_id in recorded or await self._store.finding(finding_id) is not None:
                    continue
                when = judged.get((one.task_id, one.detector.value, one.rule))
                if one.task_id is not None and when is not None and one.at <= when:
                    continue  # only other parameters, or another model, see it elsewhere in that past
            new.append(one)
        return tuple(new)

    # Holding watches ---------------------------------------------------------------------------------------

    def _fold(self, held: _Held, event: Event) -> tuple[Finding, ...]:
        try:
            found = _observed(held, event)
        except BaseException:
            self._forget(event.instance)  # who knows what it has seen
            self._due[event.instance] = None
            raise
        if not held.folded % _MEASURED:
            self._size -= held.size
            held.size = held.watch.size()
            self._size += held.size
        self._held.move_to_end(event.instance)
        return found

    def _hold(self, instance: SpiffeId, held: _Held) -> None:
        self._forget(instance)
        self._held[instance] = held
        self._size += held.size
        if all(held.model is not one for one in self._models):
            self._models.append(held.model)
        kept = self._models[-MOST_MODELS:]
        if len(kept) < len(self._models):
            self._models = kept
            for other in [one for one, it in self._held.items() if all(it.model is not m for m in kept)]:
                self._forget(other)
        while len(self._held) > self._most:
            self._forget(next(iter(self._held)))

    def _forget(self, instance: SpiffeId) -> None:
        held = self._held.pop(instance, None)
        if held is not None:
            self._size -= held.size


def _follows(held: _Held, event: Event) -> bool:
    """Whether nothing is missing between what was seen and this."""
    if held.stale or not held.watch.is_next(event):
        return False
    if event.task_id is None:
        return False  # rare; what other replicas saw of the kind is told by the store alone
    position = held.positions.get(event.task_id)
    if event.kind is EventKind.DECLARED:
        return position is None
    if position is None:
        return False
    return event.kind is not EventKind.DECIDED or event.position == position + 1


def _is_known(held: _Held, event: Event) -> bool:
    """Whether it was among what was read when the watch was made."""
    position = None if event.task_id is None else held.positions.get(event.task_id)
    if position is None:
        return False
    match event.kind:
        case EventKind.DECLARED:
            return True
        case EventKind.DECIDED:
            return event.position <= position
        case _:
            return False


def _is_at(finding: Finding, event: Event) -> bool:
    return finding.at == event.at and finding.task_id == event.task_id


async def _folded(held: _Held, events: tuple[Event, ...]) -> tuple[Finding, ...]:
    found: list[Finding] = []
    for number, event in enumerate(events, 1):
        found += _observed(held, event)
        if not number % _BREATH:
            await asyncio.sleep(0)
    return tuple(found)


def _observed(held: _Held, event: Event) -> tuple[Finding, ...]:
    found = held.watch.observe(event)
    held.folded += 1
    if event.task_id is not None:
        if event.kind is EventKind.DECLARED:
            held.positions.put(event.task_id, 0)
        elif event.kind is EventKind.DECIDED:
            held.positions.put(event.task_id, event.position)
    return found


def _most_of_one(parameters: WatchParameters) -> int:
    return Watch(parameters=parameters).most()
