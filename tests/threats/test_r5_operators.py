"""R4 and R5 of those who operate: who is no operator gets nothing done, and is written down."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.api.v1 import operators_pb2, tasks_pb2
from broker.client import Svid
from broker.demo.callers import Answer, Caller
from tests.threats.world import World

MESSAGES = {
    "Quarantine": operators_pb2.QuarantineRequest,
    "Release": operators_pb2.ReleaseRequest,
    "ListQuarantines": operators_pb2.ListQuarantinesRequest,
}
TASK_RPCS = ("DeclareTask", "GetTask", "ListTasks", "Heartbeat", "CompleteTask")


def request(rpc: str, instance: str) -> Any:
    if rpc == "ListQuarantines":
        return operators_pb2.ListQuarantinesRequest()
    return MESSAGES[rpc](target={"instance": instance}, reason="my words")


def attempt(caller: Caller, rpc: str, instance: str) -> Answer:
    return caller.call(rpc, request(rpc, instance), timeout=20)


def standing(world: World) -> list[tuple[Any, ...]]:
    return world.rows("SELECT kind, name, imposed_by, reason FROM quarantines ORDER BY kind, name")


def refusals(world: World, actor: str) -> list[dict[str, Any]]:
    found = world.rows(
        "SELECT facts FROM audit_records WHERE kind = 'operator.refused' AND actor = ? ORDER BY sequence",
        actor,
    )
    return [json.loads(facts) for (facts,) in found]


@pytest.mark.parametrize("rpc", MESSAGES)
def test_an_agent_that_calls_what_is_for_operators_is_refused_and_written_down(
    world: World, rpc: str
) -> None:
    victim, hijacked = world.svid(), world.svid()
    before = standing(world)
    with world.calling(hijacked) as caller, world.calling(victim) as other:
        answer = attempt(caller, rpc, victim.spiffe_id)
        assert (answer.code.name, answer.reason) == ("PERMISSION_DENIED", "OPERATOR_UNKNOWN")
        assert other.knock().ok
    assert standing(world) == before
    (facts,) = refusals(world, hijacked.spiffe_id)
    assert (facts["rpc"], facts["reason"]) == (f"/broker.api.v1.QuarantineService/{rpc}", "OPERATOR_UNKNOWN")
    if rpc != "ListQuarantines":
        assert victim.spiffe_id in facts["request"]
        assert "my words" in facts["request"]


@pytest.mark.parametrize(
    "path",
    [
        "agent/operator",
        "agent/operator/operator",
        "agent/invoice-bot/operator",
        "operators",
        "Operator",
        "operator.",
        "tasklease",
    ],
)
def test_an_id_that_only_looks_like_an_operators_is_none(world: World, path: str) -> None:
    svid = world.svid("ann", path=path)
    with world.calling(svid) as caller:
        answer = attempt(caller, "ListQuarantines", "")
    assert (answer.code.name, answer.reason) == ("PERMISSION_DENIED", "OPERATOR_UNKNOWN")
    assert refusals(world, svid.spiffe_id)


def test_the_group_itself_and_the_broker_are_no_operators(world: World) -> None:
    for name, path in (("operator", ""), ("broker", "tasklease")):
        svid = world.svid(name, path=path) if path else the_group(world)
        with world.calling(svid) as caller:
            assert attempt(caller, "ListQuarantines", "").reason == "OPERATOR_UNKNOWN"


def the_group(world: World) -> Svid:
    return world.svid_of("spiffe://dev.tasklease.test/operator")


@pytest.mark.parametrize("rpc", ["Quarantine", "Release"])
def test_a_viewer_looks_and_does_nothing(world: World, rpc: str) -> None:
    victim, viewer = world.svid(), world.svid(path="viewer")
    with world.calling(viewer) as caller, world.calling(victim) as other:
        assert attempt(caller, "ListQuarantines", "").ok
        answer = attempt(caller, rpc, victim.spiffe_id)
        assert (answer.code.name, answer.reason) == ("PERMISSION_DENIED", "OPERATOR_ROLE_MISSING")
        assert other.knock().ok
    assert [fact["reason"] for fact in refusals(world, viewer.spiffe_id)] == ["OPERATOR_ROLE_MISSING"]


@pytest.mark.parametrize("rpc", TASK_RPCS)
def test_an_operator_is_no_agent(world: World, rpc: str) -> None:
    with world.calling(world.svid("ann", path="operator")) as caller:
        answer = caller.call(rpc, getattr(tasks_pb2, f"{rpc}Request")())
    assert (answer.code.name, answer.reason) == ("PERMISSION_DENIED", "AGENT_CLASS_UNKNOWN")


@pytest.mark.parametrize(
    "fields",
    [
        {"target": {"instance": "spiffe://dev.tasklease.test/operator/ann"}, "reason": "locked out"},
        {"target": {"instance": "spiffe://dev.tasklease.test/agent/invoice-bot"}, "reason": "a typo"},
        {"target": {"instance": "invoice-bot"}, "reason": "a typo"},
        {"target": {"agent_class": "Invoice Bot"}, "reason": "a typo"},
        {"target": {"trust_domain": "dev.tasklease.test/agent"}, "reason": "a typo"},
        {"target": {"trust_domain": ""}, "reason": "nothing"},
        {"target": {}, "reason": "nothing"},
        {"reason": "nothing"},
        {"target": {"agent_class": "invoice-bot"}, "reason": ""},
        {"target": {"agent_class": "invoice-bot"}, "reason": "  "},
        {"target": {"agent_class": "invoice-bot"}, "reason": "x" * 1001},
    ],
)
def test_a_quarantine_of_nothing_or_without_a_why_is_refused_and_written_down(
    world: World, fields: dict[str, Any]
) -> None:
    operator = world.svid(path="operator")
    before = standing(world)
    with world.calling(operator) as caller:
        answer = caller.call("Quarantine", operators_pb2.QuarantineRequest(**fields))
    assert answer.reason == "FIELD_INVALID"
    assert standing(world) == before
    assert [fact["reason"] for fact in refusals(world, operator.spiffe_id)] == ["FIELD_INVALID"]


def test_what_cannot_be_written_down_is_not_answered(world: World) -> None:
    with world.calling(world.svid("ann", path="operator")) as caller, world.store_unavailable():
        answer = attempt(caller, "ListQuarantines", "")
        assert (answer.code.name, answer.reason) == ("UNAVAILABLE", "STORE_UNAVAILABLE")
    with world.calling() as caller, world.store_unavailable():
        assert attempt(caller, "ListQuarantines", "").reason == "STORE_UNAVAILABLE"
