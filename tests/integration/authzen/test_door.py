"""The AuthZEN door among the broker's real parts: one chain with gRPC, rotation without a restart, an orderly end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from cryptography import x509

from broker.api.v1 import tools_pb2
from tests.https import ACTIONS, EVALUATION, EVALUATIONS, METADATA, RESOURCES, Connection
from tests.integration.authzen.asking import DAY, about, an_enforcer, at_the_door, declare
from tests.integration.server.conftest import SVID_TTL
from tests.threats.world import World, until


def leaf_of(world: World) -> x509.Certificate:
    with at_the_door(world) as one:
        one.get(METADATA)
        return one.leaf


def test_what_is_asked_over_https_and_grpc_is_one_chain(world: World) -> None:
    agent = world.svid()
    with (
        world.calling(agent) as caller,
        at_the_door(world, agent) as door,
        at_the_door(world, an_enforcer(world)) as gateway,
    ):
        task_id = declare(world, caller)
        first = door.post(EVALUATION, about(agent, task_id))
        assert first.body["decision"] is True, first
        assert first.body["context"]["obligations"]["credential_role"] == "orders-readonly"
        second = gateway.post(EVALUATION, about(agent, task_id, "read-mail", action={"name": "call"}))
        assert second.body["decision"] is True, second
        call = tools_pb2.Call(tool="send-report", arguments='{"recipient": "somebody@else.example"}')
        answer = caller.call("AuthorizeAction", tools_pb2.AuthorizeActionRequest(task_id=task_id, call=call))
        assert answer.ok, answer
        third = answer.message.authorization
        assert (third.allowed, third.position) == (False, 3), "the labels of the two before it count"
        send = {"name": "call", "properties": {"arguments": {"recipient": "other@else.example"}}}
        fourth = gateway.post(EVALUATION, about(agent, task_id, "send-report", action=send))
        assert (fourth.status, fourth.body["decision"]) == (200, False)
        context = fourth.body["context"]
        assert (context["reason"], context["denial_class"]) == (third.reason, "structural")
        assert context["policies"] == list(third.policies)
        assert context["position"] == 4
    facts = world.rows(
        "SELECT actor, facts FROM audit_records WHERE task_id = ? AND kind LIKE 'action.%' ORDER BY sequence",
        task_id,
    )
    subjects = [json.loads(text).get("subject", "") for _actor, text in facts]
    assert subjects == ["", agent.spiffe_id, "", agent.spiffe_id]
    assert [actor.split("/")[3] for actor, _ in facts] == ["agent", "enforcer", "agent", "enforcer"]
    world.verify_trail()


def test_searches_say_what_list_tools_says(world: World) -> None:
    agent = world.svid()
    with world.calling(agent) as caller, at_the_door(world, agent) as door:
        task_id = declare(world, caller)
        listed = caller.call("ListTools", tools_pb2.ListToolsRequest(task_id=task_id)).message.tools
        found = door.post(RESOURCES, about(agent, task_id, resource={"type": "tool"}))
        assert [one["id"] for one in found.body["results"]] == [tool.name for tool in listed] != []
        assert door.post(ACTIONS, about(agent, task_id, "read-mail")).body["results"] == [{"name": "call"}]
        assert door.post(ACTIONS, about(agent, task_id, "remove-report")).body["results"] == []
        assert not world.rows("SELECT 1 FROM actions WHERE task_id = ?", task_id)


def test_several_at_once(world: World) -> None:
    agent = world.svid()
    with world.calling(agent) as caller, at_the_door(world, an_enforcer(world)) as gateway:
        task_id = declare(world, caller)
        tools = [{"resource": {"type": "tool", "id": name}} for name in ("query-orders", "no-such-tool")]
        body = about(agent, task_id) | {
            "evaluations": [*tools, *tools],
            "options": {"evaluations_semantic": "deny_on_first_deny"},
        }
        reply = gateway.post(EVALUATIONS, body)
        assert [one["decision"] for one in reply.body["evaluations"]] == [True, False]
        reasons = [one["context"].get("reason") for one in reply.body["evaluations"]]
        assert reasons == [None, "TOOL_NOT_ALLOWED"]


def test_the_door_follows_the_brokers_svid_without_a_restart(world: World) -> None:
    agent = world.svid()
    first = leaf_of(world)
    with at_the_door(world, agent) as open_all_along:
        assert open_all_along.get(METADATA).status == 200
        until(
            lambda: leaf_of(world) != first,
            "another SVID is shown",
            patience=SVID_TTL.total_seconds() + 20,
        )
        assert open_all_along.get(METADATA).status == 200
    assert leaf_of(world).not_valid_after_utc > first.not_valid_after_utc


def test_curl_needs_nothing_but_an_svid(world: World, tmp_path: Path) -> None:
    agent = world.svid()
    files = {"svid.pem": agent.chain, "key.pem": agent.key, "bundle.pem": agent.authorities}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    port = world.stack.broker.authzen_address.rpartition(":")[2]
    with world.calling(agent) as caller:
        task_id = declare(world, caller)
        done = subprocess.run(
            [
                "curl", "--silent", "--show-error", "--max-time", "20",
                "--cert", "svid.pem", "--key", "key.pem", "--cacert", "bundle.pem",
                "--connect-to", f"tasklease-broker:443:127.0.0.1:{port}",
                "-H", "Content-Type: application/json", "-d", json.dumps(about(agent, task_id)),
                f"https://tasklease-broker{EVALUATION}",
            ],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["decision"] is True


def _is_closed(one: Connection) -> bool:
    try:
        return one.tls.recv(1) == b""
    except ConnectionError:
        return True


def test_it_ends_with_the_broker_and_idle_connections_do_not_hold_it_up(world: World) -> None:
    agent = world.svid()
    running = world.stack._processes.running("broker")
    assert running is not None
    with world.calling(agent) as caller:
        task_id = declare(world, caller)
    with at_the_door(world, agent) as idle:
        assert idle.post(EVALUATION, about(agent, task_id, action=DAY)).body["decision"] is True
        began = time.monotonic()
        os.kill(running.pid, signal.SIGTERM)
        assert _is_closed(idle)
        until(lambda: not world.stack.is_running("broker"), "the broker has ended", patience=15)
        assert time.monotonic() - began < 8, "well within its grace of 10 seconds"
