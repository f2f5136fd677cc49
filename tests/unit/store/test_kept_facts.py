"""What is kept of tasks is what a read would give, after whatever was committed."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.adapters.store.kept_facts import KeptFacts
from broker.adapters.store.sqlite import SqliteStore
from broker.domain.actions import Action
from broker.domain.changes import (
    AddMessage,
    AnswerFinding,
    Append,
    Change,
    ConfirmRevoked,
    CreateLease,
    CreateTask,
    DetachTask,
    EndTask,
    ExtendLease,
    FinishTask,
    HoldTask,
    IssueLease,
    LiftHold,
    MarkFinding,
    RecordAction,
    RecordFinding,
    RevokeLease,
    SaveModel,
    SeeInstance,
    TouchTask,
    VoidLease,
)
from broker.domain.findings import Hold, Mark
from broker.domain.identifiers import ActionId, LeaseId, TaskId, VaultLeaseId
from broker.domain.lease import RevokeCause
from broker.domain.task import EndCause, TaskEnd
from broker.ports.store import ConflictError
from tests.contract.finding import a_finding, a_message, a_sighting
from tests.fakes.samples import OTHER, OWNER, a_lease, a_task, an_action, an_event
from tests.fakes.system import NOON
from tests.unit.store.files import url

TASKS = {TaskId("task-one"): OWNER, TaskId("task-two"): OWNER, TaskId("task-three"): OTHER}
LIMIT = 3


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore.open(url(tmp_path / "broker.db"))
    await store.commit([Append(event=an_event())])  # without a chain nothing is ever kept
    for task_id, owner in TASKS.items():
        await store.commit([CreateTask(task=a_task(task_id, owner=owner), max_live=9)])
    yield store
    await store.close()


tasks = st.sampled_from(list(TASKS))
leases = st.sampled_from([LeaseId("lease-one"), LeaseId("lease-two")])
steps = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "action",
                "action",
                "denial",
                "touch",
                "detach",
                "lease",
                "issue",
                "extend",
                "void",
                "revoke",
                "confirm",
                "end",
                "finish",
                "hold",
                "freeze",
                "lift",
                "find",
                "find",
                "find about none",
                "mark false",
                "confirm",
                "answer",
                "learn",
                "see",
                "tell",
                "audit",
            ]
        ),
        tasks,
        leases,
        st.integers(0, 40),
    ),
    max_size=25,
)


def change(  # noqa: C901, PLR0911, PLR0912 - one arm a change
    what: str, task_id: TaskId, lease_id: LeaseId, position: int, at: timedelta
) -> list[Change]:
    now = NOON + at
    match what:
        case "action" | "denial":
            denied = what == "denial"
            action: Action = an_action(
                position,
                action_id=ActionId(f"{task_id}-{position}"),
                task_id=task_id,
                owner=TASKS[task_id],
                at=now,
                allowed=not denied,
                reason="POLICY_DENIED" if denied else "",
                sticks_until=now + timedelta(minutes=15) if denied else None,
            )
            return [RecordAction(action=action)]
        case "touch":
            return [TouchTask(task_id=task_id, heartbeat_due=now)]
        case "detach":
            return [DetachTask(task_id=task_id, heartbeat_due=now)]
        case "lease":
            return [
                CreateLease(
                    lease=a_lease(lease_id, task_id=task_id, idempotency_key=f"{lease_id}-{at}"), max_live=9
                )
            ]
        case "issue":
            return [
                IssueLease(
                    lease_id=lease_id,
                    vault_lease_id=VaultLeaseId("v"),
                    at=now,
                    expires_at=now,
                    renewable=True,
                )
            ]
        case "extend":
            return [ExtendLease(lease_id=lease_id, expires_at=now)]
        case "void":
            return [VoidLease(lease_id=lease_id, at=now)]
        case "revoke":
            return [RevokeLease(lease_id=lease_id, cause=RevokeCause.RELEASED, at=now)]
        case "confirm":
            return [ConfirmRevoked(lease_id=lease_id, at=now)]
        case "end":
            return [EndTask(task_id=task_id, end=TaskEnd(cause=EndCause.DEADLINE, at=now))]
        case "finish":
            return [FinishTask(task_id=task_id, at=now)]
        case "hold" | "freeze":
            return [HoldTask(task_id=task_id, hold=Hold.FROZEN if what == "freeze" else Hold.APPROVAL)]
        case "lift":
            return [LiftHold(task_id=task_id)]
        case "find":
            # One of two of each task, so that most of the time there is one to be marked.
            return [RecordFinding(finding=a_finding(lease_id, task_id=task_id))]
        case "find about none":
            return [RecordFinding(finding=a_finding(lease_id, task_id=None))]
        case "mark false" | "confirm":
            finding_id = a_finding(lease_id, task_id=task_id).finding_id
            mark = Mark.FALSE if what == "mark false" else Mark.CONFIRMED
            return [MarkFinding(finding_id=finding_id, mark=mark, by="ann")]
        case "answer":
            return [AnswerFinding(finding_id=a_finding(lease_id, task_id=task_id).finding_id, at=now)]
        case "learn":
            return [SaveModel(version=1, data="{}")]
        case "see":
            return [SeeInstance(instance=TASKS[task_id], sighting=a_sighting(1))]
        case "tell":
            return [AddMessage(message=a_message(f"{position}-{at}"))]
        case _:
            return [Append(event=an_event())]


@settings(max_examples=60, deadline=None)
@given(steps)
def test_it_is_what_a_read_would_give(taken: list[tuple[str, TaskId, LeaseId, int]]) -> None:
    async def walk() -> None:
        with tempfile.TemporaryDirectory() as folder:
            store = SqliteStore.open(url(Path(folder) / "broker.db"))
            try:
                await store.commit([Append(event=an_event())])  # without a chain nothing is ever kept
                for task_id, owner in TASKS.items():
                    await store.commit([CreateTask(task=a_task(task_id, owner=owner), max_live=9)])
                for minutes, (what, task_id, lease_id, _) in enumerate(taken):
                    at = timedelta(minutes=minutes)
                    length = (await store.action_facts(task_id, NOON + at, LIMIT)).length
                    with suppress(ConflictError):
                        await store.commit(change(what, task_id, lease_id, length + 1, at))
                    for one in TASKS:
                        kept = await store.action_facts(one, NOON + at, LIMIT)
                        read = await super(SqliteStore, store).action_facts(one, NOON + at, LIMIT)
                        assert kept == read, what
            finally:
                await store.close()

    asyncio.run(walk())


async def test_what_is_not_understood_drops_everything(store: SqliteStore) -> None:
    kept = KeptFacts()
    for task_id in TASKS:
        kept.keep(task_id, await store.action_facts(task_id, NOON, LIMIT), LIMIT)
    kept.heard([object()])  # type: ignore[list-item]
    assert [kept.of(task_id, NOON, LIMIT) for task_id in TASKS] == [None] * 3


async def test_a_refusal_that_sticks_is_known_to_every_task_of_its_instance(store: SqliteStore) -> None:
    first, second, other = TASKS
    for task_id in TASKS:
        await store.action_facts(task_id, NOON, LIMIT)
    (recorded,) = change("denial", first, LeaseId("x"), 1, timedelta())
    await store.commit([recorded])
    assert len((await store.action_facts(second, NOON, LIMIT)).denied) == 1
    assert (await store.action_facts(other, NOON, LIMIT)).denied == ()
    later = NOON + timedelta(minutes=16)
    assert (await store.action_facts(second, later, LIMIT)).denied == ()
    assert len((await store.action_facts(first, later, LIMIT)).denied) == 1, (
        "to its own task for as long as that lives"
    )


async def test_what_is_said_of_a_finding_is_known_at_once_and_what_is_not_about_tasks_drops_nothing(
    store: SqliteStore,
) -> None:
    first, second, _ = TASKS
    finding = a_finding(task_id=first)
    for task_id in TASKS:
        await store.action_facts(task_id, NOON, LIMIT)
    await store.commit([RecordFinding(finding=finding)])
    assert store._kept.of(first, NOON, LIMIT) is None
    assert store._kept.of(second, NOON, LIMIT) is not None
    assert (await store.action_facts(first, NOON, LIMIT)).open_anomalies == 1
    for what in ("answer", "learn", "see", "tell", "find about none"):
        await store.commit(change(what, first, LeaseId(""), 1, timedelta()))
        assert store._kept.of(first, NOON, LIMIT) is not None, what
    await store.commit(change("action", first, LeaseId("x"), 1, timedelta()))
    kept = store._kept.of(first, NOON, LIMIT)
    assert kept is not None
    assert (kept.length, kept.open_anomalies) == (1, 1)
    await store.commit([MarkFinding(finding_id=finding.finding_id, mark=Mark.FALSE, by="ann")])
    assert (await store.action_facts(first, NOON, LIMIT)).open_anomalies == 0


async def test_beside_another_process_nothing_is_kept(store: SqliteStore, tmp_path: Path) -> None:
    first = next(iter(TASKS))
    reader = SqliteStore.open(url(tmp_path / "broker.db"), read_only=True)
    try:
        assert (await reader.action_facts(first, NOON, LIMIT)).length == 0
        await store.commit(change("action", first, LeaseId("x"), 1, timedelta()))
        assert (await reader.action_facts(first, NOON, LIMIT)).length == 1
    finally:
        await reader.close()


async def test_a_task_that_does_not_exist_is_not_kept(store: SqliteStore) -> None:
    never = TaskId("task-never")
    assert (await store.action_facts(never, NOON, LIMIT)).task is None
    await store.commit([CreateTask(task=replace(a_task(never), idempotency_key=None), max_live=9)])
    assert (await store.action_facts(never, NOON, LIMIT)).task is not None
