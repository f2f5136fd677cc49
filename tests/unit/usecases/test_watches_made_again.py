"""Watches that are made again from the store: after a start, a gap, a failure, or what another replica did."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from broker.adapters.store.sqlite import SqliteStore
from broker.anomaly.events import Event
from broker.anomaly.findings import Finding
from broker.anomaly.watching import Watch
from broker.domain.actions import Action
from broker.domain.changes import (
    CreateTask,
    EndTask,
    RecordAction,
    RecordFinding,
    SaveModel,
)
from broker.domain.errors import DenialClass, StoreUnavailableError
from broker.domain.findings import Answer, RecordedFinding
from broker.domain.identifiers import ActionId, TaskId
from broker.domain.sightings import Sighting
from broker.domain.spiffe import SpiffeId
from broker.domain.task import EndCause, Task
from broker.usecases.task_work import (
    called_event,
    decided_event,
    declared_event,
    ended_event,
)
from broker.usecases.usual import written
from broker.usecases.watch_instances import WatchInstances, found_of
from tests.fakes.samples import OWNER, a_catalog, a_task, a_tool, an_action, an_end
from tests.fakes.system import FakeClock
from tests.unit.anomaly.making import model_of
from tests.unit.usecases.wiring import FixedCatalog

CATALOG = a_catalog(tools=(a_tool(), a_tool("read-vault", canary=True)))


class World:
    """A store, and what an instance does in it, second by second."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.clock = FakeClock()
        self.catalogs = FixedCatalog(CATALOG)
        self.length: dict[TaskId, int] = {}

    def watching(self, most: int = 100) -> WatchInstances:
        return WatchInstances(store=self.store, catalogs=self.catalogs, clock=self.clock, most=most)

    async def declares(self, task_id: str = "task-1", owner: SpiffeId = OWNER) -> Task:
        self.clock.advance(seconds=1)
        task = a_task(task_id, owner=owner, created_at=self.clock.now(), idempotency_key=None)
        await self.store.commit([CreateTask(task=task, max_live=1_000)])
        self.length[task.task_id] = 0
        return task

    async def acts(self, task: Task, name: str = "read-orders", *, denied: bool = False) -> Event:
        return decided_event(await self.action(task, name, denied=denied), task, CATALOG)

    async def action(self, task: Task, name: str = "read-orders", *, denied: bool = False) -> Action:
        self.clock.advance(seconds=1)
        self.length[task.task_id] = position = self.length[task.task_id] + 1
        action = an_action(
            position,
            action_id=ActionId(f"action-{task.task_id}-{position}"),
            task_id=task.task_id,
            owner=task.owner,
            name=name,
            effect=CATALOG.tools["read-orders"].effect({}),
            at=self.clock.now(),
            allowed=not denied,
            idempotency_key=None,
            **({"reason": "POLICY_DENIED", "denial_class": DenialClass.STRUCTURAL} if denied else {}),
        )
        await self.store.commit([RecordAction(action=action)])
        return action

    async def ends(self, task: Task, cause: EndCause = EndCause.COMPLETED) -> Event:
        self.clock.advance(seconds=1)
        end = an_end(cause, self.clock.now())
        await self.store.commit([EndTask(task_id=task.task_id, end=end)])
        return ended_event(task.ending(end))


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    store = SqliteStore.open(f"sqlite:///{tmp_path / 'broker.db'}")
    yield World(store)
    await store.close()


def ids(findings: tuple[Finding, ...] | list[Finding]) -> set[str]:
    return {found_of(one).finding_id for one in findings}


async def record(world: World, finding: Finding) -> None:
    found = found_of(finding)
    recorded = RecordedFinding(
        finding_id=found.finding_id, found=found, found_at=world.clock.now(), answer=Answer.NOTE
    )
    await world.store.commit([RecordFinding(finding=recorded)])


async def storm(world: World, task: Task, times: int) -> list[Event]:
    """Refusals of one effect, again and again."""
    return [await world.acts(task, denied=True) for _ in range(times)]


class Counted:
    """Counts what is asked of a store."""

    def __init__(self, store: SqliteStore) -> None:
        self.asked = 0
        self.away = False
        self._store = store

    def __getattr__(self, name: str) -> Callable[..., object]:
        self.asked += 1
        if self.away:
            raise StoreUnavailableError
        found: Callable[..., object] = getattr(self._store, name)
        return found


# Other replicas ------------------------------------------------------------------------------------------------------


async def test_another_replicas_end_of_a_task_makes_a_watch_stale_by_its_task(world: World) -> None:
    watches = world.watching()
    task = await world.declares()
    await watches.observe(declared_event(task))
    await storm(world, task, 4)
    watches.stale_by_task(TaskId("task-9"))
    assert not await watches.look_again()
    watches.stale_by_task(task.task_id)
    assert [one.rule for one in await watches.look_again()] == ["refused-again"]


# Restarts ------------------------------------------------------------------------------------------------------


async def test_what_was_durable_and_not_found_at_a_crash_is_found_by_the_start(world: World) -> None:
    task = await world.declares()
    before = world.watching()
    assert not await before.observe(declared_event(task))
    for _ in range(3):
        assert not await before.observe(await world.acts(task, denied=True))
    events = await storm(world, task, 1)
    started = world.watching()
    found = [one async for some in started.look_at_all() for one in some]
    assert [one.rule for one in found] == ["refused-again"]
    assert events[-1].decided is not None
    assert found[0].evidence[-1] == events[-1].decided.action_id
    assert ids(list(await before.observe(events[-1]))) == ids(found)


async def test_a_start_looks_at_every_instance_that_works(world: World) -> None:
    owners = [
        SpiffeId(trust_domain=OWNER.trust_domain, path=f"/agent/invoice-bot/{number}") for number in range(7)
    ]
    for number, owner in enumerate(owners):
        await storm(world, await world.declares(f"task-{number}", owner), 4)
    watches = world.watching()
    found = [one async for some in watches.look_at_all() for one in some]
    assert {one.instance for one in found} == set(owners)
    assert watches.watches == len(owners)


async def test_what_is_recorded_is_not_told_again_but_at_its_own_event(world: World) -> None:
    task = await world.declares()
    events = await storm(world, task, 4)
    (found,) = await world.watching().observe(events[-1])
    await record(world, found)
    assert [one async for one in world.watching().look_at_all()] == []
    assert await world.watching().observe(events[-1]) == (found,)
    assert not await world.watching().observe(await world.acts(task))


# Gaps -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["gap", "out of order"])
async def test_where_something_is_missing_it_is_read(world: World, missing: str) -> None:
    watches = world.watching()
    task, other = await world.declares("task-1"), await world.declares("task-2")
    for one in (task, other):
        await watches.observe(declared_event(one))
    events = await storm(world, task, 4)
    if missing == "gap":
        found = await watches.observe(events[-1])
    else:
        later = await world.ends(other)
        for event in (*events[:-1], later):
            assert not await watches.observe(event)
        found = await watches.observe(events[-1])
    assert "refused-again" in {one.rule for one in found}


async def test_a_finding_of_a_round_is_told_at_its_event_as_well(world: World) -> None:
    watches = world.watching()
    task = await world.declares()
    await watches.observe(declared_event(task))
    events = await storm(world, task, 4)
    watches.stale(OWNER)
    found = await watches.look_again()
    await record(world, found[0])
    assert await watches.observe(events[-1]) == found
    assert not await watches.observe(events[0])


async def test_canaries_of_the_catalog_are_seen_live_and_again(world: World) -> None:
    task = await world.declares()
    live = world.watching()
    await live.observe(declared_event(task))
    found = await live.observe(await world.acts(task, "read-vault"))
    assert [one.rule for one in found] == ["touched"]
    assert [one async for one in world.watching().look_at_all()] == [found]


async def test_calls_for_an_ended_task_count_over_a_new_watch(world: World) -> None:
    task = await world.declares()
    watches = world.watching()
    await watches.observe(declared_event(task))
    await watches.observe(await world.ends(task, EndCause.DEADLINE))
    rules = []
    for number in range(4):
        at = world.clock.now() + timedelta(seconds=10 + number)
        sighting = Sighting(at=at, address="10.0.0.1", svid_sha256="aa")
        rules += [one.rule for one in await watches.observe(called_event(OWNER, sighting, task))]
        watches.stale(OWNER)
        await watches.look_again()
    assert rules == ["outside-task"]


async def test_an_instance_that_was_reported_gone_and_goes_on_is_found_after_a_restart(world: World) -> None:
    task = await world.declares()
    await world.ends(task, EndCause.INSTANCE_GONE)
    world.clock.advance(seconds=10)
    again = await world.declares("task-2")
    found = await world.watching().observe(declared_event(again))
    assert [one.rule for one in found] == ["after-instance"]


# What goes wrong -----------------------------------------------------------------------------------------------


async def test_a_store_that_is_away_is_an_error_and_the_round_makes_it_good(world: World) -> None:
    counted = Counted(world.store)
    watches = WatchInstances(store=counted, catalogs=world.catalogs, clock=world.clock)  # type: ignore[arg-type]
    task = await world.declares()
    events = await storm(world, task, 4)
    counted.away = True
    with pytest.raises(StoreUnavailableError):
        await watches.observe(events[-1])
    with pytest.raises(StoreUnavailableError):
        await watches.look_again()
    counted.away = False
    assert [one.rule for one in await watches.look_again()] == ["refused-again"]


async def test_a_detector_that_fails_leaves_no_half_watch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    watches = world.watching()
    task = await world.declares()
    await watches.observe(declared_event(task))
    events = await storm(world, task, 4)
    with monkeypatch.context() as broken:
        broken.setattr(Watch, "observe", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await watches.observe(events[0])
    assert watches.watches == 0
    assert [one.rule for one in await watches.look_again()] == ["refused-again"]


# What was learned ----------------------------------------------------------------------------------------------


async def test_what_was_learned_judges_watches_made_from_then_on(world: World) -> None:
    owners = [OWNER, SpiffeId(trust_domain=OWNER.trust_domain, path="/agent/invoice-bot/other")]
    watches = world.watching()
    await watches.observe(declared_event(await world.declares("task-1")))
    learned = model_of("read-orders", tasks=60, task_type="reconcile")
    await world.store.commit([SaveModel(version=1, data=written(learned))])
    world.clock.advance(minutes=1)
    await watches.observe(declared_event(await world.declares("task-2", owners[1])))
    kept = {one: watches._held[one].model for one in owners}
    assert kept[owners[0]].of("reconcile").tasks == 0
    assert kept[owners[1]].of("reconcile").tasks == 60
