"""Ending and completing: everything that a task holds is taken back, once it is durable that it will be."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from broker.domain.audit import AuditKind
from broker.domain.changes import EndTask, FinishTask
from broker.domain.errors import StoreUnavailableError
from broker.domain.identifiers import TaskId
from broker.domain.lease import LeaseState, RevokeCause
from broker.domain.task import EndCause, Outcome, Scope, Task, TaskState
from broker.usecases.revoke_leases import IN_DOUBT_GRACE
from broker.usecases.task_events import EventKind
from tests.fakes.issuer import Trouble
from tests.fakes.samples import OWNER, a_caller, an_end
from tests.unit.usecases.wiring import Broker, asked, until

CALLER = a_caller()


def store_unavailable() -> None:
    raise StoreUnavailableError


async def holding(broker: Broker, leases: int = 3) -> Task:
    """A task that holds so many credentials."""
    task = await broker.declared()
    for n in range(leases):
        await broker.acquired(task, key=f"key-{n}")
    return task


async def completed(broker: Broker, task: Task, *, time_left: timedelta | None = None) -> Task:
    return await broker.complete(a_caller(time_left=time_left), task.task_id, Outcome.SUCCEEDED, "done")


async def test_a_completed_task_holds_nothing_that_the_backend_accepts(broker: Broker) -> None:
    task = await holding(broker)
    broker.clock.advance(seconds=1)
    ended = await completed(broker, task)
    assert (ended.state, ended.ended_at) == (TaskState.ENDED, broker.clock.now())
    assert ended.end is not None
    assert (ended.end.cause, ended.end.outcome, ended.end.reason) == (
        EndCause.COMPLETED,
        Outcome.SUCCEEDED,
        "done",
    )
    assert broker.issuer.leases == {}
    assert broker.issuer.tokens == {}
    for lease in await broker.store.leases_of(task.task_id):
        assert (lease.state, lease.revoke_cause) == (LeaseState.REVOKED, RevokeCause.TASK_ENDED)


async def test_the_end_is_recorded_from_its_beginning_to_the_last_lease(broker: Broker) -> None:
    task = await holding(broker, 2)
    await completed(broker, task)
    events = [record.event for record in (await broker.records())[-4:]]
    assert [event.kind for event in events] == [
        AuditKind.TASK_ENDING,
        AuditKind.LEASE_REVOKED,
        AuditKind.LEASE_REVOKED,
        AuditKind.TASK_ENDED,
    ]
    assert (events[0].actor, events[0].request_id) == (str(OWNER), CALLER.request_id)
    assert events[0].facts == {
        "cause": "completed",
        "outcome": "succeeded",
        "reason": "done",
        **CALLER.peer.as_facts(),
    }
    assert events[-1].facts == {"leases": 2}


async def test_who_is_attached_hears_of_every_step(broker: Broker) -> None:
    task = await holding(broker, 1)
    with broker.events.listening(task.task_id) as events:
        await completed(broker, task)
        kinds = [event.kind for _ in range(events.qsize()) if (event := events.get_nowait()) is not None]
    assert kinds == [EventKind.TASK_ENDING, EventKind.LEASE_REVOKED, EventKind.TASK_ENDED]


async def test_a_task_that_never_held_anything_ends(broker: Broker) -> None:
    task = await broker.declared(scope=Scope(roles=frozenset()))
    assert (await completed(broker, task)).state is TaskState.ENDED
    assert broker.issuer.calls == []


async def test_completing_twice_keeps_the_first_end(broker: Broker) -> None:
    task = await holding(broker)
    first = await completed(broker, task)
    records = await broker.records()
    broker.clock.advance(seconds=1)
    again = await broker.complete(CALLER, task.task_id, Outcome.FAILED, "no")
    assert again == first
    assert await broker.records() == records


async def test_two_that_complete_at_once_get_the_same_answer(broker: Broker) -> None:
    task = await holding(broker)
    first, second = await asyncio.gather(completed(broker, task), completed(broker, task))
    assert first == second
    assert first.state is TaskState.ENDED
    assert broker.issuer.count("revoke") == 3
    assert (await broker.kinds()).count(AuditKind.TASK_ENDED) == 1


async def test_nothing_is_revoked_before_the_end_is_durable(broker: Broker) -> None:
    task = await holding(broker)
    broker.store.before(EndTask, store_unavailable)
    with pytest.raises(StoreUnavailableError):
        await completed(broker, task)
    assert await broker.task(task.task_id) == task
    assert broker.issuer.count("revoke") == 0
    assert len(broker.issuer.leases) == 3


async def test_while_the_backend_is_away_the_task_is_said_to_be_ending(broker: Broker) -> None:
    task = await holding(broker)
    broker.issuer.away = True
    assert (await completed(broker, task)).state is TaskState.ENDING
    leases = await broker.store.leases_of(task.task_id)
    assert [lease.state for lease in leases] == [LeaseState.REVOKING] * 3
    broker.issuer.away = False
    assert (await completed(broker, task)).state is TaskState.ENDED
    assert broker.issuer.leases == {}


async def test_a_token_that_cannot_be_revoked_keeps_the_task_ending(broker: Broker) -> None:
    task = await broker.declared()
    broker.issuer.away = True
    assert (await completed(broker, task)).state is TaskState.ENDING
    broker.issuer.away = False
    await broker.watch.retry()
    assert (await broker.task(task.task_id)).state is TaskState.ENDED
    assert broker.issuer.tokens == {}


async def test_a_finish_that_is_not_durable_is_done_by_the_sweep(broker: Broker) -> None:
    task = await holding(broker)
    broker.store.before(FinishTask, store_unavailable)
    assert (await completed(broker, task)).state is TaskState.ENDING
    assert broker.issuer.leases == {}
    await broker.watch.retry()
    assert (await broker.task(task.task_id)).state is TaskState.ENDED


async def test_an_impatient_caller_is_told_ending_and_the_work_goes_on(broker: Broker) -> None:
    task = await holding(broker)
    with broker.issuer.holding("revoke") as hold:
        answer = await completed(broker, task, time_left=timedelta(milliseconds=20))
        assert answer.state is TaskState.ENDING
        hold.let_go.set()
        await broker.complete.drain()
    assert (await broker.task(task.task_id)).state is TaskState.ENDED


async def test_a_caller_that_goes_away_does_not_stop_the_end(broker: Broker) -> None:
    task = await holding(broker)
    with broker.issuer.holding("revoke") as hold:
        work = asyncio.create_task(completed(broker, task))
        await until(hold.entered)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        hold.let_go.set()
        await broker.complete.drain()
    assert (await broker.task(task.task_id)).state is TaskState.ENDED


async def test_leases_are_revoked_at_the_same_time(broker: Broker) -> None:
    task = await holding(broker)
    with broker.issuer.holding("revoke") as hold:
        work = asyncio.create_task(completed(broker, task))
        await asked(broker.issuer, "revoke", 2)
        hold.let_go.set()
        await work


async def test_a_task_with_a_doubtful_lease_ends_when_the_doubt_can_be_ended(broker: Broker) -> None:
    task = await holding(broker, 1)
    broker.issuer.troubles.append(Trouble.DONE_IN_DOUBT)
    with pytest.raises(Exception, match="credential backend"):
        await broker.acquired(task, key="doubtful")
    assert (await completed(broker, task)).state is TaskState.ENDING
    broker.clock.advance(seconds=IN_DOUBT_GRACE.total_seconds())
    assert (await completed(broker, task)).state is TaskState.ENDED
    assert broker.issuer.leases == {}
    assert broker.issuer.tokens == {}


async def test_a_task_that_ended_after_a_restart_loses_all_its_tokens(broker: Broker) -> None:
    task = await holding(broker, 1)
    again = broker.restarted()
    await again.acquired(task, key="after")
    assert len(broker.issuer.tokens) == 2
    assert (await completed(again, task)).state is TaskState.ENDED
    assert broker.issuer.tokens == {}
    assert broker.issuer.leases == {}


async def test_ending_what_is_unknown_is_nothing(broker: Broker) -> None:
    assert await broker.end_task(TaskId("task-never"), an_end(), actor="test") is None
    assert await broker.kinds() == []


async def test_another_tasks_credentials_stay(broker: Broker) -> None:
    task, other = await holding(broker, 1), await holding(broker, 1)
    await completed(broker, task)
    lease = await broker.only_lease(other)
    assert list(broker.issuer.leases) == [lease.vault_lease_id]
    assert list(broker.issuer.tokens) == [lease.accessor]


async def test_the_secrets_and_the_token_of_a_task_leave_the_memory_with_it(broker: Broker) -> None:
    task = await holding(broker)
    assert broker.acquire._under_key
    assert broker.grants._grants
    await broker.end_task.begin(task.task_id, an_end(), actor="test")
    assert not broker.acquire._under_key
    assert not broker.grants._grants
