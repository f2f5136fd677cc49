"""R4 to R7 at the AuthZEN door: who is nobody gets no answer, and who is somebody gets its own and nothing more."""

from __future__ import annotations

import gzip
import json
import ssl
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.api.v1 import operators_pb2, tools_pb2
from broker.client import Svid
from broker.demo.callers import svid_of
from broker.devstack.processes import Processes
from broker.devstack.spire import SERVER, Spire
from broker.devstack.stack import DevStack
from broker.devstack.state import State
from tests.https import ACTIONS, EVALUATION, EVALUATIONS, METADATA, RESOURCES, Reply, connected
from tests.integration.authzen.asking import about, an_enforcer, at_the_door, declare
from tests.threats.world import World, until

REFUSED_BY_TLS = (ssl.SSLError, ConnectionError)
NOBODYS_TASK = "task-" + "0" * 26
SECRET = "planted-4711"


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spire]:
    """Another SPIRE server that calls its trust domain by the same name."""
    folder = tmp_path_factory.mktemp("foreign")
    state = State(folder / "state")
    state.make()
    processes = Processes(state.run)
    spire = Spire(state, processes, DevStack(folder / "unused").find_parts())
    try:
        spire.start_server()
        yield spire
    finally:
        processes.stop(SERVER)


def refusals(world: World, svid: Svid) -> list[dict[str, Any]]:
    found = world.rows(
        "SELECT facts FROM audit_records WHERE kind = 'operator.refused' AND actor = ? ORDER BY sequence",
        svid.spiffe_id,
    )
    return [json.loads(facts) for (facts,) in found]


def chain(world: World, task_id: str) -> list[tuple[Any, ...]]:
    return world.rows("SELECT * FROM actions WHERE task_id = ?", task_id)


def ask(world: World, who: Svid, path: str, body: object) -> Reply:
    with at_the_door(world, who) as one:
        return one.get(path) if path == METADATA else one.post(path, body)


# Who it is.


def test_who_shows_no_certificate_gets_no_answer(world: World) -> None:
    address, authorities = world.stack.broker.authzen_address, world.svid().authorities
    with pytest.raises(REFUSED_BY_TLS), connected(address, authorities=authorities, svid=None) as one:
        one.get(METADATA)


def test_an_authority_of_the_same_name_is_a_stranger(world: World, foreign: Spire, tmp_path: Path) -> None:
    good = world.svid()
    files = foreign.mint(good.spiffe_id, ttl=timedelta(minutes=5), folder=tmp_path / "foreign")
    bad = svid_of(files, good.spiffe_id)
    mixed = Svid(
        spiffe_id=bad.spiffe_id, chain=bad.chain + good.chain, key=bad.key, authorities=good.authorities
    )
    assert ask(world, good, METADATA, {}).status == 200
    for svid in (bad, mixed):
        with (
            pytest.raises(REFUSED_BY_TLS),
            at_the_door(world, svid, authorities=good.authorities) as one,
        ):
            one.get(METADATA)


def test_an_svid_that_expires_is_refused_on_the_connection_that_is_open(world: World) -> None:
    svid = world.svid(ttl=timedelta(seconds=4))
    with at_the_door(world, svid) as one:
        assert one.get(METADATA).status == 200
        until(lambda: one.get(METADATA).status != 200, "refused", patience=10)
        reply = one.get(METADATA)
        assert (reply.status, reply.reason) == (401, "SVID_EXPIRED")
    with pytest.raises(REFUSED_BY_TLS), at_the_door(world, svid) as late:
        late.get(METADATA)


@pytest.mark.parametrize("path", ["agent/unlisted", "operators", "tasklease", "enforcers"])
def test_who_is_neither_an_instance_of_a_task_nor_an_enforcer_decides_nothing(
    world: World, path: str
) -> None:
    owner, other = world.svid(), world.svid("ann", path=path)
    with world.calling(owner) as caller:
        task_id = declare(world, caller)
    reply = ask(world, other, EVALUATION, about(owner, task_id))
    assert reply.status == (404 if path.startswith("agent") else 403)
    assert not chain(world, task_id)
    if not path.startswith("agent"):
        assert [facts["reason"] for facts in refusals(world, other)] == ["OPERATOR_UNKNOWN"]


# An agent.


@pytest.mark.parametrize("path", [EVALUATION, EVALUATIONS, RESOURCES, ACTIONS])
@pytest.mark.parametrize("as_whom", ["the owner", "itself"])
def test_somebody_elses_task_is_as_if_it_did_not_exist(world: World, path: str, as_whom: str) -> None:
    owner, thief = world.svid(), world.svid()
    subject = owner if as_whom == "the owner" else thief
    with world.calling(owner) as caller:
        task_id = declare(world, caller)
        with world.alive(owner, task_id):
            stolen = ask(world, thief, path, about(subject, task_id))
            nothing = ask(world, thief, path, about(subject, NOBODYS_TASK))
    assert (stolen.status, stolen.reason) == (nothing.status, nothing.reason) == (404, "TASK_NOT_FOUND")
    assert stolen.body["error"]["message"] == nothing.body["error"]["message"]
    assert not chain(world, task_id)


def test_nothing_in_a_request_makes_somebody_an_enforcer(world: World) -> None:
    owner, thief, gateway = world.svid(), world.svid(), an_enforcer(world)
    with world.calling(owner) as caller:
        task_id = declare(world, caller)
    headers = {
        "X_Forwarded_Client_Cert": f"URI={gateway.spiffe_id}",
        "Authorization": f"Bearer {gateway.spiffe_id}",
        "X_Forwarded_For": "127.0.0.1",
    }
    with at_the_door(world, thief) as one:
        reply = one.post(EVALUATION, about(owner, task_id) | {"roles": ["enforcer"]}, **headers)
    assert (reply.status, reply.reason) == (404, "TASK_NOT_FOUND")
    assert not chain(world, task_id)


def test_a_task_that_has_ended_gets_no_decision(world: World) -> None:
    owner, gateway = world.svid(), an_enforcer(world)
    with world.calling(owner) as caller:
        task_id = declare(world, caller)
        assert world.complete(caller, task_id).ok
    for who in (owner, gateway):
        reply = ask(world, who, EVALUATION, about(owner, task_id))
        assert (reply.status, reply.reason) == (409, "TASK_NOT_ACTIVE")
    assert not chain(world, task_id)


# An operator.


@pytest.mark.parametrize("path", [EVALUATION, EVALUATIONS, RESOURCES, ACTIONS, METADATA])
@pytest.mark.parametrize("role", ["operator", "registrar", "viewer"])
def test_an_operator_without_the_role_asks_nothing_and_is_written_down(
    world: World, role: str, path: str
) -> None:
    owner, operator = world.svid(), world.svid(path=role)
    with world.calling(owner) as caller:
        task_id = declare(world, caller)
    reply = ask(world, operator, path, about(owner, task_id))
    assert (reply.status, reply.reason) == (403, "OPERATOR_ROLE_MISSING")
    (facts,) = refusals(world, operator)
    assert (facts["rpc"], facts["reason"]) == (path, "OPERATOR_ROLE_MISSING")
    assert not chain(world, task_id)


# An enforcer.


@pytest.mark.parametrize(
    ("subject", "status", "reason"),
    [
        ("spiffe://dev.tasklease.test/operator/ann", 400, "FIELD_INVALID"),
        ("spiffe://dev.tasklease.test/tasklease/broker", 400, "FIELD_INVALID"),
        ("spiffe://dev.tasklease.test/agent/invoice-bot", 400, "FIELD_INVALID"),
        ("spiffe://dev.tasklease.test/agent/invoice-bot/one/more", 400, "FIELD_INVALID"),
        ("spiffe://dev.tasklease.test/agent/invoice-bot/../other", 400, "FIELD_INVALID"),
        ("spiffe://dev.tasklease.test/agent/unlisted/one", 403, "AGENT_CLASS_UNKNOWN"),
        ("spiffe://other.test/agent/invoice-bot/one", 403, "AGENT_CLASS_UNKNOWN"),
    ],
)
def test_an_enforcer_asks_for_instances_of_the_catalog_alone(
    world: World, subject: str, status: int, reason: str
) -> None:
    gateway, owner = an_enforcer(world), world.svid()
    with world.calling(owner) as caller:
        task_id = declare(world, caller)
    body = about(owner, task_id) | {"subject": {"type": "instance", "id": subject}}
    reply = ask(world, gateway, EVALUATION, body)
    assert (reply.status, reply.reason) == (status, reason)
    (facts,) = refusals(world, gateway)
    assert facts["reason"] == reason
    assert json.loads(facts["request"])[0]["subject"] == subject
    assert not chain(world, task_id)


def test_an_enforcer_asks_for_an_instances_own_task_alone(world: World) -> None:
    gateway, owner, other = an_enforcer(world), world.svid(), world.svid()
    with world.calling(owner) as caller:
        task_id = declare(world, caller)
    reply = ask(world, gateway, EVALUATION, about(other, task_id))
    assert (reply.status, reply.reason) == (404, "TASK_NOT_FOUND")
    assert [facts["reason"] for facts in refusals(world, gateway)] == ["TASK_NOT_FOUND"]
    assert not chain(world, task_id)


def test_an_enforcer_asks_for_nobody_who_is_quarantined(world: World) -> None:
    gateway, owner, operator = an_enforcer(world), world.svid(), world.svid(path="operator")
    target = operators_pb2.QuarantineTarget(instance=owner.spiffe_id)
    with world.calling(owner) as caller, world.calling(operator) as ann:
        task_id = declare(world, caller)
        request = operators_pb2.QuarantineRequest(target=target, reason="a test")
        assert ann.call("Quarantine", request, timeout=30).ok
        try:
            for who in (gateway, owner):
                reply = ask(world, who, EVALUATION, about(owner, task_id))
                assert (reply.status, reply.reason) == (403, "INSTANCE_QUARANTINED")
        finally:
            release = operators_pb2.ReleaseRequest(target=target, reason="the test is over")
            assert ann.call("Release", release, timeout=30).ok
    assert [facts["reason"] for facts in refusals(world, gateway)] == ["INSTANCE_QUARANTINED"]
    assert not chain(world, task_id)


def test_an_enforcer_can_do_nothing_else(world: World) -> None:
    gateway, owner = an_enforcer(world), world.svid()
    with world.calling(owner) as caller, world.calling(gateway) as enforcer:
        task_id = declare(world, caller)
        with world.alive(owner, task_id):
            call = tools_pb2.Call(tool="read-mail")
            for answer in (
                enforcer.call(
                    "AuthorizeAction", tools_pb2.AuthorizeActionRequest(task_id=task_id, call=call)
                ),
                enforcer.call("ListTools", tools_pb2.ListToolsRequest(task_id=task_id)),
                world.try_acquire(enforcer, task_id),
                world.try_declare(enforcer),
                world.complete(enforcer, task_id),
            ):
                assert (answer.code.name, answer.reason) == ("PERMISSION_DENIED", "AGENT_CLASS_UNKNOWN")
            listing = enforcer.call("ListQuarantines", operators_pb2.ListQuarantinesRequest())
            assert (listing.code.name, listing.reason) == ("PERMISSION_DENIED", "OPERATOR_ROLE_MISSING")
    assert not chain(world, task_id)


def test_what_cannot_be_written_down_is_not_allowed(world: World) -> None:
    gateway, owner = an_enforcer(world), world.svid()
    with world.calling(owner) as caller:
        task_id = declare(world, caller)
    with world.store_unavailable():
        for who in (owner, gateway, world.svid(path="viewer")):
            reply = ask(world, who, EVALUATION, about(owner, task_id))
            assert (reply.status, reply.reason) == (503, "STORE_UNAVAILABLE")
    assert not chain(world, task_id)


# What is sent.


BOMBS: dict[str, tuple[bytes, dict[str, str], int]] = {
    "nested": (b'{"subject": ' + b"[" * 60_000, {}, 400),
    "large": (b" " * 70_000, {}, 413),
    "compressed": (gzip.compress(b" " * 10_000_000), {"Content_Encoding": "gzip"}, 415),
    "many digits": (b'{"context": ' + b"9" * 60_000 + b"}", {}, 400),
    "many evaluations": (b'{"evaluations": [' + b",".join([b"{}"] * 20_000) + b"]}", {}, 400),
    "two names": (b'{"subject": {"type": "instance"}, "subject": {}}', {}, 400),
    "no JSON": (b"subject=me", {}, 400),
    "a form": (b"subject=me", {"Content_Type": "application/x-www-form-urlencoded"}, 415),
}


@pytest.mark.parametrize("case", BOMBS)
def test_a_body_that_is_a_bomb_is_refused_and_the_broker_goes_on(world: World, case: str) -> None:
    data, headers, status = BOMBS[case]
    with at_the_door(world) as one:
        reply = one.post(EVALUATIONS, data, **headers)
    assert (reply.status, reply.reason) == (status, "FIELD_INVALID")
    with at_the_door(world) as one:
        assert one.get(METADATA).status == 200


def test_no_argument_is_in_the_trail_the_log_or_an_error(world: World) -> None:
    owner, gateway = world.svid(), an_enforcer(world)
    with world.calling(owner) as caller:
        task_id = declare(world, caller)
        with world.alive(owner, task_id), at_the_door(world, gateway) as one:
            for arguments in ({"day": SECRET}, {"day": [SECRET]}, {"day": "2026-11-25"}, {SECRET: 1}):
                action = {"name": "call", "properties": {"arguments": arguments}}
                for path in (EVALUATION, EVALUATIONS):
                    reply = one.post(path, about(owner, task_id, action=action))
                    # An argument's name is the schema's business, and said to whoever gave it.
                    assert SECRET in arguments or SECRET not in json.dumps(reply.body)
            wrong = {"name": "call", "properties": {"day": SECRET}}
            assert SECRET not in json.dumps(one.post(EVALUATION, about(owner, task_id, action=wrong)).body)
    assert len(chain(world, task_id)) == 4, "two of the four were decided, each time"
    everything = json.dumps(world.rows("SELECT facts FROM audit_records"))
    logs = "".join(file.read_text() for file in world.stack.log_files(["broker"]))
    assert SECRET not in everything
    assert SECRET not in logs
