"""What is usual is learned from tasks that completed with success and have nothing against them, and from no other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from broker.adapters.store.sqlite import SqliteStore
from broker.anomaly.learning import Model
from broker.domain.changes import EndTask, MarkFinding, RecordFinding, SaveModel
from broker.domain.errors import StoreUnavailableError
from broker.domain.findings import Answer, Found, Mark, RecordedFinding, Severity
from broker.domain.task import EndCause, Outcome, Task
from broker.usecases.learn_usual import RIPE, LearnUsual
from broker.usecases.usual import read
from tests.fakes.samples import an_end
from tests.unit.usecases.test_watch_instances import World


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    store = SqliteStore.open(f"sqlite:///{tmp_path / 'broker.db'}")
    yield World(store)
    await store.close()


def learning(world: World) -> LearnUsual:
    return LearnUsual(store=world.store, catalogs=world.catalogs, clock=world.clock)


async def worked(world: World, task_id: str = "task-1", *names: str, **end: Any) -> Task:
    """A task that did something and ended."""
    task = await world.declares(task_id)
    for name in names or ("read-orders",):
        await world.action(task, name)
    world.clock.advance(seconds=1)
    said = an_end(
        end.get("cause", EndCause.COMPLETED), world.clock.now(), outcome=end.get("outcome", Outcome.SUCCEEDED)
    )
    await world.store.commit([EndTask(task_id=task.task_id, end=said)])
    return task


async def learned(world: World) -> Model | None:
    stored = await world.store.model()
    return None if stored is None else read(stored.data)


async def taught(world: World, task: Task) -> bool:
    learn = learning(world)
    learn.ended(task.task_id)
    world.clock.advance(seconds=RIPE.total_seconds())
    await learn.write()
    return await world.store.model() is not None


async def found(world: World, task: Task) -> RecordedFinding:
    one = Found(
        detector="drift",
        rule="unlikely-order",
        severity=Severity.MEDIUM,
        confidence=0.8,
        instance=task.owner,
        task_id=task.task_id,
        at=task.created_at,
    )
    finding = RecordedFinding(
        finding_id=one.finding_id, found=one, found_at=world.clock.now(), answer=Answer.NOTE
    )
    await world.store.commit([RecordFinding(finding=finding)])
    return finding


async def test_a_completed_task_teaches_once_it_is_ripe(world: World) -> None:
    task, learn = await worked(world), learning(world)
    learn.ended(task.task_id)
    await learn.write()
    assert await learned(world) is None
    world.clock.advance(seconds=RIPE.total_seconds())
    for _ in range(2):
        await learn.write()
    model = await learned(world)
    assert model is not None
    assert model.of("reconcile").tasks == 1
    assert model.of("reconcile").share("name:read-orders") == 1


@pytest.mark.parametrize(
    "end",
    [
        {"outcome": Outcome.FAILED},
        {"outcome": Outcome.CANCELLED},
        {"outcome": None},
        *({"cause": cause, "outcome": None} for cause in EndCause if cause is not EndCause.COMPLETED),
    ],
)
async def test_what_ended_otherwise_teaches_nothing(world: World, end: dict[str, Any]) -> None:
    assert not await taught(world, await worked(world, "task-1", **end))


async def test_a_canary_teaches_nothing(world: World) -> None:
    assert not await taught(world, await worked(world, "task-1", "read-orders", "read-vault"))


@pytest.mark.parametrize(
    ("mark", "teaches"), [(Mark.NONE, False), (Mark.CONFIRMED, False), (Mark.FALSE, True)]
)
async def test_a_finding_that_stands_teaches_nothing(world: World, mark: Mark, teaches: bool) -> None:  # noqa: FBT001
    task = await worked(world)
    finding = await found(world, task)
    if mark is not Mark.NONE:
        await world.store.commit([MarkFinding(finding_id=finding.finding_id, mark=mark, by="ann")])
    assert await taught(world, task) is teaches


async def test_what_several_replicas_learn_adds_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = learning(world), learning(world)
    first, second = await worked(world, "task-1"), await worked(world, "task-2")
    one.ended(first.task_id)
    other.ended(second.task_id)
    world.clock.advance(seconds=RIPE.total_seconds())
    commit, raced = world.store.commit, False

    async def in_between(changes: Any) -> None:
        nonlocal raced
        if not raced and any(isinstance(change, SaveModel) for change in changes):
            raced = True
            await other.write()
        await commit(changes)

    monkeypatch.setattr(world.store, "commit", in_between)
    await one.write()
    model = await learned(world)
    assert model is not None
    assert model.of("reconcile").tasks == 2


async def test_lessons_wait_while_the_store_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    learn = learning(world)
    learn.ended((await worked(world)).task_id)
    world.clock.advance(seconds=RIPE.total_seconds())

    async def away(_changes: Any) -> None:
        raise StoreUnavailableError

    with monkeypatch.context() as broken:
        broken.setattr(world.store, "commit", away)
        with pytest.raises(StoreUnavailableError):
            await learn.write()
    await learn.write()
    model = await learned(world)
    assert model is not None
    assert model.of("reconcile").tasks == 1


async def test_what_cannot_be_read_is_not_written_over(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.store.commit([SaveModel(version=1, data="{")])
    assert await taught(world, await worked(world))
    stored = await world.store.model()
    assert stored is not None
    assert stored.data == "{"
    assert "nothing more is learned" in caplog.text
