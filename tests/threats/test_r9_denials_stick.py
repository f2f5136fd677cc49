"""R9: a denied effect stays denied when it is tried through another tool, another task, another process of the broker, or
as a credential; and what was not denied goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from broker.api.v1 import tools_pb2
from broker.demo.callers import Caller
from tests.threats.world import ROLE, World, key

OURS = """
@id("test.ours")
@denial("structural")
@says("reports go to our own people alone")
forbid (principal, action == Tasklease::Action::"call", resource == Tasklease::Tool::"send-report")
unless {
  context.asserted.arguments has recipient && context.asserted.arguments.recipient like "*@ours.example"
};
@id("test.no-dumps")
forbid (principal, action == Tasklease::Action::"call", resource == Tasklease::Tool::"dump-orders");
"""
MORE_TOOLS = """
  mail-anybody:
    effect: send
    resource: reports/{to}
    destination: {host: mail.example, port: 587, scheme: smtp}
    writes: external
    arguments:
      type: object
      properties:
        to: {type: string}
      required: [to]
      additionalProperties: false
  dump-orders:
    effect: read
    resource: orders
    destination: {host: 127.0.0.1, port: %d, scheme: postgresql}
"""


def noting(world: World) -> str:
    """The catalog with which anomalies are noted alone: what sticks is looked at here, by trying again."""
    return world.catalog_without_answers() + "\nanswers:\n  - {do: note}\n"


@pytest.fixture
def noted(world: World) -> Iterator[World]:
    """Whatever was learned from the tasks of other tests ends no task."""
    with world.taking_up(noting(world)):
        yield world


@pytest.fixture
def ruled(world: World) -> Iterator[World]:
    """With a policy about recipients, another tool that sends, and one that reads what the credential reads."""
    tools = noting(world).replace(
        "query-orders, read-mail", "query-orders, mail-anybody, dump-orders, read-mail"
    )
    more = tools.replace("\ntools:\n", "\ntools:" + MORE_TOOLS % world.stack.postgres.port, 1)
    with world.taking_up(more), world.ruled_by(OURS):
        yield world


def ask(caller: Caller, task_id: str, tool: str, **arguments: object) -> tools_pb2.Authorization:
    call = tools_pb2.Call(tool=tool, arguments=json.dumps(arguments), idempotency_key=key())
    answer = caller.call("AuthorizeAction", tools_pb2.AuthorizeActionRequest(task_id=task_id, call=call))
    assert answer.ok, answer
    found: tools_pb2.Authorization = answer.message.authorization
    return found


def declared(world: World, caller: Caller) -> str:
    """A task with everything that its type lists."""
    answer = world.try_declare(caller, scope=None)
    assert answer.ok, answer
    task_id: str = answer.message.task.task_id
    return task_id


def listed(caller: Caller, task_id: str) -> set[str]:
    answer = caller.call("ListTools", tools_pb2.ListToolsRequest(task_id=task_id))
    assert answer.ok, answer
    return {tool.name for tool in answer.message.tools}


def test_a_denied_recipient_stays_denied_by_another_tool_and_another_task(ruled: World) -> None:
    svid = ruled.svid()
    with ruled.calling(svid) as caller:
        first, second = declared(ruled, caller), declared(ruled, caller)
        with ruled.alive(svid, first), ruled.alive(svid, second):
            denied = ask(caller, first, "send-report", recipient="mallory@theirs.example")
            assert (denied.allowed, denied.reason, denied.text) == (
                False,
                "POLICY_DENIED",
                "reports go to our own people alone",
            )
            assert denied.denial_class == tools_pb2.DENIAL_CLASS_STRUCTURAL
            for task_id in (first, second):
                for recipient in ("mallory@theirs.example", " MALLORY@theirs.example "):
                    again = ask(caller, task_id, "mail-anybody", to=recipient)
                    assert (again.allowed, again.reason) == (False, "EFFECT_DENIED"), recipient
            assert ask(caller, first, "send-report", recipient="ann@ours.example").allowed
            assert ask(caller, second, "mail-anybody", to="bob@theirs.example").allowed, "nobody denied that"
            kinds = [kind for kind in ruled.kinds(first) if kind.startswith("action.")]
            assert kinds == ["action.denied"] * 3 + ["action.allowed"]
    with ruled.calling() as other:  # another instance
        task_id = declared(ruled, other)
        assert ask(other, task_id, "mail-anybody", to="mallory@theirs.example").allowed


def test_what_was_denied_as_a_tool_is_not_to_be_had_as_a_credential(ruled: World) -> None:
    svid = ruled.svid()
    with ruled.calling(svid) as caller:
        task_id = declared(ruled, caller)
        with ruled.alive(svid, task_id):
            assert "query-orders" in listed(caller, task_id)
            assert not ask(caller, task_id, "dump-orders").allowed
            refused = ruled.try_acquire(caller, task_id, role=ROLE)
            assert (refused.code.name, refused.reason) == ("PERMISSION_DENIED", "EFFECT_DENIED")
            assert ask(caller, task_id, "query-orders", day="2026-03-01").reason == "EFFECT_DENIED"
            assert listed(caller, task_id).isdisjoint({"dump-orders", "query-orders"})
            assert ask(caller, task_id, "read-mail").allowed
    assert ruled.users() == set()


def test_a_denial_survives_the_broker(ruled: World) -> None:
    svid = ruled.svid()
    with ruled.calling(svid) as caller:
        task_id = declared(ruled, caller)
        assert not ask(caller, task_id, "send-report", recipient="mallory@theirs.example").allowed
    ruled.stack.stop_part("broker")
    ruled.stack.up()
    with ruled.calling(svid) as caller:
        another = declared(ruled, caller)
        again = ask(caller, another, "mail-anybody", to="mallory@theirs.example")
        assert (again.allowed, again.reason) == (False, "EFFECT_DENIED")


def test_after_confidential_data_and_untrusted_content_nothing_goes_out(noted: World) -> None:
    world = noted
    svid = world.svid()
    with world.calling(svid) as caller:
        careful, hijacked = declared(world, caller), declared(world, caller)
        with world.alive(svid, careful), world.alive(svid, hijacked):
            for task_id, steps in ((careful, ["query"]), (hijacked, ["query", "mail"])):
                for step in steps:
                    found = (
                        ask(caller, task_id, "query-orders", day="2026-03-01")
                        if step == "query"
                        else ask(caller, task_id, "read-mail")
                    )
                    assert found.allowed
            assert ask(caller, careful, "send-report", recipient="ann@ours.example").allowed
            assert "send-report" not in listed(caller, hijacked)
            denied = ask(caller, hijacked, "send-report", recipient="eve@ours.example")
            assert not denied.allowed
            assert list(denied.policies) == ["cedar:flows.no-exfiltration"]
    world.verify_trail()


def test_a_tool_of_the_catalog_that_was_not_declared_is_refused(world: World) -> None:
    svid = world.svid()
    with world.calling(svid) as caller:
        answer = world.try_declare(caller, scope={"roles": [ROLE], "tools": ["read-mail"]})
        task_id = answer.message.task.task_id
        with world.alive(svid, task_id):
            assert listed(caller, task_id) == {"read-mail"}
            for tool in ("query-orders", "no-such-tool"):
                refused = ask(caller, task_id, tool)
                assert (refused.allowed, refused.reason) == (False, "TOOL_NOT_ALLOWED")
        wider = world.try_declare(caller, scope={"tools": ["read-mail", "no-such-tool"]})
        assert (wider.code.name, wider.reason) == ("PERMISSION_DENIED", "TOOL_NOT_ALLOWED")
