"""Signs of life: a heartbeat, or a stream that is attached."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from broker.domain.errors import StoreUnavailableError, SvidExpiredError, TaskNotActiveError
from broker.domain.task import EndCause
from broker.usecases.task_events import EventKind, TaskEvent, TaskEvents
from tests.fakes.samples import TASK, a_caller, an_end
from tests.fakes.system import NOON
from tests.unit.usecases.wiring import Broker, settle

CALLER = a_caller()


def welcome() -> None:
    return None


async def test_a_heartbeat_says_when_the_next_one_is_due(broker: Broker) -> None:
    task = await broker.declared()
    broker.clock.advance(seconds=20)
    due = await broker.keep_alive.beat(CALLER, task.task_id)
    assert due == NOON + timedelta(seconds=50)
    assert (await broker.task(task.task_id)).heartbeat_due == due


async def test_a_task_that_is_ending_takes_no_heartbeat(broker: Broker) -> None:
    task = await broker.declared()
    await broker.end_task.begin(task.task_id, an_end(), actor="test")
    with pytest.raises(TaskNotActiveError):
        await broker.keep_alive.beat(CALLER, task.task_id)


async def test_a_heartbeat_that_is_not_durable_is_not_answered(broker: Broker) -> None:
    task = await broker.declared()
    broker.store.down = True
    with pytest.raises(StoreUnavailableError):
        await broker.keep_alive.beat(CALLER, task.task_id)


async def test_attaching_is_a_sign_of_life(broker: Broker) -> None:
    task = await broker.declared()
    broker.clock.advance(seconds=20)
    stream = broker.keep_alive.attach(CALLER, task.task_id, welcome)
    event, _task = await anext(stream)
    assert event is None
    assert (await broker.task(task.task_id)).heartbeat_due == NOON + timedelta(seconds=50)
    await stream.aclose()


async def test_an_attached_stream_keeps_the_task_alive(broker: Broker) -> None:
    task = await broker.declared()
    stream = broker.keep_alive.attach(CALLER, task.task_id, welcome)
    await anext(stream)
    broker.clock.advance(seconds=10)
    broker.events.publish(task.task_id, TaskEvent(kind=EventKind.LEASE_RENEWED, at=NOON))
    await anext(stream)
    assert (await broker.task(task.task_id)).heartbeat_due == NOON + timedelta(seconds=40)
    await stream.aclose()


async def test_a_stream_tells_of_the_tasks_life_and_ends_with_it(broker: Broker) -> None:
    task = await broker.declared()
    stream = broker.keep_alive.attach(CALLER, task.task_id, welcome)
    await anext(stream)
    await broker.acquired(task)
    await broker.end_task(task.task_id, an_end(), actor="test")
    heard = [event.kind async for event, _task in stream if event is not None]
    assert heard == [EventKind.TASK_ENDING, EventKind.LEASE_REVOKED, EventKind.TASK_ENDED]


async def test_a_stream_hears_of_an_end_that_another_process_made(broker: Broker) -> None:
    """An event is a hint; the store is the truth."""
    task = await broker.declared()
    stream = broker.keep_alive.attach(CALLER, task.task_id, welcome)
    await anext(stream)
    await broker.restarted().end_task(task.task_id, an_end(), actor="test")
    broker.clock.advance(seconds=20)  # so that it looks at once
    (last,) = [event async for event, _task in stream]
    assert last is not None
    assert last.kind is EventKind.TASK_ENDED


async def test_a_stream_whose_caller_is_no_longer_welcome_keeps_nothing_alive(broker: Broker) -> None:
    task = await broker.declared()

    def unwelcome() -> None:
        message = "expired"
        raise SvidExpiredError(message)

    stream = broker.keep_alive.attach(CALLER, task.task_id, unwelcome)
    await anext(stream)
    broker.clock.advance(seconds=10)
    with pytest.raises(SvidExpiredError):
        await anext(stream)
    assert (await broker.task(task.task_id)).heartbeat_due == NOON + timedelta(seconds=30)


async def test_a_task_that_is_ending_cannot_be_attached_to(broker: Broker) -> None:
    task = await broker.declared()
    await broker.end_task.begin(task.task_id, an_end(), actor="test")
    with pytest.raises(TaskNotActiveError):
        await anext(broker.keep_alive.attach(CALLER, task.task_id, welcome))


async def test_a_stream_that_is_closed_listens_no_more(broker: Broker) -> None:
    task = await broker.declared()
    stream = broker.keep_alive.attach(CALLER, task.task_id, welcome)
    await anext(stream)
    await stream.aclose()
    assert not broker.events._listeners


async def test_a_slow_listener_loses_its_oldest_events_and_never_the_last() -> None:
    events = TaskEvents()
    with events.listening(TASK) as queue:
        for n in range(1000):
            events.publish(TASK, TaskEvent(kind=EventKind.LEASE_RENEWED, at=NOON + timedelta(seconds=n)))
        heard = [event for _ in range(queue.qsize()) if (event := queue.get_nowait()) is not None]
    assert len(heard) < 1000
    assert heard[-1].at == NOON + timedelta(seconds=999)
    assert [event.at for event in heard] == sorted(event.at for event in heard)


async def test_every_listener_of_the_task_hears_and_no_other(broker: Broker) -> None:
    one, two = await broker.declared(), await broker.declared()
    with (
        broker.events.listening(one.task_id) as first,
        broker.events.listening(one.task_id) as second,
        broker.events.listening(two.task_id) as other,
    ):
        await broker.end_task.begin(one.task_id, an_end(), actor="test")
        await settle()
        assert [queue.qsize() for queue in (first, second, other)] == [1, 1, 0]


async def test_a_stream_waits_without_looking_until_there_is_something(broker: Broker) -> None:
    task = await broker.declared()
    stream = broker.keep_alive.attach(CALLER, task.task_id, welcome)
    await anext(stream)
    waiting = asyncio.ensure_future(anext(stream))
    await settle()
    assert not waiting.done()
    broker.events.publish(task.task_id, TaskEvent(kind=EventKind.LEASE_RENEWED, at=NOON))
    event, _task = await waiting
    assert event is not None
    await stream.aclose()


async def test_a_stream_that_closed_wants_a_sign_of_life_sooner(broker: Broker) -> None:
    task = await broker.declared()
    broker.clock.advance(seconds=20)
    stream = broker.keep_alive.attach(CALLER, task.task_id, welcome)
    await anext(stream)
    await stream.aclose()
    broker.keep_alive.detached(CALLER, task.task_id)
    await broker.keep_alive.drain()
    assert (await broker.task(task.task_id)).heartbeat_due == NOON + timedelta(seconds=35)
    due = await broker.keep_alive.beat(CALLER, task.task_id)
    assert due == NOON + timedelta(seconds=50)


async def test_one_of_two_streams_that_closes_changes_nothing(broker: Broker) -> None:
    task = await broker.declared()
    one, other = (broker.keep_alive.attach(CALLER, task.task_id, welcome) for _ in range(2))
    await anext(one)
    await anext(other)
    await one.aclose()
    broker.keep_alive.detached(CALLER, task.task_id)
    await broker.keep_alive.drain()
    assert (await broker.task(task.task_id)).heartbeat_due == NOON + timedelta(seconds=30)
    await other.aclose()


async def test_a_stream_that_closed_while_the_store_is_away_says_nothing(broker: Broker) -> None:
    task = await broker.declared()
    broker.store.down = True
    broker.keep_alive.detached(CALLER, task.task_id)
    await broker.keep_alive.drain()
    broker.store.down = False
    assert (await broker.task(task.task_id)).heartbeat_due == NOON + timedelta(seconds=30)


async def test_a_heartbeat_with_an_svid_that_is_about_to_expire_counts_for_that_long(broker: Broker) -> None:
    task = await broker.declared()
    dying = replace(CALLER, peer=replace(CALLER.peer, svid_expires_at=NOON + timedelta(seconds=4)))
    assert await broker.keep_alive.beat(dying, task.task_id) == NOON + timedelta(seconds=14)
    broker.clock.advance(seconds=14)
    assert await broker.watch.end_lapsed() == 1
    ended = await broker.task(task.task_id)
    assert ended.end is not None
    assert ended.end.cause is EndCause.SVID_EXPIRED


async def test_a_newer_svid_in_time_goes_on(broker: Broker) -> None:
    dying = replace(CALLER, peer=replace(CALLER.peer, svid_expires_at=NOON + timedelta(seconds=4)))
    task = await broker.declared(dying)
    broker.clock.advance(seconds=13)
    await broker.keep_alive.beat(CALLER, task.task_id)
    broker.clock.advance(seconds=2)
    assert await broker.watch.end_lapsed() == 0
