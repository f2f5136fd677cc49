"""R5 and R7 of those who report what they saw: an agent reports nobody, and a reporter learns and undoes nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.api.v1 import leases_pb2, operators_pb2, signals_pb2
from broker.client import Svid
from broker.demo.callers import Answer, Caller
from tests.integration.authzen.asking import declare
from tests.threats.world import World

NOBODYS_TASK = "task-" + "0" * 26


def report(caller: Caller, instance: str, **changed: Any) -> Answer:
    good: dict[str, Any] = {
        "event_id": "event-0001",
        "instance": instance,
        "kind": "malware",
        "severity": signals_pb2.SIGNAL_SEVERITY_CRITICAL,
        "confidence": 1.0,
        "happened": "my words",
    }
    return caller.call("ReportSignal", signals_pb2.ReportSignalRequest(**good | changed), timeout=20)


def refusals(world: World, svid: Svid) -> list[dict[str, Any]]:
    found = world.rows(
        "SELECT facts FROM audit_records WHERE kind = 'operator.refused' AND actor = ? ORDER BY sequence",
        svid.spiffe_id,
    )
    return [json.loads(facts) for (facts,) in found]


def findings(world: World, instance: str) -> list[tuple[Any, ...]]:
    found = world.rows("SELECT facts FROM audit_records WHERE kind IN ('signal.received', 'anomaly.found')")
    return [facts for (facts,) in found if instance in facts]


@pytest.mark.parametrize("about", ["another", "itself"])
def test_an_agent_reports_nobody(world: World, about: str) -> None:
    victim, hijacked = world.svid(), world.svid()
    subject = victim if about == "another" else hijacked
    with world.calling(victim) as other, world.calling(hijacked) as caller:
        task_id = declare(world, other)
        with world.alive(victim, task_id):
            answer = report(caller, subject.spiffe_id)
            assert (answer.code.name, answer.reason) == ("PERMISSION_DENIED", "OPERATOR_UNKNOWN")
            assert world.try_acquire(other, task_id).ok
    assert not findings(world, subject.spiffe_id)
    (facts,) = refusals(world, hijacked)
    assert (facts["rpc"], facts["reason"]) == (
        "/broker.api.v1.SignalService/ReportSignal",
        "OPERATOR_UNKNOWN",
    )
    assert "my words" in facts["request"]


@pytest.mark.parametrize("path", ["operator", "registrar", "viewer", "enforcer"])
def test_no_other_role_reports(world: World, path: str) -> None:
    victim, somebody = world.svid(), world.svid(path=path)
    with world.calling(somebody) as caller:
        answer = report(caller, victim.spiffe_id)
    assert (answer.code.name, answer.reason) == ("PERMISSION_DENIED", "OPERATOR_ROLE_MISSING")
    assert not findings(world, victim.spiffe_id)
    assert [facts["reason"] for facts in refusals(world, somebody)] == ["OPERATOR_ROLE_MISSING"]


def test_a_signaller_that_names_anothers_task_learns_nothing(world: World) -> None:
    owner, other, signaller = world.svid(), world.svid(), world.svid(path="signaller")
    with world.calling(owner) as agent, world.calling(signaller) as caller:
        task_id = declare(world, agent)
        with world.alive(owner, task_id):
            stolen = report(caller, other.spiffe_id, task_id=task_id)
            nothing = report(caller, other.spiffe_id, task_id=NOBODYS_TASK)
            assert (stolen.code.name, stolen.reason) == ("NOT_FOUND", "TASK_NOT_FOUND")
            assert (stolen.code, stolen.reason, stolen.text) == (nothing.code, nothing.reason, nothing.text)
            assert world.try_acquire(agent, task_id).ok
    assert not findings(world, other.spiffe_id)
    assert [facts["reason"] for facts in refusals(world, signaller)] == ["TASK_NOT_FOUND"] * 2


@pytest.mark.parametrize(
    ("subject", "reason"),
    [
        ("spiffe://dev.tasklease.test/agent/unlisted/one", "AGENT_CLASS_UNKNOWN"),
        ("spiffe://other.test/agent/invoice-bot/one", "AGENT_CLASS_UNKNOWN"),
        ("spiffe://dev.tasklease.test/operator/ann", "FIELD_INVALID"),
        ("spiffe://dev.tasklease.test/tasklease/broker", "FIELD_INVALID"),
        ("spiffe://dev.tasklease.test/agent/invoice-bot/../other", "FIELD_INVALID"),
    ],
)
def test_nobody_is_reported_who_is_no_instance_of_the_catalog(
    world: World, subject: str, reason: str
) -> None:
    signaller = world.svid(path="signaller")
    with world.calling(signaller) as caller:
        assert report(caller, subject).reason == reason
    assert not findings(world, subject)
    assert [facts["reason"] for facts in refusals(world, signaller)] == [reason]


def test_a_signaller_can_do_nothing_else(world: World) -> None:
    victim, signaller = world.svid(), world.svid(path="signaller")
    target = operators_pb2.QuarantineTarget(instance=victim.spiffe_id)
    with world.calling(signaller) as caller:
        for rpc, request in (
            ("Quarantine", operators_pb2.QuarantineRequest(target=target, reason="mine")),
            ("Release", operators_pb2.ReleaseRequest(target=target, reason="mine")),
            ("ListLeases", leases_pb2.ListLeasesRequest()),
        ):
            answer = caller.call(rpc, request)
            assert (answer.code.name, answer.reason) == ("PERMISSION_DENIED", "OPERATOR_ROLE_MISSING")
        assert world.try_declare(caller).reason == "AGENT_CLASS_UNKNOWN"


def test_what_cannot_be_written_down_is_not_taken(world: World) -> None:
    victim, signaller = world.svid(), world.svid(path="signaller")
    with world.calling(signaller) as caller, world.store_unavailable():
        answer = report(caller, victim.spiffe_id)
        assert (answer.code.name, answer.reason) == ("UNAVAILABLE", "STORE_UNAVAILABLE")
    assert not findings(world, victim.spiffe_id)
