"""The twin without await: the same promises, from a thread that blocks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import pytest

from broker.api.v1 import tasks_pb2
from broker.client import Outcome, SyncBroker, TaskEnded
from tests.unit.client.authority import AGENT_ID, Authority
from tests.unit.client.conftest import PATIENCE
from tests.unit.client.fake_broker import PASSWORD, FakeBroker

Result = TypeVar("Result")


async def as_agent(fake: FakeBroker, authority: Authority, body: Callable[[SyncBroker], Result]) -> Result:
    """Run a blocking agent on a thread, while this loop serves the broker."""
    from broker.client import StaticIdentity

    def run() -> Result:
        identity = StaticIdentity(authority.svid(AGENT_ID))
        with SyncBroker.connect(fake.address, identity=identity, patience=PATIENCE) as broker:
            return body(broker)

    before = threading.active_count()
    result = await asyncio.to_thread(run)
    assert threading.active_count() <= before + 1  # the executor's own; the loop's has ended
    return result


async def test_a_credentials_life(fake: FakeBroker, authority: Authority) -> None:
    def body(broker: SyncBroker) -> str:
        assert broker.spiffe_id == AGENT_ID
        with broker.task("reconcile", intent="tests", roles=["orders"]) as task:
            assert (task.task_id, task.state) == ("task-1", "ACTIVE")
            with task.acquire("orders") as credential:
                assert credential["password"].reveal() == PASSWORD
                task.renew(credential)
                assert credential.expires_at.year == 2031
            assert credential.revoked
        assert [found.task_id for found in broker.list_tasks()] == ["task-1", "task-1"]
        assert broker.get_task("task-1").task_id == "task-1"
        return credential.lease_id

    lease = await as_agent(fake, authority, body)
    assert [request.lease_id for request in fake.calls["release"]] == [lease]
    assert [request.outcome for request in fake.calls["complete"]] == [tasks_pb2.TASK_OUTCOME_SUCCEEDED]


async def test_an_exception_leaves_as_it_is_and_completes_as_failed(
    fake: FakeBroker, authority: Authority
) -> None:
    def body(broker: SyncBroker) -> None:
        with broker.task("reconcile", intent="tests"):
            raise LookupError

    with pytest.raises(LookupError):
        await as_agent(fake, authority, body)
    (request,) = fake.calls["complete"]
    assert (request.outcome, request.reason) == (tasks_pb2.TASK_OUTCOME_FAILED, "LookupError")


async def test_the_end_by_the_broker_is_seen(fake: FakeBroker, authority: Authority) -> None:
    def body(broker: SyncBroker) -> None:
        with broker.task("reconcile", intent="tests", roles=["orders"]) as task:
            assert not task.wait_ended(timedelta(seconds=0.05))
            attached.set()
            assert task.wait_ended(timedelta(seconds=5))
            assert task.ended
            assert task.end_cause == "DEADLINE"
            with pytest.raises(TaskEnded):
                task.acquire("orders")

    attached = threading.Event()
    work = asyncio.create_task(as_agent(fake, authority, body))
    await asyncio.to_thread(attached.wait, 5)
    await fake.until(lambda: fake.attached == 1)
    await fake.end_task()
    await work
    assert fake.calls["complete"] == []


async def test_the_outcome_can_be_said(fake: FakeBroker, authority: Authority) -> None:
    def body(broker: SyncBroker) -> None:
        with broker.task("reconcile", intent="tests") as task:
            task.say_outcome(Outcome.FAILED, "no invoices")
        with broker.task("reconcile", intent="tests") as task:
            task.complete(Outcome.CANCELLED, "not needed")
            assert task.ended

    await as_agent(fake, authority, body)
    assert [request.reason for request in fake.calls["complete"]] == ["no invoices", "not needed"]


def test_outside_of_a_block_it_says_so() -> None:
    broker = SyncBroker.connect("unix:/tmp/none.sock")
    with pytest.raises(RuntimeError, match="in a block"):
        broker.list_tasks()
