"""An instance sees and touches its own tasks alone; another's are answered like ones that do not exist."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from broker.domain.errors import BrokerError, LeaseNotFoundError, TaskNotFoundError
from broker.domain.identifiers import LeaseId, TaskId
from broker.domain.task import Outcome
from broker.usecases.caller import Caller
from broker.usecases.decide_acquisition import Acquisition
from tests.fakes.samples import OTHER, a_caller
from tests.unit.usecases.wiring import Broker

Call = Callable[[Broker, Caller, Any], Awaitable[object]]


async def acquire(broker: Broker, caller: Caller, task_id: TaskId) -> object:
    request = Acquisition(task_id=task_id, role="orders", idempotency_key="key")
    return await broker.acquire(caller, request)


async def acquire_unlisted(broker: Broker, caller: Caller, task_id: TaskId) -> object:
    request = Acquisition(task_id=task_id, role="unlisted", idempotency_key="other")
    return await broker.acquire(caller, request)


async def attach(broker: Broker, caller: Caller, task_id: TaskId) -> object:
    return await anext(broker.keep_alive.attach(caller, task_id, lambda: None))


OF_TASKS: dict[str, Call] = {
    "get": lambda broker, caller, task_id: broker.look.one(caller, task_id),
    "acquire": acquire,
    "acquire what is not listed": acquire_unlisted,
    "heartbeat": lambda broker, caller, task_id: broker.keep_alive.beat(caller, task_id),
    "attach": attach,
    "complete": lambda broker, caller, task_id: broker.complete(caller, task_id, Outcome.SUCCEEDED, ""),
}
OF_LEASES: dict[str, Call] = {
    "renew": lambda broker, caller, lease_id: broker.renew.for_owner(caller, lease_id, None),
    "release": lambda broker, caller, lease_id: broker.release(caller, lease_id),
}


async def answer(call: Awaitable[object]) -> tuple[type[BrokerError], str, dict[str, str]]:
    with pytest.raises(BrokerError) as caught:
        await call
    return type(caught.value), caught.value.text, dict(caught.value.metadata)


@pytest.mark.parametrize("state", ["active", "ended"])
@pytest.mark.parametrize("call", OF_TASKS.values(), ids=OF_TASKS)
async def test_anothers_task_looks_like_none(broker: Broker, call: Call, state: str) -> None:
    task = await broker.declared()
    lease = (await broker.acquired(task)).lease
    if state == "ended":
        await broker.complete(a_caller(), task.task_id, Outcome.SUCCEEDED, "")
    before = (await broker.task(task.task_id), await broker.records(), list(broker.issuer.calls))
    theirs = await answer(call(broker, a_caller(OTHER), task.task_id))
    nobodys = await answer(call(broker, a_caller(OTHER), TaskId("task-never")))
    assert theirs == nobodys
    assert theirs[0] is TaskNotFoundError
    assert before == (await broker.task(task.task_id), await broker.records(), list(broker.issuer.calls))
    assert (lease.vault_lease_id in broker.issuer.leases) is (state == "active")


@pytest.mark.parametrize("call", OF_LEASES.values(), ids=OF_LEASES)
async def test_anothers_lease_looks_like_none(broker: Broker, call: Call) -> None:
    task = await broker.declared()
    lease = (await broker.acquired(task)).lease
    before = (await broker.lease(lease.lease_id), await broker.records(), list(broker.issuer.calls))
    theirs = await answer(call(broker, a_caller(OTHER), lease.lease_id))
    nobodys = await answer(call(broker, a_caller(OTHER), LeaseId("lease-never")))
    assert theirs == nobodys
    assert theirs[0] is LeaseNotFoundError
    assert before == (await broker.lease(lease.lease_id), await broker.records(), list(broker.issuer.calls))


async def test_a_list_holds_the_callers_own_tasks(broker: Broker) -> None:
    mine = await broker.declared()
    theirs = await broker.declared(a_caller(OTHER))
    for caller, task in ((a_caller(), mine), (a_caller(OTHER), theirs)):
        page = await broker.look.page(caller, states=frozenset(), page_size=9, page_token="")
        assert page.tasks == (task,)


async def test_a_task_is_shown_with_its_leases(broker: Broker) -> None:
    task = await broker.declared()
    lease = (await broker.acquired(task)).lease
    assert await broker.look.one(a_caller(), task.task_id) == (task, (lease,))
