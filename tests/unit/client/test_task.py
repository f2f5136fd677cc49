"""A task's block: declared, kept alive, ended."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from broker.api.v1 import credentials_pb2, tasks_pb2
from broker.client import Broker, Denied, Outcome, TaskEnded, connection
from broker.client import task as module
from broker.client.task import Task
from tests.unit.client.conftest import TurningIdentity
from tests.unit.client.fake_broker import TASK_ID, FakeBroker, hang, refusal

DEAD = refusal(grpc.StatusCode.FAILED_PRECONDITION, "TASK_NOT_ACTIVE")


def a_task(broker: Broker, *, cancel_on_end: bool = True) -> Task:
    return broker.task("reconcile", intent="tests", roles=["orders"], cancel_on_end=cancel_on_end)


def completion(fake: FakeBroker) -> tuple[str, str]:
    (request,) = fake.calls["complete"]
    name = tasks_pb2.TaskOutcome.Name(request.outcome).removeprefix("TASK_OUTCOME_")
    return name, request.reason


async def test_what_is_declared_is_what_was_given(broker: Broker, fake: FakeBroker) -> None:
    deadline = datetime(2030, 5, 1, tzinfo=UTC)
    given = broker.task(
        "reconcile",
        intent="books of May",
        roles=["orders"],
        environment="staging",
        deadline=deadline,
        fingerprint=b"abc",
    )
    async with given as task:
        assert task.task_id == TASK_ID
        assert task.state == "ACTIVE"
        assert task.deadline == fake.task.deadline.ToDatetime(tzinfo=UTC)
    (request,) = fake.calls["declare"]
    assert (request.task_type, request.intent, list(request.scope.roles), request.environment) == (
        "reconcile",
        "books of May",
        ["orders"],
        "staging",
    )
    assert request.deadline.ToDatetime(tzinfo=UTC) == deadline
    assert request.fingerprint == b"abc"
    assert len(request.idempotency_key) >= 16


async def test_a_duration_counts_from_entering_the_block(broker: Broker, fake: FakeBroker) -> None:
    task = broker.task("reconcile", intent="tests", deadline=timedelta(minutes=10))
    await asyncio.sleep(0.2)
    before = datetime.now(UTC)
    async with task:
        pass
    at = fake.calls["declare"][0].deadline.ToDatetime(tzinfo=UTC)
    assert at >= before + timedelta(minutes=10) - timedelta(milliseconds=1)


def test_a_deadline_without_a_time_zone_is_refused() -> None:
    broker = Broker.connect("unix:/nowhere")
    with pytest.raises(ValueError, match="time zone"):
        broker.task("reconcile", intent="tests", deadline=datetime(2030, 1, 1))  # noqa: DTZ001


def test_one_role_where_a_list_belongs_is_refused() -> None:
    with pytest.raises(TypeError, match="list"):
        Broker.connect("unix:/nowhere").task("reconcile", intent="tests", roles="orders")


async def test_a_task_is_entered_once(broker: Broker) -> None:
    task = a_task(broker)
    async with task:
        pass
    with pytest.raises(RuntimeError, match="once"):
        async with task:
            pass


async def test_leaving_normally_says_succeeded(broker: Broker, fake: FakeBroker) -> None:
    async with a_task(broker):
        pass
    assert completion(fake) == ("SUCCEEDED", "")


async def test_an_exception_says_failed_with_its_type_and_not_its_text(
    broker: Broker, fake: FakeBroker
) -> None:
    message = "the password is hunter2"
    with pytest.raises(LookupError, match="hunter2"):
        async with a_task(broker):
            raise LookupError(message)
    assert completion(fake) == ("FAILED", "LookupError")


async def test_what_was_said_of_the_outcome_is_what_leaving_normally_means(
    broker: Broker, fake: FakeBroker
) -> None:
    async with a_task(broker) as task:
        task.say_outcome(Outcome.FAILED, "two invoices do not match")
    assert completion(fake) == ("FAILED", "two invoices do not match")


async def test_a_cancelled_body_is_completed_as_cancelled(broker: Broker, fake: FakeBroker) -> None:
    entered = asyncio.Event()

    async def body() -> None:
        async with a_task(broker):
            entered.set()
            await asyncio.Event().wait()

    work = asyncio.create_task(body())
    await entered.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert completion(fake)[0] == "CANCELLED"


async def test_completion_goes_on_when_it_is_cancelled_itself(broker: Broker, fake: FakeBroker) -> None:
    release = asyncio.Event()
    fake.steps["complete"].append(hang(release))

    async def body() -> None:
        async with a_task(broker):
            pass

    work = asyncio.create_task(body())
    await fake.until(lambda: bool(fake.calls["complete"]))
    work.cancel()
    await asyncio.sleep(0.05)
    assert not work.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert fake.task.state == tasks_pb2.TASK_STATE_ENDED


async def test_an_unreachable_broker_is_warned_of_and_masks_nothing(
    broker: Broker, fake: FakeBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "COMPLETE_TIMEOUT", timedelta(seconds=0.5))
    message = "the original"

    async def body() -> None:
        async with a_task(broker):
            await fake.stop()
            raise LookupError(message)

    with caplog.at_level(logging.WARNING), pytest.raises(LookupError, match="the original"):
        await body()
    assert "could not be completed" in caplog.text
    assert "ends it by itself" in caplog.text
    assert "the original" not in caplog.text


async def test_completion_is_bounded_in_time(
    broker: Broker, fake: FakeBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "COMPLETE_TIMEOUT", timedelta(seconds=0.3))
    fake.steps["complete"].append(hang())
    async with asyncio.timeout(5):
        async with a_task(broker):
            pass
    assert "did not answer in time" in caplog.text


async def test_completing_in_the_body_ends_the_task_and_not_the_body(
    broker: Broker, fake: FakeBroker
) -> None:
    async with a_task(broker) as task:
        await fake.until(lambda: fake.attached == 1)
        await task.complete(Outcome.CANCELLED, "not needed")
        await asyncio.sleep(0.05)  # the event of the end arrives as well
        assert task.ended.is_set()
        assert task.end_cause == "COMPLETED"
        with pytest.raises(TaskEnded):
            await task.acquire("orders")
    assert completion(fake) == ("CANCELLED", "not needed")


async def test_the_end_by_the_broker_cancels_the_body_and_is_told(broker: Broker, fake: FakeBroker) -> None:
    async def body() -> None:
        async with a_task(broker) as task:
            await fake.until(lambda: fake.attached == 1)
            await fake.end_task()
            try:
                await asyncio.Event().wait()
            finally:
                seen.append(task.ended.is_set())

    seen: list[bool] = []
    with pytest.raises(TaskEnded, match="DEADLINE") as caught:
        await body()
    assert seen == [True]
    assert caught.value.cause == "DEADLINE"
    assert fake.calls["complete"] == []
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0
    await asyncio.sleep(0)  # nothing of the cancellation is left over


async def test_a_body_that_asked_not_to_be_cancelled_goes_on(broker: Broker, fake: FakeBroker) -> None:
    async with a_task(broker, cancel_on_end=False) as task:
        await fake.until(lambda: fake.attached == 1)
        await fake.end_task()
        async with asyncio.timeout(5):
            await task.ended.wait()
        with pytest.raises(TaskEnded):
            await task.acquire("orders")
        assert fake.calls["acquire"] == []


async def test_a_pending_acquire_learns_of_the_end(broker: Broker, fake: FakeBroker) -> None:
    fake.steps["acquire"].append(hang())
    async with a_task(broker, cancel_on_end=False) as task:
        work = asyncio.create_task(task.acquire("orders"))
        await fake.until(lambda: bool(fake.calls["acquire"]) and fake.attached == 1)
        await fake.end_task(tasks_pb2.TASK_END_CAUSE_REVOKED)
        with pytest.raises(TaskEnded, match="REVOKED"):
            await asyncio.wait_for(work, 5)


async def test_what_the_body_raises_on_its_way_out_is_what_is_seen(broker: Broker, fake: FakeBroker) -> None:
    message = "could not put it down"

    async def body() -> None:
        async with a_task(broker):
            await fake.until(lambda: fake.attached == 1)
            await fake.end_task()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise ValueError(message) from None

    with pytest.raises(ValueError, match="put it down"):
        await body()
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0


async def test_a_body_that_is_cancelled_by_others_as_well_stays_cancelled(
    broker: Broker, fake: FakeBroker
) -> None:
    async def body() -> None:
        async with a_task(broker) as task:
            try:
                await asyncio.Event().wait()
            finally:
                assert task.ended.is_set()
                work.cancel()

    work = asyncio.create_task(body())
    await fake.until(lambda: fake.attached == 1)
    await fake.end_task()
    with pytest.raises(asyncio.CancelledError):
        await work


@pytest.mark.parametrize("code", ["DEADLINE", "HEARTBEAT_LOST", "REVOKED"])
async def test_the_cause_of_the_end_is_known(broker: Broker, fake: FakeBroker, code: str) -> None:
    async with a_task(broker, cancel_on_end=False) as task:
        await fake.until(lambda: fake.attached == 1)
        await fake.end_task(tasks_pb2.TaskEndCause.Value(f"TASK_END_CAUSE_{code}"))
        await asyncio.wait_for(task.ended.wait(), 5)
        assert task.end_cause == code


async def test_a_broken_stream_is_attached_again_after_a_heartbeat(broker: Broker, fake: FakeBroker) -> None:
    async with a_task(broker) as task:
        await fake.until(lambda: fake.attached == 1)
        fake.streams[0].put_nowait(None)
        await fake.until(lambda: len(fake.calls["attach"]) == 2 and fake.attached == 1)
        assert len(fake.calls["heartbeat"]) == 1
        assert not task.ended.is_set()


async def test_where_no_stream_can_be_had_heartbeats_do(broker: Broker, fake: FakeBroker) -> None:
    fake.steps["attach"].extend(refusal(grpc.StatusCode.UNIMPLEMENTED, "RPC_UNKNOWN") for _ in range(50))
    async with a_task(broker) as task:
        await fake.until(lambda: len(fake.calls["heartbeat"]) >= 3)
        assert not task.ended.is_set()


async def test_a_silent_stream_is_taken_for_broken(broker: Broker, fake: FakeBroker) -> None:
    fake.task.heartbeat_interval.FromTimedelta(timedelta(seconds=0.2))
    async with a_task(broker):
        await fake.until(lambda: len(fake.calls["attach"]) >= 2)
        assert fake.calls["heartbeat"]


@pytest.mark.parametrize(
    "step",
    [
        DEAD,
        refusal(grpc.StatusCode.NOT_FOUND, "TASK_NOT_FOUND"),
        refusal(grpc.StatusCode.PERMISSION_DENIED, "INSTANCE_QUARANTINED"),
    ],
    ids=["not active", "not found", "quarantined"],
)
async def test_a_refused_sign_of_life_is_the_end(broker: Broker, fake: FakeBroker, step: object) -> None:
    fake.steps["attach"].append(step)  # type: ignore[arg-type]
    with pytest.raises(TaskEnded):
        async with a_task(broker):
            await asyncio.Event().wait()


async def test_a_quarantined_instance_is_told_so(broker: Broker, fake: FakeBroker) -> None:
    fake.steps["attach"].append(refusal(grpc.StatusCode.PERMISSION_DENIED, "INSTANCE_QUARANTINED"))
    with pytest.raises(TaskEnded) as caught:
        async with a_task(broker) as task:
            await asyncio.Event().wait()
    assert caught.value.cause == task.end_cause == "QUARANTINED"


async def test_the_stream_survives_a_restart_of_the_broker(broker: Broker, fake: FakeBroker) -> None:
    async with a_task(broker) as task:
        await fake.until(lambda: fake.attached == 1)
        await fake.stop()
        await fake.start()
        await fake.until(lambda: fake.attached == 1 and len(fake.calls["attach"]) >= 2)
        assert not task.ended.is_set()
    assert completion(fake)[0] == "SUCCEEDED"


async def test_events_tell_what_happens_and_end_with_the_task(broker: Broker, fake: FakeBroker) -> None:
    async with a_task(broker, cancel_on_end=False) as task:
        credential = await task.acquire("orders")
        await fake.until(lambda: fake.attached == 1)
        events = task.events()
        renewed = fake.lease(1, state=credentials_pb2.LEASE_STATE_LIVE)
        renewed.expires_at.FromDatetime(datetime(2032, 1, 1, tzinfo=UTC))
        await fake.tell("KEEPALIVE")
        await fake.tell("LEASE_RENEWED", lease=renewed)
        await fake.tell("LEASE_REVOKED", lease=fake.lease(1, state=credentials_pb2.LEASE_STATE_REVOKED))
        await fake.tell("TASK_ENDED")
        async with asyncio.timeout(5):
            seen = [(event.kind, event.lease_id) async for event in events]
        assert seen == [("LEASE_RENEWED", "lease-1"), ("LEASE_REVOKED", "lease-1"), ("TASK_ENDED", None)]
        assert credential.revoked


async def test_a_warning_says_what_was_found_and_a_hold_is_seen(broker: Broker, fake: FakeBroker) -> None:
    async with a_task(broker) as task:
        await fake.until(lambda: fake.attached == 1)
        assert task.hold == ""
        events = task.events()
        fake.task.hold = tasks_pb2.TASK_HOLD_FROZEN
        await fake.tell("WARNING", text="a burst of calls")
        async with asyncio.timeout(5):
            event = await anext(events)
        assert (event.kind, event.text, event.lease_id) == ("WARNING", "a burst of calls", None)
        assert task.hold == "FROZEN"
        assert not task.ended.is_set()


async def test_events_end_when_the_block_is_left(broker: Broker, fake: FakeBroker) -> None:
    async with a_task(broker) as task:
        events = task.events()
    async with asyncio.timeout(5):
        assert [event.kind async for event in events] in ([], ["TASK_ENDING"])


async def test_a_denied_declaration_leaves_nothing_to_complete(broker: Broker, fake: FakeBroker) -> None:
    fake.steps["declare"].append(
        refusal(
            grpc.StatusCode.PERMISSION_DENIED,
            "TASK_TYPE_NOT_ALLOWED",
            metadata={"denial_class": "structural"},
        )
    )
    with pytest.raises(Denied):
        async with a_task(broker):
            pytest.fail("entered")
    assert fake.calls["complete"] == []


async def test_a_new_svid_moves_stream_and_calls_and_breaks_nothing(
    broker: Broker, fake: FakeBroker, identity: TurningIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_CLOSE_GRACE", 0.05)
    release = asyncio.Event()
    fake.steps["acquire"].append(hang(release))
    async with a_task(broker) as task:
        await fake.until(lambda: fake.attached == 1)
        slow = asyncio.create_task(task.acquire("orders"))
        await fake.until(lambda: len(fake.calls["acquire"]) == 1)
        newer = fake._authority.svid("spiffe://example.test/agent/invoice-bot/one")
        await identity.turn(newer)
        await fake.until(lambda: len(fake.calls["attach"]) == 2)
        assert fake.peers["attach"][0] != newer.chain
        assert fake.peers["attach"][1] == newer.chain
        await asyncio.sleep(0.2)  # longer than the grace of a channel that is closed
        assert not slow.done()  # it stays on the old channel, and is not cut off
        release.set()
        assert (await asyncio.wait_for(slow, 5)).lease_id == "lease-1"
        await task.acquire("orders")
        assert fake.peers["acquire"][0] != newer.chain
        assert fake.peers["acquire"][1] == newer.chain
        assert fake.calls["heartbeat"] == []
        assert not task.ended.is_set()
