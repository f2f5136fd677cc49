"""What is usual is learned from what went well, and from nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio

from broker.adapters.store.sqlite import SqliteStore
from broker.anomaly.learning import Model
from broker.domain.changes import MarkFinding, SaveModel
from broker.domain.errors import BrokerError, StoreUnavailableError
from broker.domain.findings import Answer, Mark
from broker.domain.task import EndCause, Outcome, Task, TaskEnd
from broker.usecases.learn_usual import MOST_NOTED, RIPE, LearnUsual
from broker.usecases.usual import KEPT, Usual, read
from tests.fakes.samples import OWNER, a_caller
from tests.unit.usecases.watching import a_broker_over, called, declared, opened
from tests.unit.usecases.wiring import Broker

Ending = Callable[[Broker, Task], Awaitable[None]]


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = opened(tmp_path)
    yield store
    await store.close()


def a_learner(broker: Broker) -> LearnUsual:
    learner = LearnUsual(store=broker.store, catalogs=broker.catalogs, clock=broker.clock)
    broker.end_task.learned = learner.ended
    return learner


async def model_of(broker: Broker) -> Model | None:
    stored = await broker.store.model()
    return None if stored is None else read(stored.data)


async def completed(broker: Broker, task: Task, outcome: Outcome = Outcome.SUCCEEDED) -> None:
    await broker.complete(a_caller(task.owner), task.task_id, outcome, "")


async def ripened(broker: Broker, learner: LearnUsual) -> None:
    broker.clock.advance(seconds=RIPE.total_seconds())
    await learner.write()


async def test_a_task_that_went_well_teaches_what_it_did(store: SqliteStore) -> None:
    broker = a_broker_over(store, answer=Answer.NOTE)
    learner = a_learner(broker)
    for task in [await declared(broker) for _ in range(3)]:
        await called(broker, task)
        await broker.acquired(task)
        await completed(broker, task)
    assert await model_of(broker) is None
    await learner.write()
    assert await model_of(broker) is None, "what is found late would come too late"
    await ripened(broker, learner)
    model = await model_of(broker)
    assert model is not None
    learned = model.of("reconcile")
    assert learned.tasks == 3
    assert learned.share("name:read-orders") == learned.share("name:orders") == 1.0
    await ripened(broker, learner)
    assert (await store.model()).version == 1, "nothing new is nothing to write"  # type: ignore[union-attr]


async def _touched_a_canary_marked_false(broker: Broker, task: Task) -> None:
    await called(broker, task, "spare-keys")
    for one in await broker.store.findings_of_task(task.task_id, 10):
        change = MarkFinding(finding_id=one.finding_id, mark=Mark.FALSE, by="ann")
        await broker.store.commit([change])
    await completed(broker, task)


async def _with_a_finding_that_stands(broker: Broker, task: Task) -> None:
    for turn in range(30):
        with suppress(BrokerError):
            await called(broker, task, "not-there", number=turn)
    assert await broker.store.findings_of_task(task.task_id, 10)
    await completed(broker, task)


async def _that_failed(broker: Broker, task: Task) -> None:
    await completed(broker, task, Outcome.FAILED)


async def _that_was_revoked(broker: Broker, task: Task) -> None:
    end = TaskEnd(cause=EndCause.REVOKED, at=broker.clock.now(), outcome=Outcome.SUCCEEDED)
    await broker.end_task(task.task_id, end, actor=str(OWNER))


@pytest.mark.parametrize(
    "ending",
    [_touched_a_canary_marked_false, _with_a_finding_that_stands, _that_failed, _that_was_revoked],
)
async def test_nothing_else_teaches_anything(store: SqliteStore, ending: Ending) -> None:
    broker = a_broker_over(store, answer=Answer.NOTE)
    learner = a_learner(broker)
    task = await declared(broker)
    await called(broker, task)
    await ending(broker, task)
    await ripened(broker, learner)
    assert await model_of(broker) is None


async def test_a_finding_that_was_marked_false_does_not_count(store: SqliteStore) -> None:
    broker = a_broker_over(store, answer=Answer.NOTE)
    learner = a_learner(broker)
    task = await declared(broker)
    await _with_a_finding_that_stands(broker, task)
    for one in await store.findings_of_task(task.task_id, 10):
        await store.commit([MarkFinding(finding_id=one.finding_id, mark=Mark.FALSE, by="ann")])
    await ripened(broker, learner)
    model = await model_of(broker)
    assert model is not None
    assert model.of(task.task_type).tasks == 1


async def test_what_two_replicas_learn_adds_up(store: SqliteStore) -> None:
    first = a_broker_over(store, answer=Answer.NOTE)
    second = first.restarted().watching()
    learners = [a_learner(first), a_learner(second)]
    for broker in (first, second):
        task = await declared(broker)
        await called(broker, task)
        await completed(broker, task)
    first.clock.advance(seconds=RIPE.total_seconds())
    commit, raced = store.commit, list[bool]()

    async def racing(changes: object) -> None:
        if not raced and any(isinstance(one, SaveModel) for one in changes):  # type: ignore[attr-defined]
            raced.append(True)
            await learners[1].write()  # the other one is faster
        await commit(changes)  # type: ignore[arg-type]

    store.commit = racing  # type: ignore[method-assign]
    await learners[0].write()
    model = await model_of(first)
    assert model is not None
    assert (model.of("reconcile").tasks, raced) == (2, [True])


async def test_what_could_not_be_written_is_written_by_the_next_round(store: SqliteStore) -> None:
    broker = a_broker_over(store, answer=Answer.NOTE)
    learner = a_learner(broker)
    task = await declared(broker)
    await completed(broker, task)
    commit = store.commit

    async def away(_changes: object) -> None:
        raise StoreUnavailableError

    store.commit = away  # type: ignore[method-assign, assignment]
    with pytest.raises(StoreUnavailableError):
        await ripened(broker, learner)
    store.commit = commit  # type: ignore[method-assign]
    await learner.write()
    model = await model_of(broker)
    assert model is not None
    assert model.of(task.task_type).tasks == 1


async def test_a_model_that_cannot_be_read_is_judged_by_as_nothing_and_not_written_over(
    store: SqliteStore,
) -> None:
    broker = a_broker_over(store, answer=Answer.NOTE)
    learner = a_learner(broker)
    await store.commit([SaveModel(version=1, data='{"version": 99}')])
    await completed(broker, await declared(broker))
    await ripened(broker, learner)
    stored = await store.model()
    assert stored is not None
    assert (stored.version, stored.data) == (1, '{"version": 99}')
    assert (await Usual(store, broker.clock).current()).types == {}


async def test_watches_are_judged_by_what_others_wrote_a_while_ago(store: SqliteStore) -> None:
    broker = a_broker_over(store, answer=Answer.NOTE)
    learner = a_learner(broker)
    usual = Usual(store, broker.clock)
    assert (await usual.current()).types == {}
    await completed(broker, await declared(broker))
    await ripened(broker, learner)
    broker.clock.advance(seconds=KEPT.total_seconds())
    now = await usual.current()
    assert set(now.types) == {"reconcile"}
    assert await usual.current() is now


async def test_what_waits_to_be_learned_is_bounded(store: SqliteStore) -> None:
    broker = a_broker_over(store, answer=Answer.NOTE)
    learner = a_learner(broker)
    for _ in range(MOST_NOTED + 10):
        learner.ended(broker.ids.task_id())
    assert len(learner._noted) == MOST_NOTED
