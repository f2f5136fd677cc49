"""Each step is seen before anything that it allows leaves, whichever replica makes it, whatever crashes in between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from broker.adapters.store.sqlite import SqliteStore
from broker.anomaly.events import Event
from broker.anomaly.findings import Finding
from broker.domain.audit import AuditKind
from broker.domain.changes import LiftHold
from broker.domain.errors import (
    BrokerError,
    InstanceQuarantinedError,
    StoreUnavailableError,
    TaskFrozenError,
    TaskNotActiveError,
    TaskOnHoldError,
)
from broker.domain.findings import Answer
from broker.domain.lease import LeaseState
from broker.domain.task import EndCause, Task, TaskEnd, TaskState
from broker.usecases.caller import Caller
from tests.fakes.samples import OTHER, OWNER, a_caller
from tests.unit.usecases.test_quarantine import ANN
from tests.unit.usecases.watching import SCOPE, a_broker_over, called, declared, opened
from tests.unit.usecases.wiring import Broker, a_declaration

STOPS = [
    (Answer.APPROVE, TaskOnHoldError),
    (Answer.FREEZE, TaskFrozenError),
    (Answer.END_TASK, TaskNotActiveError),
    (Answer.QUARANTINE, InstanceQuarantinedError),
]
GOES_ON = [Answer.NOTE, Answer.WARN]


class Crash(BaseException):
    """The process is gone."""


def crash() -> None:
    raise Crash


class Broken:
    """Watches that fail."""

    def __init__(self) -> None:
        self.marked: list[object] = []

    async def observe(self, event: Event) -> tuple[Finding, ...]:
        message = f"no watch takes {event.kind}"
        raise ValueError(message)

    def missed(self, instance: object) -> None:
        self.marked.append(instance)

    async def look_again(self) -> tuple[Finding, ...]:
        return ()

    async def look_at_all(self) -> AsyncIterator[tuple[Finding, ...]]:
        yield ()


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = opened(tmp_path)
    yield store
    await store.close()


@pytest.mark.parametrize(("answer", "refusal"), STOPS)
async def test_the_call_at_which_it_is_found_gets_no_permit(
    store: SqliteStore, answer: Answer, refusal: type[BrokerError]
) -> None:
    broker = a_broker_over(store, answer=answer)
    task = await declared(broker)
    assert (await called(broker, task)).decision.allowed
    with pytest.raises(refusal) as refused:
        await called(broker, task, "spare-keys")
    assert type(refused.value) is refusal
    with pytest.raises(BrokerError):
        await called(broker, task)
    (recorded,) = await store.findings_of_task(task.task_id, 10)
    assert (recorded.found.detector, recorded.answer) == ("canary", answer)


@pytest.mark.parametrize("answer", GOES_ON)
async def test_what_does_not_stop_the_task_warns_at_most(store: SqliteStore, answer: Answer) -> None:
    broker = a_broker_over(store, answer=answer)
    task = await declared(broker)
    found = await called(broker, task, "spare-keys")
    assert found.decision.allowed
    assert bool(found.warnings) is (answer is Answer.WARN)
    acquired = await broker.acquired(task, "spare")
    assert bool(acquired.warnings) is (answer is Answer.WARN)
    assert (await called(broker, task)).warnings == ()


@pytest.mark.parametrize(("answer", "refusal"), STOPS)
async def test_nothing_is_issued_where_the_acquisition_itself_is_found(
    store: SqliteStore, answer: Answer, refusal: type[BrokerError]
) -> None:
    broker = a_broker_over(store, answer=answer)
    task = await declared(broker)
    with pytest.raises(refusal) as refused:
        await broker.acquired(task, "spare")
    assert type(refused.value) is refusal
    assert broker.issuer.count("issue") == 0
    assert (await broker.only_lease(task)).state is LeaseState.VOID
    assert (await broker.kinds()).count(AuditKind.CREDENTIAL_VOIDED) == 1
    assert not broker.acquire.being_made
    await broker.answers.drain()
    (recorded,) = await store.findings_of_task(task.task_id, 10)
    assert recorded.answered_at is not None


@pytest.mark.parametrize(("answer", "refusal"), STOPS)
async def test_others_of_the_class_go_on(
    store: SqliteStore, answer: Answer, refusal: type[BrokerError]
) -> None:
    broker = a_broker_over(store, answer=answer)
    task = await declared(broker)
    other = await broker.declare(a_caller(OTHER), a_declaration(scope=SCOPE))
    await broker.acquired(other)
    with pytest.raises(refusal):
        await called(broker, task, "spare-keys")
    await broker.answers.drain()
    assert (await called(broker, other)).decision.allowed
    assert (await broker.only_lease(other)).state is LeaseState.LIVE


async def test_a_call_that_nobody_saw_is_seen_when_it_is_asked_again(store: SqliteStore) -> None:
    broker = a_broker_over(store, answer=Answer.END_TASK)
    task = await declared(broker)
    broker.steps.at("authorize.durable", crash)
    with pytest.raises(Crash):
        await called(broker, task, "spare-keys", key="once")
    other = broker.restarted().watching()
    with pytest.raises(TaskNotActiveError):
        await called(other, task, "spare-keys", key="once")
    assert len(await store.findings_of_task(task.task_id, 10)) == 1


async def test_what_a_crash_left_unseen_is_found_at_the_start(store: SqliteStore) -> None:
    broker = a_broker_over(store, answer=Answer.END_TASK)
    task = await declared(broker)
    await broker.acquired(task)
    broker.steps.at("authorize.durable", crash)
    with pytest.raises(Crash):
        await called(broker, task, "spare-keys")
    other = broker.restarted().watching()
    assert await other.notice.look_at_all() == 1
    await other.answers.drain()
    assert (await other.task(task.task_id)).state is TaskState.ENDED
    assert not other.issuer.leases
    assert await other.notice.look_at_all() == 0


async def test_what_could_not_be_answered_is_answered_by_the_next_round(store: SqliteStore) -> None:
    broker = a_broker_over(store, answer=Answer.FREEZE)
    task = await declared(broker)
    commit = store.commit
    broker.steps.at("authorize.durable", lambda: setattr(store, "commit", _unavailable))
    with pytest.raises(StoreUnavailableError):
        await called(broker, task, "spare-keys")
    setattr(store, "commit", commit)  # noqa: B010 - a method, for a while another one
    assert (await broker.task(task.task_id)).hold is None
    assert await broker.notice.look_again() == 1
    with pytest.raises(TaskFrozenError):
        await called(broker, task)
    assert await broker.notice.look_again() == 0


async def test_two_replicas_that_see_halves_find_what_one_finds(store: SqliteStore, tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    alone = opened(tmp_path / "alone")
    one = a_broker_over(alone, answer=Answer.NOTE)
    first = a_broker_over(store, answer=Answer.NOTE)
    second = first.restarted().watching()
    task_of_one, task = await declared(one), await declared(first)
    for turn in range(40):
        await _try(one, task_of_one, turn)
        await _try((first, second)[turn % 2], task, turn)
    await first.notice.look_again()
    expected = await alone.findings_of_task(task_of_one.task_id, 100)
    found = await store.findings_of_task(task.task_id, 100)
    await alone.close()
    assert expected
    assert [(e.found.detector, e.found.rule) for e in expected] == [
        (f.found.detector, f.found.rule) for f in found
    ]


async def test_a_watch_that_fails_lets_nothing_pass(store: SqliteStore) -> None:
    broker = a_broker_over(store, answer=Answer.END_TASK)
    task = await declared(broker)
    broken = Broken()
    broker.notice._watches = broken
    with pytest.raises(StoreUnavailableError):
        await called(broker, task)
    with pytest.raises(StoreUnavailableError):
        await broker.acquired(task)
    with pytest.raises(StoreUnavailableError):
        await broker.declared()
    assert broker.issuer.count("issue") == 0
    assert set(broken.marked) == {OWNER}


async def test_a_watch_that_fails_keeps_no_task_from_ending(store: SqliteStore) -> None:
    broker = a_broker_over(store, answer=Answer.END_TASK)
    task = await declared(broker)
    await broker.acquired(task)
    broker.notice._watches = Broken()
    end = TaskEnd(cause=EndCause.COMPLETED, at=broker.clock.now())
    ended = await broker.end_task(task.task_id, end, actor=str(OWNER))
    assert ended is not None
    assert ended.state is TaskState.ENDED
    assert not broker.issuer.leases


async def test_an_instance_that_goes_on_after_its_reported_end_is_quarantined(store: SqliteStore) -> None:
    broker = a_broker_over(store)
    await declared(broker)
    await broker.report_ended(ANN, OWNER)
    broker.clock.advance(seconds=5)
    with pytest.raises(InstanceQuarantinedError):
        await declared(broker)
    assert broker.quarantine.holds(OWNER)


async def test_one_svid_from_two_places_is_recorded_and_quarantined_where_a_rule_says_so(
    store: SqliteStore,
) -> None:
    broker = a_broker_over(store, answer=Answer.QUARANTINE)
    peer = a_caller(OWNER).peer
    for address in ("10.0.0.1", "10.0.0.1", "10.0.0.2"):
        broker.clock.advance(seconds=1)
        broker.see_instances(peer, address)
    await broker.see_instances.drain()
    assert [one.address for one in await store.sightings_of(OWNER)] == ["10.0.0.1", "10.0.0.2"]
    assert broker.quarantine.holds(OWNER)
    assert not broker.quarantine.holds(OTHER)


async def test_another_address_alone_ends_nothing_by_default(store: SqliteStore) -> None:
    broker = a_broker_over(store)
    task = await declared(broker)
    for address in ("10.0.0.1", "10.0.0.2", "10.0.0.1"):
        broker.clock.advance(seconds=1)
        broker.see_instances(a_caller(OWNER).peer, address)
    await broker.see_instances.drain()
    found = await store.findings_after(0, 10)
    assert [(one.found.rule, one.answer) for one in found] == [("two-places", Answer.WARN)]
    assert not broker.quarantine.holds(OWNER)
    again = await store.task(task.task_id)
    assert again is not None
    assert again.state is TaskState.ACTIVE


async def test_too_much_to_notice_costs_the_oldest_and_no_call(store: SqliteStore) -> None:
    broker = a_broker_over(store, answer=Answer.NOTE)
    peer = a_caller(OWNER).peer
    for number in range(1_010):
        broker.see_instances(peer, f"10.0.{number // 250}.{number % 250}")
    assert broker.see_instances.dropped == 10


async def test_calls_for_a_task_that_was_ended_on_purpose_are_found(store: SqliteStore) -> None:
    broker = a_broker_over(store, answer=Answer.NOTE)
    task = await declared(broker)
    end = TaskEnd(cause=EndCause.COMPLETED, at=broker.clock.now())
    await broker.end_task(task.task_id, end, actor=str(OWNER))
    broker.clock.advance(minutes=5)
    await broker.noticed.too_late(_from("10.0.0.1"), task.task_id)
    rules = [one.found.rule for one in await store.findings_of_task(task.task_id, 10)]
    assert rules == ["outside-task"]


async def test_calls_for_a_task_of_another_say_nothing_about_it(store: SqliteStore) -> None:
    broker = a_broker_over(store, answer=Answer.NOTE)
    task = await broker.declare(a_caller(OTHER), a_declaration(scope=SCOPE))
    end = TaskEnd(cause=EndCause.COMPLETED, at=broker.clock.now())
    await broker.end_task(task.task_id, end, actor=str(OTHER))
    broker.clock.advance(minutes=5)
    await broker.noticed.too_late(_from("10.0.0.1"), task.task_id)
    assert await store.findings_of_task(task.task_id, 10) == ()


async def test_what_is_found_when_an_operator_has_lifted_the_hold_stops_nothing_again(
    store: SqliteStore,
) -> None:
    broker = a_broker_over(store, answer=Answer.APPROVE)
    task = await declared(broker)
    with pytest.raises(TaskOnHoldError):
        await called(broker, task, "spare-keys")
    await store.commit([LiftHold(task_id=task.task_id)])
    broker.watches.stale(OWNER)
    assert (await called(broker, task)).decision.allowed
    assert await broker.notice.look_again() == 0


async def _unavailable(_changes: object) -> None:
    raise StoreUnavailableError


async def _try(broker: Broker, task: Task, turn: int) -> None:
    """Something that is refused; the same times and words in every world."""
    with suppress(BrokerError):
        await called(broker, task, "read-orders" if turn % 4 else "not-there", order_id=str(turn))


def _from(address: str) -> Caller:
    return replace(a_caller(OWNER), address=address)
