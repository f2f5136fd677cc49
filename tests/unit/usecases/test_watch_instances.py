"""Watches over instances: what is found is what one finds that sees everything, in order, whatever this process has missed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from broker.adapters.store.sqlite import SqliteStore
from broker.anomaly.events import Event, EventKind
from broker.anomaly.findings import Finding
from broker.anomaly.retries import Patience, RetryParameters
from broker.anomaly.watching import Watch, WatchParameters
from broker.domain.changes import SeeInstance
from broker.domain.errors import BrokerError, DenialClass, InstanceQuarantinedError, StoreUnavailableError
from broker.domain.findings import Answer, Hold
from broker.domain.sightings import Sighting
from broker.domain.spiffe import SpiffeId
from broker.domain.task import Outcome, Task
from broker.usecases.task_work import called_event, decided_event, declared_event
from broker.usecases.watch_instances import LATE, WatchInstances, found_of
from tests.fakes.samples import OTHER, OWNER, a_caller
from tests.unit.usecases.test_authorize_action import denying
from tests.unit.usecases.watching import SCOPE, a_broker_over, called, declared, opened
from tests.unit.usecases.wiring import Broker, a_declaration

THIRD = SpiffeId.parse("spiffe://example.test/agent/invoice-bot/third")


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = opened(tmp_path)
    yield store
    await store.close()


@pytest.fixture
def reads(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what is read of the store from here on."""
    asked: list[str] = []

    def counting(name: str) -> Callable[..., Awaitable[Any]]:
        real = getattr(store, name)

        def counted(*args: Any, **named: Any) -> Awaitable[Any]:
            asked.append(name)
            read: Awaitable[Any] = real(*args, **named)
            return read

        return counted

    for name in ("tasks_of", "actions_of", "sightings_of", "model", "finding_page"):
        monkeypatch.setattr(store, name, counting(name))
    return asked


async def done(broker: Broker, task: Task, tool: str = "read-orders") -> Event:
    """A call that nobody notices, as the event that it is."""
    found = await called(broker, task, tool)
    return decided_event(found.action, task, broker.catalogs.current())


def unwatched(store: SqliteStore) -> Broker:
    """A broker whose steps nobody notices: tests say what watches are told."""
    return a_broker_over(store, answer=Answer.NOTE).restarted()


def a_watcher(broker: Broker, parameters: WatchParameters | None = None, **changed: Any) -> WatchInstances:
    return WatchInstances(
        store=broker.store, catalogs=broker.catalogs, clock=broker.clock, parameters=parameters, **changed
    )


def rules(found: tuple[Finding, ...]) -> list[tuple[str, str]]:
    return [(one.detector.value, one.rule) for one in found]


async def test_what_follows_is_folded_without_a_read(store: SqliteStore, reads: list[str]) -> None:
    broker = unwatched(store)
    task = await declared(broker)
    watches = a_watcher(broker)
    await watches.observe(declared_event(task))
    events = [await done(broker, task) for _ in range(5)]
    spare = await done(broker, task, "spare-keys")
    reads.clear()
    for event in events:
        assert await watches.observe(event) == ()
    found = await watches.observe(spare)
    assert rules(found) == [("canary", "touched")]
    assert reads == []


async def test_a_gap_is_filled_before_anything_is_said(store: SqliteStore) -> None:
    broker = unwatched(store)
    task = await declared(broker)
    watches = a_watcher(broker)
    await watches.observe(declared_event(task))
    await done(broker, task, "spare-keys")  # elsewhere
    found = await watches.observe(await done(broker, task))
    assert rules(found) == [("canary", "touched")]


async def test_two_that_see_halves_find_what_one_finds_with_the_same_ids(store: SqliteStore) -> None:
    broker = unwatched(store)
    broker.policy.instead = denying("read-orders", denial_class=DenialClass.STRUCTURAL)
    task = await declared(broker)
    one, first, second = (a_watcher(broker) for _ in range(3))
    alone, halves = [], set()
    for watches in (one, first, second):
        await watches.observe(declared_event(task))
    for turn in range(30):
        event = await done(broker, task)
        alone += [found_of(found).finding_id for found in await one.observe(event)]
        half = (first, second)[turn % 2]
        halves |= {found_of(found).finding_id for found in await half.observe(event)}
    assert alone, "thirty refusals of the same are found by somebody who sees them all"
    assert halves == set(alone)


async def test_what_stands_in_no_single_replica_is_found_by_a_round(store: SqliteStore) -> None:
    broker = unwatched(store)
    task = await declared(broker)
    watches = a_watcher(broker)
    await watches.observe(declared_event(task))
    await done(broker, task, "spare-keys")  # elsewhere, and nothing follows
    assert await watches.look_again() == ()
    watches.stale(OWNER)
    assert rules(await watches.look_again()) == [("canary", "touched")]


async def test_events_at_once_are_folded_one_after_another(store: SqliteStore) -> None:
    broker = unwatched(store)
    task = await declared(broker)
    events = [await done(broker, task) for _ in range(8)]
    spare = await done(broker, task, "spare-keys")
    watches = a_watcher(broker)
    results = await asyncio.gather(
        *(watches.observe(event) for event in (declared_event(task), spare, *reversed(events)))
    )
    found = {found_of(one).finding_id for result in results for one in result}
    assert len(found) == 1
    assert await watches.observe(spare), "whoever asks about the step at which it was found is told again"


async def test_a_watch_that_is_let_go_comes_back_from_the_store(store: SqliteStore) -> None:
    broker = unwatched(store)
    watches = a_watcher(broker, most=2)
    tasks = {}
    for owner in (OWNER, OTHER, THIRD):
        tasks[owner] = await broker.declare(a_caller(owner), a_declaration(scope=SCOPE))
        broker.clock.advance(milliseconds=1)
        await watches.observe(declared_event(tasks[owner]))
    assert watches.watches == 2
    await done(broker, tasks[OWNER], "spare-keys")
    assert rules(await watches.observe(await done(broker, tasks[OWNER]))) == [("canary", "touched")]
    assert watches.watches == 2


async def test_what_is_held_is_bounded_whatever_an_instance_does(store: SqliteStore) -> None:
    broker = unwatched(store)
    task = await declared(broker)
    watches = a_watcher(broker)
    await watches.observe(declared_event(task))
    one = watches.most()
    for _ in range(70):
        await watches.observe(await done(broker, task))
    assert 0 < watches.size() <= watches.most() == one == Watch().most()
    await watches.observe(declared_event(await broker.declare(a_caller(OTHER), a_declaration(scope=SCOPE))))
    assert watches.most() == 2 * one


async def test_the_same_svid_from_two_replicas_in_two_places_is_found(store: SqliteStore) -> None:
    broker = unwatched(store)
    await declared(broker)
    here, there = a_watcher(broker), a_watcher(broker)
    found: tuple[Finding, ...] = ()
    for watches, address in ((here, "10.0.0.1"), (there, "10.0.0.2")):
        broker.clock.advance(seconds=1)
        sighting = Sighting(at=broker.clock.now(), address=address, svid_sha256="ab" * 32)
        await _seen(broker, sighting)
        found = await watches.observe(called_event(OWNER, sighting))
    assert rules(found) == [("identity-misuse", "two-places")]


async def test_what_a_round_finds_of_tasks_long_over_is_history(store: SqliteStore) -> None:
    broker = unwatched(store)
    task = await declared(broker)
    await done(broker, task, "spare-keys")
    await broker.complete(a_caller(), task.task_id, Outcome.SUCCEEDED, "")
    watches = a_watcher(broker)
    await watches.observe(declared_event(await declared(broker)))
    broker.clock.advance(seconds=LATE.total_seconds() + 60)
    watches.stale(OWNER)
    assert await watches.look_again() == ()
    recent = a_watcher(broker)
    other = await declared(broker)
    await done(broker, other, "spare-keys")
    recent.missed(OWNER)
    assert {one.task_id for one in await recent.look_again()} == {other.task_id}


async def test_a_past_that_was_judged_by_a_rule_is_not_judged_anew_by_other_parameters(
    store: SqliteStore,
) -> None:
    """What an operator has let go on is not stopped again because the broker was started with other parameters."""
    broker = a_broker_over(store, answer=Answer.FREEZE)
    broker.policy.instead = denying("read-orders", denial_class=DenialClass.STRUCTURAL)
    task = await declared(broker)
    for _ in range(30):
        with suppress(BrokerError):
            await called(broker, task)
    assert (await broker.task(task.task_id)).hold is Hold.FROZEN
    stricter = a_watcher(broker, _stricter())
    stricter.missed(OWNER)
    assert await stricter.look_again() == ()
    fresh = broker.restarted()
    fresh.policy.instead = broker.policy.instead
    other = await declared(fresh)
    for _ in range(4):
        await done(fresh, other)
    stricter.missed(OWNER)
    assert {one.task_id for one in await stricter.look_again()} == {other.task_id}


async def test_one_watch_that_fails_keeps_no_other_from_being_looked_at(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = unwatched(store)
    tasks = [
        await broker.declare(a_caller(owner), a_declaration(scope=SCOPE)) for owner in (OWNER, OTHER, THIRD)
    ]
    for task in tasks:
        await done(broker, task, "spare-keys")
    _fail_for(monkeypatch, OTHER)
    watches = a_watcher(broker)
    for owner in (OWNER, OTHER, THIRD):
        watches.missed(owner)
    assert {one.instance for one in await watches.look_again()} == {OWNER, THIRD}
    at_start = a_watcher(broker)
    found = [one async for some in at_start.look_at_all() for one in some]
    assert {one.instance for one in found} == {OWNER, THIRD}
    monkeypatch.undo()
    assert {one.instance for one in await watches.look_again()} == {OTHER}
    assert {one.instance for one in await at_start.look_again()} == {OTHER}


async def test_a_round_that_can_read_nothing_says_so_and_leaves_all_for_the_next(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = unwatched(store)
    await done(broker, await declared(broker), "spare-keys")
    watches = a_watcher(broker)
    watches.missed(OWNER)

    async def away(*_args: object, **_named: object) -> None:
        raise StoreUnavailableError

    monkeypatch.setattr(store, "tasks_of", away)
    with pytest.raises(StoreUnavailableError):
        await watches.look_again()
    monkeypatch.undo()
    assert rules(await watches.look_again()) == [("canary", "touched")]


async def test_a_call_whose_caller_went_away_after_the_commit_is_found_by_a_round(store: SqliteStore) -> None:
    broker = a_broker_over(store, answer=Answer.QUARANTINE)
    task = await declared(broker)
    commit = store.commit

    async def commit_and_go(changes: Any) -> None:
        await commit(changes)
        raise asyncio.CancelledError

    store.commit = commit_and_go  # type: ignore[method-assign]
    with pytest.raises(asyncio.CancelledError):
        await called(broker, task, "spare-keys")
    store.commit = commit  # type: ignore[method-assign]
    assert await broker.notice.look_again() == 1
    with pytest.raises(InstanceQuarantinedError):
        await declared(broker)


async def _seen(broker: Broker, sighting: Sighting) -> None:
    await broker.store.commit([SeeInstance(instance=OWNER, sighting=sighting)])


def _stricter() -> WatchParameters:
    parameters = RetryParameters()
    patience = replace(parameters.structural, level=2.5, in_all=3)
    assert isinstance(patience, Patience)
    return WatchParameters(retries=replace(parameters, structural=patience))


def _fail_for(monkeypatch: pytest.MonkeyPatch, instance: SpiffeId) -> None:
    observe = Watch.observe

    def failing(self: Watch, event: Event) -> tuple[Finding, ...]:
        if event.instance == instance and event.kind is EventKind.DECIDED:
            message = "a watch fails"
            raise ValueError(message)
        return observe(self, event)

    monkeypatch.setattr(Watch, "observe", failing)
