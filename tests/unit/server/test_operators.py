"""Agents and operators at one gate: told apart by the RPC's line in the table, each refusal written down first."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, json_format

from broker.api.v1 import (
    anomalies_pb2,
    credentials_pb2,
    instances_pb2,
    leases_pb2,
    operators_pb2,
    signals_pb2,
    tasks_pb2,
)
from broker.domain.audit import AuditEvent, AuditKind
from broker.domain.operators import OperatorRole
from broker.domain.spiffe import SpiffeId
from broker.server import gate as gate_module
from broker.server.rpc_table import RPCS, CallerKind, RpcRule
from tests.fakes.samples import BROKER, OTHER, OWNER
from tests.unit.server.conftest import Serve
from tests.unit.server.served import (
    ANN,
    ANOMALIES,
    HEALTH,
    INSTANCES,
    LEASES,
    QUARANTINES,
    REFLECTION,
    SIGNALS,
    TASKS,
    VERA,
    Limits,
    Refusal,
    Served,
    a_declaration,
)
from tests.unit.server.test_gate import eventually, several

OPERATING = tuple(method for method, rule in RPCS.items() if rule.caller is CallerKind.OPERATOR)
FOR_AGENTS = tuple(method for method in RPCS if method not in OPERATING)


def a_quarantine(**changed: Any) -> operators_pb2.QuarantineRequest:
    good: dict[str, Any] = {"target": {"instance": str(OWNER)}, "reason": "it sends mail to strangers"}
    return operators_pb2.QuarantineRequest(**good | changed)


def a_release(**changed: Any) -> operators_pb2.ReleaseRequest:
    good: dict[str, Any] = {"target": {"instance": str(OWNER)}, "reason": "it was the test"}
    return operators_pb2.ReleaseRequest(**good | changed)


def a_signal(**changed: Any) -> signals_pb2.ReportSignalRequest:
    good: dict[str, Any] = {
        "event_id": "event-0001",
        "instance": str(OWNER),
        "kind": "malware",
        "severity": signals_pb2.SIGNAL_SEVERITY_HIGH,
        "confidence": 0.5,
        "happened": "a process that nobody started",
    }
    return signals_pb2.ReportSignalRequest(**good | changed)


def listing(**fields: Any) -> operators_pb2.ListQuarantinesRequest:
    return operators_pb2.ListQuarantinesRequest(**fields)


WATCHING = ANOMALIES + "WatchFindings"
NOTHING_THERE = {
    LEASES + "GetLease": "LEASE_NOT_FOUND",
    ANOMALIES + "GetFinding": "FINDING_NOT_FOUND",
}
REQUESTS = {
    QUARANTINES + "Quarantine": a_quarantine(),
    QUARANTINES + "Release": a_release(),
    QUARANTINES + "ListQuarantines": listing(),
    INSTANCES + "ReportEnded": instances_pb2.ReportEndedRequest(spiffe_id=str(OWNER)),
    ANOMALIES + "ListFindings": anomalies_pb2.ListFindingsRequest(),
    ANOMALIES + "GetFinding": anomalies_pb2.GetFindingRequest(finding_id="finding-1"),
    ANOMALIES + "MarkFinding": anomalies_pb2.MarkFindingRequest(
        finding_id="finding-1", mark=anomalies_pb2.ANOMALY_MARK_FALSE
    ),
    ANOMALIES + "LiftHold": anomalies_pb2.LiftHoldRequest(task_id="task-1", reason="a test"),
    ANOMALIES + "WatchFindings": anomalies_pb2.WatchFindingsRequest(),
    LEASES + "ListLeases": leases_pb2.ListLeasesRequest(),
    LEASES + "GetLease": leases_pb2.GetLeaseRequest(lease_id="lease-1"),
    LEASES + "RevokeLease": leases_pb2.RevokeLeaseRequest(lease_id="lease-1", reason="a test"),
    LEASES + "Reconcile": leases_pb2.ReconcileRequest(reason="a test"),
    SIGNALS + "ReportSignal": a_signal(),
}


async def quarantined(served: Served, **changed: Any) -> operators_pb2.QuarantineResponse:
    answer = await served.call(QUARANTINES + "Quarantine", a_quarantine(**changed))
    return operators_pb2.QuarantineResponse.FromString(answer)


async def listed(served: Served, **fields: Any) -> operators_pb2.ListQuarantinesResponse:
    answer = await served.call(QUARANTINES + "ListQuarantines", listing(**fields))
    return operators_pb2.ListQuarantinesResponse.FromString(answer)


async def to_the_end(stream: Any) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


async def events(served: Served) -> list[AuditEvent]:
    return [record.event for record in await served.store.audit_records(0, 10_000)]


async def as_(served: Served, who: SpiffeId, method: str) -> Refusal:
    channel = served.connect(served.authority.svid(who))
    if method != WATCHING:
        return await served.refused(method, REQUESTS[method], channel=channel)
    with pytest.raises(grpc.RpcError) as caught:
        await served.stream(method, REQUESTS[method], channel=channel).read()
    return Refusal.of(caught.value)


def test_the_table_and_the_requests_here_name_the_same_rpcs() -> None:
    pool = descriptor_pool.Default()
    services = [
        pool.FindServiceByName(f"broker.api.v1.{name}Service")
        for name in ("Quarantine", "Instance", "Lease", "Signal", "Anomaly")
    ]
    methods = {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}
    assert set(OPERATING) == methods == set(REQUESTS)


def test_every_rpc_for_operators_takes_a_role_and_no_other_does() -> None:
    assert all(RPCS[method].roles for method in OPERATING)
    assert not any(RPCS[method].roles for method in FOR_AGENTS)


@pytest.mark.parametrize("method", OPERATING)
@pytest.mark.parametrize(
    "who",
    [
        OWNER,
        BROKER,
        SpiffeId.parse("spiffe://example.test/operator"),
        SpiffeId.parse("spiffe://example.test/viewer/of/all"),
        SpiffeId.parse("spiffe://example.test/agent/operator/ann"),
        SpiffeId.parse("spiffe://example.test/agent/operator"),
    ],
    ids=str,
)
async def test_who_is_no_operator_is_refused_and_written_down(
    served: Served, method: str, who: SpiffeId
) -> None:
    refusal = await as_(served, who, method)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "OPERATOR_UNKNOWN")
    assert refusal.metadata["denial_class"] == "structural"
    assert await served.store.quarantines() == ()
    (event,) = await events(served)
    assert (event.kind, event.actor) == (AuditKind.OPERATOR_REFUSED, str(who))
    assert event.request_id == refusal.metadata["request_id"]
    assert (event.facts["rpc"], event.facts["reason"]) == (method, "OPERATOR_UNKNOWN")


@pytest.mark.parametrize("method", OPERATING)
async def test_a_role_that_is_missing_is_refused_and_written_down(served: Served, method: str) -> None:
    if OperatorRole.VIEWER in RPCS[method].roles:
        channel = served.connect(served.authority.svid(VERA))
        if method in NOTHING_THERE:  # the role is there, what is asked for is not
            refusal = await served.refused(method, REQUESTS[method], channel=channel)
            assert refusal.reason == NOTHING_THERE[method]
            return
        if method == WATCHING:
            begin = await served.stream(method, REQUESTS[method], channel=channel).read()
            assert begin == b"", "nothing is found yet"
            return
        await served.call(method, REQUESTS[method], channel=channel)
        return
    refusal = await as_(served, VERA, method)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "OPERATOR_ROLE_MISSING")
    assert refusal.metadata["denial_class"] == "grantable"
    (event,) = await events(served)
    assert (event.kind, event.actor) == (AuditKind.OPERATOR_REFUSED, str(VERA))
    assert json.loads(str(event.facts["request"])) == json_format.MessageToDict(REQUESTS[method])


async def test_an_rpc_for_operators_without_a_role_in_the_table_is_nobodys(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = RpcRule(caller=CallerKind.OPERATOR, action="-", cost=1, audited=())
    monkeypatch.setattr(gate_module, "RPCS", {**RPCS, QUARANTINES + "Quarantine": rule})
    refusal = await as_(served, ANN, QUARANTINES + "Quarantine")
    assert refusal.reason == "OPERATOR_ROLE_MISSING"


@pytest.mark.parametrize("method", FOR_AGENTS)
async def test_an_operator_calls_nothing_that_is_for_agents(served: Served, method: str) -> None:
    if method == REFLECTION:
        call = served.operator.stream_stream(method)(several(b""), timeout=10)
    elif method in {TASKS + "AttachTask", HEALTH + "Watch"}:
        call = served.stream(method, b"", channel=served.operator)
    else:
        refusal = await served.refused(method, b"", channel=served.operator)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "AGENT_CLASS_UNKNOWN")
        return
    with pytest.raises(grpc.RpcError) as caught:
        await call.read()
    assert Refusal.of(caught.value).reason == "AGENT_CLASS_UNKNOWN"


async def test_what_an_operator_did_is_written_down_with_who_and_why(served: Served) -> None:
    await quarantined(served)
    await listed(served)
    await served.call(QUARANTINES + "Release", a_release())
    found = await events(served)
    assert [event.kind for event in found] == [
        AuditKind.QUARANTINE_IMPOSED,
        AuditKind.QUARANTINE_LISTED,
        AuditKind.QUARANTINE_RELEASED,
    ]
    assert {event.actor for event in found} == {str(ANN)}
    assert all(event.request_id.startswith("req-") for event in found)
    wanted: Mapping[str, object] = {"target": "instance", "name": str(OWNER)}
    assert found[0].facts.items() >= {**wanted, "reason": "it sends mail to strangers"}.items()
    assert found[2].facts.items() >= {**wanted, "reason": "it was the test"}.items()


@pytest.mark.parametrize(
    ("method", "request_", "reason"),
    [
        (QUARANTINES + "Quarantine", a_quarantine(reason=""), "FIELD_INVALID"),
        (QUARANTINES + "Quarantine", b"\xff", "FIELD_INVALID"),
        (QUARANTINES + "Release", a_release(), "QUARANTINE_NOT_FOUND"),
        (QUARANTINES + "ListQuarantines", listing(page_size=201), "FIELD_INVALID"),
        (QUARANTINES + "ListQuarantines", listing(page_token="nonsense"), "FIELD_INVALID"),
        (LEASES + "ListLeases", leases_pb2.ListLeasesRequest(page_size=-1), "FIELD_INVALID"),
        (LEASES + "ListLeases", leases_pb2.ListLeasesRequest(page_token="' OR 1=1"), "FIELD_INVALID"),
        (
            LEASES + "ListLeases",
            leases_pb2.ListLeasesRequest(states=[credentials_pb2.LEASE_STATE_LIVE] * 2),
            "FIELD_INVALID",
        ),
        (LEASES + "ListLeases", b"\x0a\x01\x06", "FIELD_INVALID"),
        (LEASES + "ListLeases", leases_pb2.ListLeasesRequest(task_id="X"), "FIELD_INVALID"),
        (LEASES + "ListLeases", leases_pb2.ListLeasesRequest(owner=str(ANN)), "FIELD_INVALID"),
        (ANOMALIES + "ListFindings", anomalies_pb2.ListFindingsRequest(page_size=-1), "FIELD_INVALID"),
        (ANOMALIES + "ListFindings", anomalies_pb2.ListFindingsRequest(page_token="'"), "FIELD_INVALID"),
        (ANOMALIES + "ListFindings", anomalies_pb2.ListFindingsRequest(detector="X"), "FIELD_INVALID"),
        (ANOMALIES + "ListFindings", anomalies_pb2.ListFindingsRequest(task_id="X"), "FIELD_INVALID"),
        (ANOMALIES + "ListFindings", anomalies_pb2.ListFindingsRequest(instance=str(ANN)), "FIELD_INVALID"),
        (ANOMALIES + "ListFindings", b"\x20\x63", "FIELD_INVALID"),  # a severity that there is not
        (ANOMALIES + "GetFinding", anomalies_pb2.GetFindingRequest(), "FIELD_INVALID"),
        (ANOMALIES + "GetFinding", anomalies_pb2.GetFindingRequest(finding_id="f-1"), "FINDING_NOT_FOUND"),
        (ANOMALIES + "MarkFinding", anomalies_pb2.MarkFindingRequest(finding_id="f-1"), "FIELD_INVALID"),
        (
            ANOMALIES + "MarkFinding",
            anomalies_pb2.MarkFindingRequest(
                finding_id="f-1", mark=anomalies_pb2.ANOMALY_MARK_FALSE, reason="x" * 1001
            ),
            "FIELD_INVALID",
        ),
        (ANOMALIES + "MarkFinding", REQUESTS[ANOMALIES + "MarkFinding"], "FINDING_NOT_FOUND"),
        (ANOMALIES + "LiftHold", anomalies_pb2.LiftHoldRequest(task_id="task-1"), "FIELD_INVALID"),
        (ANOMALIES + "LiftHold", anomalies_pb2.LiftHoldRequest(reason="x"), "FIELD_INVALID"),
        (ANOMALIES + "LiftHold", REQUESTS[ANOMALIES + "LiftHold"], "TASK_NOT_FOUND"),
        (LEASES + "GetLease", leases_pb2.GetLeaseRequest(), "FIELD_INVALID"),
        (LEASES + "GetLease", leases_pb2.GetLeaseRequest(lease_id="lease-1"), "LEASE_NOT_FOUND"),
        (LEASES + "RevokeLease", leases_pb2.RevokeLeaseRequest(lease_id="lease-1"), "FIELD_INVALID"),
        (
            LEASES + "RevokeLease",
            leases_pb2.RevokeLeaseRequest(lease_id="lease-1", reason="x"),
            "LEASE_NOT_FOUND",
        ),
        (LEASES + "Reconcile", leases_pb2.ReconcileRequest(reason=" "), "FIELD_INVALID"),
        (LEASES + "Reconcile", leases_pb2.ReconcileRequest(reason="x" * 1001), "FIELD_INVALID"),
    ],
)
async def test_what_an_operator_was_refused_is_written_down(
    served: Served, method: str, request_: Any, reason: str
) -> None:
    assert (await served.refused(method, request_)).reason == reason
    (event,) = await events(served)
    assert (event.kind, event.actor, event.facts["reason"]) == (
        AuditKind.OPERATOR_REFUSED,
        str(ANN),
        reason,
    )


async def test_what_fails_unforeseen_is_written_down_without_its_text(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(**_arguments: object) -> None:
        message = "hvs.planted"
        raise RuntimeError(message)

    monkeypatch.setattr(served.store, "quarantine_page", fail)
    assert (await served.refused(QUARANTINES + "ListQuarantines", listing())).reason == "INTERNAL"
    (event,) = await events(served)
    assert event.facts["reason"] == "INTERNAL"
    assert "planted" not in str(event)


async def test_of_a_refused_request_only_so_much_is_kept(served: Served) -> None:
    request = a_quarantine(reason="ü" * 10_000)
    refusal = await served.refused(QUARANTINES + "Quarantine", request, channel=served.channel)
    assert refusal.reason == "OPERATOR_UNKNOWN"
    (event,) = await events(served)
    assert len(str(event.facts["request"])) == 2000


async def test_what_cannot_be_written_down_is_answered_as_that(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served.store, "_closing", True)
    for channel in (served.channel, served.operator):
        refusal = await served.refused(QUARANTINES + "Quarantine", a_quarantine(), channel=channel)
        assert refusal.reason == "STORE_UNAVAILABLE"
    monkeypatch.undo()
    assert await events(served) == []


async def test_an_agent_writes_no_more_refusals_than_its_rate_allows(serve: Serve) -> None:
    served = await serve(Limits(rate=0.001, burst=8))
    answers = [await as_(served, OWNER, QUARANTINES + "Quarantine") for _ in range(5)]
    assert [answer.reason for answer in answers] == ["OPERATOR_UNKNOWN"] * 2 + ["RATE_LIMITED"] * 3
    assert len(await events(served)) == 2
    await quarantined(served)


async def test_operators_have_room_when_agents_have_taken_all_there_is(serve: Serve) -> None:
    served = await serve(Limits(max_concurrent_calls=1))
    task_id = await served.declared()
    stream = served.stream(TASKS + "AttachTask", tasks_pb2.AttachTaskRequest(task_id=task_id))
    assert await stream.read()
    assert (await served.refused(TASKS + "DeclareTask", a_declaration())).reason == "OVERLOADED"
    assert (await as_(served, OTHER, QUARANTINES + "Quarantine")).reason == "OVERLOADED"
    await quarantined(served)
    with pytest.raises(grpc.RpcError) as caught:
        await to_the_end(stream)
    assert Refusal.of(caught.value).reason == "INSTANCE_QUARANTINED"
    await eventually(lambda: served.gate._under_way == 0)


async def test_operators_room_is_bounded_and_comes_back(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "_MOST_OPERATORS_CALLS", 1)
    await served.acquired(await served.declared())
    with served.issuer.holding("revoke") as hold:
        first = asyncio.ensure_future(quarantined(served))
        await hold.entered.wait()
        assert (await served.refused(QUARANTINES + "ListQuarantines", listing())).reason == "OVERLOADED"
    assert (await first).tasks_found == 1
    assert len((await listed(served)).quarantines) == 1


async def test_the_next_call_on_an_open_connection_is_refused(served: Served) -> None:
    await served.declared()
    other = served.connect(served.authority.svid(OTHER))
    await quarantined(served)
    assert (await served.refused(TASKS + "ListTasks", b"")).reason == "INSTANCE_QUARANTINED"
    await served.call(TASKS + "ListTasks", b"", channel=other)
    await quarantined(served, target={"agent_class": "invoice-bot"})
    refusal = await served.refused(TASKS + "ListTasks", b"", channel=other)
    assert (refusal.reason, refusal.metadata["denial_class"]) == ("INSTANCE_QUARANTINED", "grantable")


async def test_a_quarantine_of_the_whole_trust_domain_leaves_operators_in(served: Served) -> None:
    await quarantined(served, target={"trust_domain": "example.test"})
    assert (await served.refused(TASKS + "ListTasks", b"")).reason == "INSTANCE_QUARANTINED"
    request = a_release(target={"trust_domain": "example.test"})
    await served.call(QUARANTINES + "Release", request)
    await served.call(TASKS + "ListTasks", b"")


async def test_who_is_released_from_one_quarantine_is_told_of_the_others(served: Served) -> None:
    await quarantined(served)
    await quarantined(served, target={"agent_class": "invoice-bot"})
    answer = await served.call(QUARANTINES + "Release", a_release())
    (standing,) = operators_pb2.ReleaseResponse.FromString(answer).still_standing
    assert standing.target.agent_class == "invoice-bot"
    assert (await served.refused(TASKS + "ListTasks", b"")).reason == "INSTANCE_QUARANTINED"


async def test_the_list_comes_in_pages(served: Served) -> None:
    for target in ({"agent_class": "a-bot"}, {"agent_class": "b-bot"}, {"trust_domain": "elsewhere.test"}):
        await quarantined(served, target=target)
    first = await listed(served, page_size=2)
    second = await listed(served, page_size=2, page_token=first.next_page_token)
    found = [one.target for page in (first, second) for one in page.quarantines]
    assert [one.agent_class or one.trust_domain for one in found] == ["a-bot", "b-bot", "elsewhere.test"]
    assert not second.next_page_token
    assert {one.imposed_by for one in first.quarantines} == {str(ANN)}
