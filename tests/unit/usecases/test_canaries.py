"""Canaries: whoever looks for something to misuse comes by them, cannot tell them from the rest, and is seen at the first touch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from broker.anomaly.canaries import Canaries
from broker.domain.errors import BrokerError
from broker.domain.findings import Severity
from broker.domain.task import Scope
from broker.server import tool_wire, wire
from broker.usecases.authorize_action import Authorization
from broker.usecases.judging import Call
from broker.usecases.recorded_events import TrailEvents
from tests.fakes.issuer import FakeIssuer
from tests.fakes.samples import a_caller, a_catalog, a_role, a_tool
from tests.fakes.store import FakeStore
from tests.fakes.system import CountingIds, FakeClock
from tests.unit.usecases.wiring import Broker

TOOL = a_tool("export-customers", resource="customers", description="Export all customers")
ROLE = a_role("customers-admin", resource="customers")


def a_world(*, canary: bool, of_the_type: bool = True) -> Broker:
    """The same catalog twice: but for the word, nothing differs."""
    tools = (a_tool("read-orders"), replace(TOOL, canary=canary))
    roles = (a_role("orders"), replace(ROLE, canary=canary))
    catalog = a_catalog(tools=tools, roles=roles)
    if not of_the_type:
        task_type = replace(
            catalog.task_types["reconcile"], tools=frozenset({"read-orders"}), roles=frozenset({"orders"})
        )
        catalog = replace(catalog, task_types={"reconcile": task_type})
    return Broker(FakeStore(), FakeIssuer(), FakeClock(), CountingIds(), catalog)


async def touches(broker: Broker, scope: Scope | None = None) -> list[Any]:
    """What an agent is shown, and answered, that lists what it has and tries all of it."""
    task = await broker.declared(scope=scope)
    listed = await broker.list_tools(a_caller(), task.task_id)
    seen: list[Any] = [wire.task_message(task), *map(tool_wire.tool_message, listed)]
    for name in ("export-customers", "read-orders"):
        call = Call(tool=name, arguments={})
        found: Authorization = await broker.authorize(a_caller(), task.task_id, call)
        seen.append(tool_wire.authorization_message(found))
    for name in ("customers-admin", "orders"):
        try:
            held = await broker.acquired(task, name, f"take-{name}")
            seen.append(wire.acquired_message(held))
        except BrokerError as error:
            seen.append((type(error), str(error), error.reason))
    return seen


@pytest.mark.parametrize("of_the_type", [True, False], ids=["in its reach", "called by name"])
async def test_nothing_that_an_agent_is_told_says_that_something_is_a_canary(*, of_the_type: bool) -> None:
    with_canaries = await touches(a_world(canary=True, of_the_type=of_the_type))
    without = await touches(a_world(canary=False, of_the_type=of_the_type))
    assert with_canaries == without
    assert "canary" not in repr(with_canaries)


async def test_a_canary_of_the_task_type_is_listed_and_in_the_scope_like_any_other() -> None:
    broker = a_world(canary=True)
    task = await broker.declared(scope=None)
    names = [tool.name for tool in await broker.list_tools(a_caller(), task.task_id)]
    assert names == ["export-customers", "read-orders"]
    assert task.scope.roles == {"customers-admin", "orders"}


async def test_honest_work_that_names_its_scope_never_sees_one() -> None:
    broker = a_world(canary=True)
    scope = Scope(roles=frozenset({"orders"}), tools=frozenset({"read-orders"}))
    task = await broker.declared(scope=scope)
    assert [tool.name for tool in await broker.list_tools(a_caller(), task.task_id)] == ["read-orders"]


@pytest.mark.parametrize("of_the_type", [True, False], ids=["in its reach", "called by name"])
async def test_the_first_touch_is_found_whether_it_was_allowed_or_not(*, of_the_type: bool) -> None:
    broker = a_world(canary=True, of_the_type=of_the_type)
    await touches(broker)
    canaries = Canaries()
    events = TrailEvents(broker.catalogs.current()).events(await broker.records())
    found = [one for event in events for one in canaries.observe(event)]
    assert {(one.severity, one.rule) for one in found} == {(Severity.CRITICAL, "touched")}
    said = "allowed" if of_the_type else "refused"
    assert [one.happened for one in found] == [
        f"'export-customers' was asked for and {said}",
        f"'customers-admin' was asked for and {said}",
    ]
