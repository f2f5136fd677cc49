"""Agents and gateways at the AuthZEN door of the real stack."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from broker.api.v1 import tasks_pb2
from broker.client import Svid
from broker.demo.callers import Caller
from tests.https import Connection, an_evaluation, connected
from tests.threats.world import ROLE, World

TOOLS = ("query-orders", "read-mail", "send-report")
DAY = {"name": "call", "properties": {"arguments": {"day": "2026-11-25"}}}


@contextmanager
def at_the_door(
    world: World, svid: Svid | None = None, *, authorities: bytes | None = None
) -> Iterator[Connection]:
    """A connection as `svid`, of a new instance when none is given."""
    svid = svid or world.svid()
    address = world.stack.broker.authzen_address
    with connected(address, authorities=authorities or svid.authorities, svid=svid) as one:
        yield one


def an_enforcer(world: World) -> Svid:
    """A gateway's SVID."""
    return world.svid(path="enforcer")


def declare(world: World, caller: Caller) -> str:
    """A task with tools: its id."""
    answer = world.try_declare(caller, scope=tasks_pb2.Scope(roles=[ROLE], tools=TOOLS))
    assert answer.ok, answer
    return str(answer.message.task.task_id)


def about(svid: Svid, task_id: str, tool: str = "query-orders", **changed: Any) -> dict[str, Any]:
    """Whether the instance may query the orders."""
    return an_evaluation(svid.spiffe_id, task_id, tool, **{"action": DAY, **changed})
