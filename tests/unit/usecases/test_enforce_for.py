"""For whom an enforcer may ask, and that asking is all that it can do."""

from __future__ import annotations

import inspect
import typing
from datetime import timedelta

import pytest

from broker.domain.audit import AuditKind
from broker.domain.errors import AgentClassUnknownError, InstanceQuarantinedError, TaskNotFoundError
from broker.domain.identifiers import RequestId
from broker.domain.operators import OperatorRole
from broker.domain.peer import VerifiedOperator
from broker.domain.spiffe import SpiffeId
from broker.usecases.caller import EnforcingCaller
from broker.usecases.enforce_for import EnforceFor
from broker.usecases.judging import Call
from tests.contract.quarantining import impose
from tests.fakes.issuer import FakeIssuer
from tests.fakes.samples import OTHER, OWNER, a_catalog, a_tool
from tests.fakes.store import FakeStore
from tests.fakes.system import CountingIds, FakeClock
from tests.unit.usecases.wiring import Broker

GATEWAY = VerifiedOperator(
    spiffe_id=SpiffeId.parse("spiffe://example.test/enforcer/gateway"),
    roles=frozenset({OperatorRole.ENFORCER}),
    svid_sha256="cd" * 32,
)


def a_world() -> Broker:
    catalog = a_catalog(tools=(a_tool(),))
    return Broker(FakeStore(), FakeIssuer(), FakeClock(), CountingIds(), catalog)


def enforcing(broker: Broker, subject: SpiffeId) -> EnforcingCaller:
    enforce_for = EnforceFor(catalogs=broker.catalogs, quarantine=broker.quarantine)
    return enforce_for(GATEWAY, subject, request_id=RequestId("req-7"), time_left=timedelta(seconds=3))


async def test_a_decision_names_who_asked_and_for_whom() -> None:
    broker = a_world()
    task = await broker.declared(scope=None)
    found = await broker.authorize(
        enforcing(broker, OWNER), task.task_id, Call(tool="read-orders", arguments={})
    )
    assert (found.action.allowed, found.action.owner) == (True, OWNER)
    event = (await broker.records())[-1].event
    assert (event.kind, event.actor) == (AuditKind.ACTION_ALLOWED, str(GATEWAY.spiffe_id))
    assert (event.task_id, event.request_id) == (task.task_id, "req-7")
    facts = {name: event.facts[name] for name in ("subject", "verified_by", "svid_sha256")}
    assert facts == {"subject": str(OWNER), "verified_by": "x509-svid", "svid_sha256": "cd" * 32}


async def test_the_task_has_to_be_the_subjects() -> None:
    broker = a_world()
    task = await broker.declared(scope=None)
    caller = enforcing(broker, OTHER)
    with pytest.raises(TaskNotFoundError):
        await broker.authorize(caller, task.task_id, Call(tool="read-orders", arguments={}))
    with pytest.raises(TaskNotFoundError):
        await broker.list_tools(caller, task.task_id)


@pytest.mark.parametrize(
    "subject",
    [
        "spiffe://example.test/agent/unlisted/one",
        "spiffe://other.test/agent/invoice-bot/one",
        "spiffe://example.test/agent/invoice-bot",
        "spiffe://example.test/operator/ann",
        "spiffe://example.test/tasklease/broker",
        "spiffe://example.test",
    ],
)
def test_who_is_no_instance_of_the_catalog_is_nobody_to_ask_for(subject: str) -> None:
    with pytest.raises(AgentClassUnknownError):
        enforcing(a_world(), SpiffeId.parse(subject))


async def test_nobody_asks_for_who_is_quarantined_also_when_it_happens_in_the_middle() -> None:
    broker = a_world()
    task = await broker.declared(scope=None)
    before = enforcing(broker, OWNER)
    await impose(broker.store)
    with pytest.raises(InstanceQuarantinedError):
        await broker.authorize(before, task.task_id, Call(tool="read-orders", arguments={}))
    await broker.quarantine.refresh()
    with pytest.raises(InstanceQuarantinedError):
        enforcing(broker, OWNER)
    assert await broker.store.actions_of(task.task_id, 0, 10) == ()


def test_only_what_decides_or_lists_takes_an_enforcer() -> None:
    broker = a_world()
    takes = {
        name
        for name, one in vars(broker).items()
        if callable(one) and not inspect.isfunction(one)
        for hint in typing.get_type_hints(type(one).__call__).values()
        if hint is EnforcingCaller or EnforcingCaller in typing.get_args(hint)
    }
    assert takes == {"authorize", "list_tools"}
