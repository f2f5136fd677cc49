"""What another replica did is known here, as far as this one has something in memory about it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from broker.domain.audit import AuditKind
from broker.domain.findings import Answer
from broker.domain.identifiers import TaskId
from broker.domain.task import EndCause, Outcome
from broker.ports.following import News
from broker.usecases.follow_changes import FollowChanges
from broker.usecases.task_events import EventKind, TaskEvent
from tests.contract.quarantining import INSTANCE
from tests.fakes.samples import OWNER, a_caller
from tests.fakes.store import FakeStore
from tests.unit.usecases.test_quarantine import ANN, impose
from tests.unit.usecases.watching import a_broker_over, called, declared
from tests.unit.usecases.wiring import Broker

CALLER = a_caller()


class Feed:
    """What others appended since this one looked last."""

    def __init__(self, broker: Broker) -> None:
        self._store = broker.store
        self._known = 0

        self.extended: list[TaskId] = []

    async def news(self) -> AsyncIterator[News]:
        records = await self._store.audit_records(self._known, 1_000_000)
        self._known = records[-1].sequence if records else self._known
        yield News(extended=tuple(self.extended))
        yield News(records=records)


class Two:
    """Two replicas over one store and one backend."""

    def __init__(self, one: Broker) -> None:
        self.one = one
        self.other = one.restarted()
        self.feed = Feed(one)
        self.follow = FollowChanges(
            feed=self.feed,
            store=one.store,
            events=one.events,
            grants=one.grants,
            acquire=one.acquire,
            quarantine=one.quarantine_instances,
            clock=one.clock,
            watches=one.watches,
        )


def drained(queue: asyncio.Queue[TaskEvent | None]) -> list[TaskEvent]:
    found = []
    while not queue.empty():
        event = queue.get_nowait()
        assert event is not None
        found.append(event)
    return found


async def test_whoever_is_attached_hears_of_the_tasks_end_and_its_leases(broker: Broker) -> None:
    two = Two(broker)
    task = await broker.declared()
    acquired = await broker.acquired(task)
    await two.follow()
    with broker.events.listening(task.task_id) as queue:
        broker.clock.advance(seconds=1)
        renewed = await two.other.renew.by_broker(acquired.lease)
        two.feed.extended = [task.task_id, TaskId("task-of-nobody-here")]
        await two.follow()
        await two.other.complete(CALLER, task.task_id, Outcome.SUCCEEDED, "")
        await two.follow()
        events = drained(queue)
    assert [event.kind for event in events] == [
        EventKind.LEASE_RENEWED,
        EventKind.TASK_ENDING,
        EventKind.LEASE_REVOKED,
        EventKind.TASK_ENDED,
    ]
    assert events[0].lease == renewed
    assert events[1].cause is EndCause.COMPLETED
    assert events[2].lease is not None
    assert events[2].lease.lease_id == acquired.lease.lease_id


async def test_what_is_told_is_not_counted_as_this_replicas_doing(broker: Broker) -> None:
    two = Two(broker)
    task = await broker.declared()
    heard: list[TaskEvent] = []
    broker.events.heard = heard.append
    await two.other.complete(CALLER, task.task_id, Outcome.SUCCEEDED, "")
    await two.follow()
    assert heard == []


async def test_secrets_of_a_task_that_another_replica_ended_are_dropped(broker: Broker) -> None:
    two = Two(broker)
    task = await broker.declared()
    await broker.acquired(task)
    assert broker.acquire._under_key
    assert broker.grants._grants
    await two.other.complete(CALLER, task.task_id, Outcome.SUCCEEDED, "")
    await two.follow()
    assert not broker.acquire._under_key
    assert not broker.grants._grants


async def test_a_quarantine_is_held_at_once_and_let_go_at_once(broker: Broker) -> None:
    two = Two(broker)
    await impose(two.other)
    assert not broker.quarantine.holds(OWNER)
    await two.follow()
    assert broker.quarantine.holds(OWNER)
    assert (await broker.store.audit_records(0, 99))[-1].event.kind == AuditKind.QUARANTINE_IMPOSED
    await two.other.quarantine_instances.release(ANN, INSTANCE, "over")
    await two.follow()
    assert not broker.quarantine.holds(OWNER)


async def test_what_an_instance_did_elsewhere_is_found_here() -> None:
    two = Two(a_broker_over(FakeStore(), answer=Answer.NOTE))
    task = await declared(two.one)
    await called(two.other, task, "spare-keys")  # where nobody watches
    assert await two.one.notice.look_again() == 0
    await two.follow()
    assert await two.one.notice.look_again() == 1
