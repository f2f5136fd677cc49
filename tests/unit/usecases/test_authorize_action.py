from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from broker.domain.actions import ActionOutcome
from broker.domain.audit import AuditKind
from broker.domain.catalog import Obligations, Tool
from broker.domain.chain_pattern import compile_pattern
from broker.domain.chain_rule import ChainRule, StepLimit
from broker.domain.changes import AddQuarantine, RecordAction
from broker.domain.classification import Classification
from broker.domain.decision import AcquireContext, CallContext, Decision, DeclareContext, Fingerprint, Verdict
from broker.domain.effects import EVERY_VERB, Verb
from broker.domain.errors import (
    ActionLimitReachedError,
    ActionNotFoundError,
    DenialClass,
    EffectDeniedError,
    FieldInvalidError,
    FingerprintChangedError,
    IdempotencyKeyReusedError,
    InstanceQuarantinedError,
    PolicyDeniedError,
    StepNotAllowedError,
    StoreUnavailableError,
    TaskNotActiveError,
    TaskNotFoundError,
    TaskTypeNotAllowedError,
)
from broker.domain.flows import Origin, Reads
from broker.domain.identifiers import ActionId
from broker.domain.lease import LeaseState
from broker.domain.task import EndCause, Scope, Task, TaskState
from broker.usecases.authorize_action import Authorization
from broker.usecases.judging import Call
from broker.usecases.ruling import MOST_DENIED, STICKS_FOR
from tests.contract.quarantining import INSTANCE, a_quarantine
from tests.fakes.issuer import FakeIssuer
from tests.fakes.samples import OTHER, OWNER, a_caller, a_catalog, a_role, a_tool
from tests.fakes.store import FakeStore
from tests.fakes.system import NOON, CountingIds, FakeClock
from tests.unit.usecases.wiring import Broker, a_declaration, an_acquisition

Context = DeclareContext | AcquireContext | CallContext
READ = a_tool("read-orders", reads=Reads(classification=Classification.CONFIDENTIAL))
BROWSE = a_tool("browse", reads=Reads(origin=Origin.UNTRUSTED), destination=None, resource="web")
DELETE = a_tool("delete-order", verb=Verb.DELETE, resource="orders/{order_id}")
PURGE = a_tool("purge", verb=Verb.DELETE, resource="orders")
OUT = "other-tool"


def a_world(*tools: Tool, roles: tuple[Any, ...] | None = None, **of_the_type: Any) -> Broker:
    catalog = a_catalog(tools=tools or (READ, BROWSE, DELETE, PURGE), roles=roles, **of_the_type)
    return Broker(FakeStore(), FakeIssuer(), FakeClock(), CountingIds(), catalog)


async def authorized(
    broker: Broker,
    task: Task,
    tool: str,
    *,
    fingerprint: bytes = b"",
    key: str | None = None,
    **arguments: Any,
) -> Authorization:
    call = Call(tool=tool, arguments=arguments, fingerprint=fingerprint, idempotency_key=key)
    return await broker.authorize(a_caller(task.owner), task.task_id, call)


def denying(*names: str, denial_class: DenialClass = DenialClass.GRANTABLE) -> Callable[[Context], Decision]:
    def decide(context: Context) -> Decision:
        name = context.tool_name if isinstance(context, CallContext) else getattr(context, "role_name", "")
        if name in names:
            return Decision(
                verdict=Verdict.DENY,
                policies=("cedar:no",),
                reason=PolicyDeniedError.reason,
                text="no",
                denial_class=denial_class,
            )
        return Decision(verdict=Verdict.ALLOW, policies=("cedar:yes",))

    return decide


async def test_an_allowed_call_is_a_link_of_the_chain_and_audited() -> None:
    broker = a_world()
    task = await broker.declared(scope=None)
    found = await authorized(broker, task, "read-orders", to="x", order_id="secret-17")
    assert (found.action.allowed, found.action.position, found.action.at) == (True, 1, NOON)
    assert found.action.labels == {"read.internal", "read.confidential"}
    assert await broker.store.actions_of(task.task_id, 0, 10) == (found.action,)
    event = (await broker.records())[-1].event
    assert (event.kind, event.actor, event.task_id) == (AuditKind.ACTION_ALLOWED, str(OWNER), task.task_id)
    assert event.facts["action"] == found.action.action_id
    assert event.facts["effect"] == "read orders at postgresql://db.test:5432"
    assert event.facts["arguments"] == {"to": "x"}, "those that policies may look at"
    assert "secret-17" not in json.dumps(dict(event.facts)), (
        "others may hold anything: their digest is enough"
    )
    assert broker.steps.reached_steps[-1] == "authorize.durable"


async def test_a_decision_knows_the_chain_before_it() -> None:
    broker = a_world()
    task = await broker.declared(scope=None)
    await authorized(broker, task, "read-orders")
    await broker.acquired(task)
    await authorized(broker, task, OUT)
    await authorized(broker, task, "browse")
    context = broker.policy.asked[-1]
    assert isinstance(context, CallContext)
    chain = context.chain
    assert (chain.length, chain.steps, chain.last, chain.denials) == (
        3,
        ("read-orders", "orders"),
        "orders",
        1,
    )
    assert chain.labels == {"read.internal", "read.confidential"}
    assert (context.live_leases, context.earlier_denials, context.oldest_lease) == (1, 1, NOON)


async def test_another_process_goes_on_with_the_same_chain() -> None:
    broker = a_world()
    task = await broker.declared(scope=None)
    await authorized(broker, task, "read-orders")
    later = broker.restarted()
    found = await authorized(later, task, "browse")
    assert found.action.position == 2
    again = await authorized(broker, task, "browse")  # it knows one link only
    assert again.action.position == 3
    context = broker.policy.asked[-1]
    assert isinstance(context, CallContext)
    assert context.chain.labels == {"read.internal", "read.confidential", "untrusted"}


async def test_one_that_was_decided_on_less_than_the_whole_chain_is_decided_again() -> None:
    broker = a_world()
    task = await broker.declared(scope=None)
    other = broker.restarted()
    broker.store.before(RecordAction, lambda: authorized(other, task, "browse"))
    found = await authorized(broker, task, "read-orders")
    assert found.action.position == 2
    assert "untrusted" in broker.policy.asked[-1].chain.labels  # type: ignore[union-attr]


async def test_of_many_at_once_each_has_its_place() -> None:
    broker = a_world()
    task = await broker.declared(scope=None)
    found = await asyncio.gather(*(authorized(broker, task, "browse") for _ in range(20)))
    assert sorted(one.action.position for one in found) == list(range(1, 21))


async def test_what_a_policy_denies_is_an_answer_and_sticks_to_the_effect() -> None:
    broker = a_world()
    task = await broker.declared(scope=None)
    broker.policy.instead = denying("delete-order")
    found = await authorized(broker, task, "delete-order", order_id="17")
    assert (found.action.allowed, found.action.reason) == (False, PolicyDeniedError.reason)
    assert (found.action.denial_class, found.obligations) == (DenialClass.GRANTABLE, Obligations())
    assert found.action.sticks_until == NOON + STICKS_FOR
    assert (await broker.records())[-1].event.kind == AuditKind.ACTION_DENIED
    broker.policy.instead = denying()
    for tool, arguments in (
        ("purge", {}),
        ("delete-order", {"order_id": "17"}),
        ("delete-order", {"order_id": " 17 "}),
    ):
        again = await authorized(broker, task, tool, **dict[str, Any](arguments))
        assert (again.action.allowed, again.action.reason) == (False, EffectDeniedError.reason)
        assert again.decision.denial_class is DenialClass.GRANTABLE
        assert "delete orders/17" in again.decision.text
        assert again.action.sticks_until is None, (
            "the first one stands: who tries again does not make it longer"
        )
    for tool, arguments in (("delete-order", {"order_id": "18"}), ("read-orders", {})):
        assert (await authorized(broker, task, tool, **dict[str, Any](arguments))).action.allowed


async def test_it_sticks_to_the_instances_other_tasks_for_a_while_and_to_no_other_instance() -> None:
    broker = a_world()
    first, second = await broker.declared(scope=None), await broker.declared(scope=None)
    others = await broker.declare(a_caller(OTHER), a_declaration(scope=None))
    broker.policy.instead = denying("purge")
    await authorized(broker, first, "purge")
    broker.policy.instead = None
    assert (await authorized(broker, second, "purge")).action.reason == EffectDeniedError.reason
    assert (await authorized(broker, others, "purge")).action.allowed
    broker.clock.advance(seconds=STICKS_FOR.total_seconds())
    assert (await authorized(broker, second, "purge")).action.allowed
    assert not (await authorized(broker, first, "purge")).action.allowed


async def test_a_denied_effect_is_no_credential_either() -> None:
    whole = a_role("orders")
    narrow = a_role("customers", verbs=frozenset({Verb.READ}))
    elsewhere = a_tool("purge", verb=Verb.DELETE, resource="orders", destination=whole.destination)
    broker = a_world(elsewhere, roles=(whole, narrow))
    task = await broker.declared(scope=None)
    broker.policy.instead = denying("purge")
    await authorized(broker, task, "purge")
    broker.policy.instead = None
    assert whole.verbs == EVERY_VERB
    with pytest.raises(EffectDeniedError, match="delete orders"):
        await broker.acquired(task, "orders")
    assert (await broker.records())[-1].event.facts["reason"] == EffectDeniedError.reason
    assert broker.issuer.count("issue") == 0
    await broker.acquired(task, "customers")


async def test_a_denied_credential_is_no_tool_either() -> None:
    role = a_role("orders", verbs=frozenset({Verb.DELETE}), resource="orders")
    tool = a_tool("purge", verb=Verb.DELETE, resource="orders/all", destination=role.destination)
    broker = a_world(tool, roles=(role,))
    task = await broker.declared(scope=None)
    broker.policy.instead = denying("orders")
    with pytest.raises(PolicyDeniedError):
        await broker.acquired(task, "orders")
    broker.policy.instead = None
    assert (await authorized(broker, task, "purge")).action.reason == EffectDeniedError.reason


@pytest.mark.parametrize("tool", [OUT, "delete-order"])
async def test_what_is_not_in_the_scope_is_refused_and_sticks_to_nothing(tool: str) -> None:
    broker = a_world()
    task = await broker.declared(scope=Scope(roles=frozenset(), tools=frozenset({"purge"})))
    found = await authorized(broker, task, tool, order_id="17")
    assert (found.action.allowed, found.action.reason) == (False, "TOOL_NOT_ALLOWED")
    assert found.action.sticks_until is None
    assert (await authorized(broker, task, "purge")).action.allowed


async def test_a_transient_denial_does_not_stick() -> None:
    broker = a_world()
    task = await broker.declared(scope=None)
    broker.policy.instead = denying("purge", denial_class=DenialClass.TRANSIENT)
    await authorized(broker, task, "purge")
    broker.policy.instead = None
    assert (await authorized(broker, task, "purge")).action.allowed


async def test_an_engine_that_fails_denies() -> None:
    broker = a_world()
    task = await broker.declared(scope=None)

    def fail(_context: Context) -> Decision:
        raise ZeroDivisionError

    broker.policy.instead = fail
    found = await authorized(broker, task, "browse")
    assert (found.action.allowed, found.decision.denial_class) == (False, DenialClass.TRANSIENT)


async def test_a_step_outside_the_chain_is_refused_with_what_was_expected() -> None:
    chain = ChainRule(
        pattern=compile_pattern("browse read-orders+ purge"), limits={"read-orders": (StepLimit(at_most=2),)}
    )
    broker = a_world(chain=chain)
    task = await broker.declared(scope=None)
    early = await authorized(broker, task, "purge")
    assert (early.action.reason, early.expected) == (StepNotAllowedError.reason, frozenset({"browse"}))
    assert early.decision.denial_class is DenialClass.TRANSIENT
    for step in ("browse", "read-orders", "read-orders"):
        assert (await authorized(broker, task, step)).action.allowed
    third = await authorized(broker, task, "read-orders")
    assert (third.action.reason, third.decision.denial_class) == (
        StepNotAllowedError.reason,
        DenialClass.STRUCTURAL,
    )
    assert (await authorized(broker, task, "purge")).action.allowed
    over = await authorized(broker, task, "browse")
    assert (over.expected, over.decision.denial_class) == (frozenset(), DenialClass.STRUCTURAL)


async def test_a_credential_is_a_step_of_the_chain_as_well() -> None:
    broker = a_world(chain=ChainRule(pattern=compile_pattern("browse orders read-orders*")))
    task = await broker.declared(scope=None)
    with pytest.raises(StepNotAllowedError, match="expected is browse"):
        await broker.acquired(task, "orders", "early")
    await authorized(broker, task, "browse")
    await broker.acquired(task, "orders", "late")
    assert (await authorized(broker, task, "read-orders")).action.allowed


async def test_wrong_arguments_are_named_and_nothing_is_decided() -> None:
    broker = a_world()
    task = await broker.declared(scope=None)
    before = len(await broker.records())
    with pytest.raises(FieldInvalidError) as caught:
        await authorized(
            broker, task, "read-orders", to="a secret value that is far too long for its schema", zz=1
        )
    fields = {violation.field for violation in caught.value.violations}
    assert fields == {"arguments", "arguments.to"}
    assert "secret" not in str(caught.value)
    assert len(await broker.records()) == before
    assert await broker.store.actions_of(task.task_id, 0, 10) == ()


async def test_another_fingerprint_ends_the_task() -> None:
    broker = a_world()
    task = await broker.declared(scope=None, fingerprint=b"one")
    acquired = await broker.acquired(task)
    for fingerprint, expected in ((b"one", Fingerprint.SAME), (b"", Fingerprint.ABSENT)):
        assert (await authorized(broker, task, "browse", fingerprint=fingerprint)).action.allowed
        assert broker.policy.asked[-1].fingerprint is expected  # type: ignore[union-attr]
    found = await authorized(broker, task, "browse", fingerprint=b"two")
    assert (found.action.allowed, found.action.reason) == (False, "FINGERPRINT_CHANGED")
    ended = await broker.task(task.task_id)
    assert ended.state is TaskState.ENDED
    assert ended.end is not None
    assert ended.end.cause is EndCause.FINGERPRINT_CHANGED
    assert (await broker.lease(acquired.lease.lease_id)).state is LeaseState.REVOKED
    with pytest.raises(TaskNotActiveError):
        await authorized(broker, task, "browse", fingerprint=b"one")


async def test_another_fingerprint_gets_no_credential_and_ends_the_task() -> None:
    broker = a_world()
    task = await broker.declared(scope=None, fingerprint=b"one")
    request = replace(an_acquisition(task), fingerprint=b"one")
    held = await broker.acquire(a_caller(), request)
    with pytest.raises(IdempotencyKeyReusedError):
        await broker.acquire(a_caller(), replace(request, fingerprint=b"two"))
    with pytest.raises(FingerprintChangedError):
        await broker.acquire(a_caller(), replace(request, fingerprint=b"two", idempotency_key="another-key"))
    assert (await broker.lease(held.lease.lease_id)).state is LeaseState.REVOKED
    ended = await broker.task(task.task_id)
    assert (ended.state, ended.end and ended.end.cause) == (TaskState.ENDED, EndCause.FINGERPRINT_CHANGED)
    denial = next(
        one.event for one in await broker.records() if one.event.kind == AuditKind.CREDENTIAL_DENIED
    )
    assert (denial.facts["reason"], denial.facts["fingerprint"]) == ("FINGERPRINT_CHANGED", "changed")


async def test_others_tasks_and_ended_ones_have_no_calls() -> None:
    broker = a_world()
    task = await broker.declared(scope=None)
    call = Call(tool="browse", arguments={})
    with pytest.raises(TaskNotFoundError):
        await broker.authorize(a_caller(OTHER), task.task_id, call)
    with pytest.raises(TaskNotFoundError):
        await broker.list_tools(a_caller(OTHER), task.task_id)
    broker.store.before(
        RecordAction, lambda: broker.store.commit([AddQuarantine(quarantine=a_quarantine(INSTANCE))])
    )
    with pytest.raises(InstanceQuarantinedError):
        await authorized(broker, task, "browse")


async def test_without_the_store_nothing_is_allowed() -> None:
    broker = a_world()
    task = await broker.declared(scope=None)

    def fail() -> None:
        broker.store.down = True

    broker.store.before(RecordAction, fail)
    with pytest.raises(StoreUnavailableError):
        await authorized(broker, task, "browse")


async def test_a_chain_has_an_end() -> None:
    broker = a_world(max_actions=3)
    task = await broker.declared(scope=None)
    for tool in ("browse", OUT, OUT):
        await authorized(broker, task, tool)
    with pytest.raises(ActionLimitReachedError, match="3 actions"):
        await authorized(broker, task, "browse")
    with pytest.raises(ActionLimitReachedError):
        await broker.acquired(task)
    assert await broker.list_tools(a_caller(), task.task_id) == ()


async def test_a_task_whose_type_left_the_catalog_is_told_that() -> None:
    broker = a_world()
    task = await broker.declared(scope=None)
    await authorized(broker, task, "browse")
    broker.catalogs.catalog = replace(broker.catalogs.catalog, task_types={})
    for _ in range(2):
        assert (await authorized(broker, task, "browse")).decision.reason == "TASK_TYPE_NOT_ALLOWED"
        with pytest.raises(TaskTypeNotAllowedError):
            await broker.acquired(task)


async def test_whoever_was_denied_too_much_gets_nothing_more() -> None:
    broker = a_world()
    task = await broker.declared(scope=None)
    broker.policy.instead = denying("delete-order")
    for number in range(MOST_DENIED):
        await authorized(broker, task, "delete-order", order_id=str(number))
    broker.policy.instead = None
    with pytest.raises(ActionLimitReachedError, match="different effects"):
        await authorized(broker, task, "browse")


async def test_a_plan_is_decided_in_order_and_can_stop_at_a_refusal() -> None:
    broker = a_world(chain=ChainRule(pattern=compile_pattern("browse read-orders")))
    task = await broker.declared(scope=None)
    calls = [Call(tool=tool, arguments={}) for tool in ("browse", "purge", "read-orders")]
    found = await broker.authorize.plan(a_caller(), task.task_id, calls, stop_at_refusal=True)
    assert [one.action.allowed for one in found] == [True, False]
    rest = await broker.authorize.plan(a_caller(), task.task_id, calls[1:], stop_at_refusal=False)
    assert [one.action.allowed for one in rest] == [False, True]


async def test_the_tools_that_are_listed_are_those_that_may_be_called_now() -> None:
    broker = a_world(
        chain=ChainRule(pattern=compile_pattern("browse* (read-orders | purge | delete-order)*"))
    )
    task = await broker.declared(scope=None)

    async def names() -> set[str]:
        return {tool.name for tool in await broker.list_tools(a_caller(), task.task_id)}

    assert await names() == {"browse", "delete-order", "purge", "read-orders"}
    await authorized(broker, task, "read-orders")
    assert await names() == {"delete-order", "purge", "read-orders"}
    broker.policy.instead = denying("delete-order")
    await authorized(broker, task, "delete-order", order_id="17")
    broker.policy.instead = None
    assert await names() == {"delete-order", "read-orders"}, "another order may still be deleted"
    broker.policy.instead = denying("read-orders")
    assert await names() == {"delete-order"}


async def test_an_outcome_is_reported_once() -> None:
    broker = a_world()
    task = await broker.declared(scope=None)
    action = (await authorized(broker, task, "browse")).action
    refused = (await authorized(broker, task, OUT)).action
    closed = await broker.report_outcome(a_caller(), action.action_id, ActionOutcome.FAILED)
    assert (closed.outcome, closed.closed_at) == (ActionOutcome.FAILED, NOON)
    assert (await broker.records())[-1].event.kind == AuditKind.ACTION_CLOSED
    assert await broker.report_outcome(a_caller(), action.action_id, ActionOutcome.FAILED) == closed
    with pytest.raises(FieldInvalidError, match="failed was reported before"):
        await broker.report_outcome(a_caller(), action.action_id, ActionOutcome.SUCCEEDED)
    with pytest.raises(FieldInvalidError, match="refused"):
        await broker.report_outcome(a_caller(), refused.action_id, ActionOutcome.SUCCEEDED)
    for caller, action_id in ((a_caller(OTHER), action.action_id), (a_caller(), ActionId("action-never"))):
        with pytest.raises(ActionNotFoundError):
            await broker.report_outcome(caller, action_id, ActionOutcome.FAILED)


async def test_obligations_come_with_what_is_allowed() -> None:
    obligations = Obligations(redact=("iban",), limit_rows=10, credential_role="orders")
    broker = a_world(a_tool("read-orders", obligations=obligations))
    task = await broker.declared(scope=None)
    assert (await authorized(broker, task, "read-orders")).obligations == obligations


def test_the_time_that_a_denial_sticks_is_longer_than_a_retry_and_shorter_than_a_day() -> None:
    assert timedelta(minutes=1) < STICKS_FOR < timedelta(days=1)


async def test_the_same_call_under_the_same_key_is_one_step() -> None:
    broker = a_world(chain=ChainRule(pattern=compile_pattern("browse delete-order")))
    task = await broker.declared(scope=None)
    early = await authorized(broker, task, "delete-order", key="key-0", order_id="17")
    await authorized(broker, task, "browse")
    first = await authorized(broker, task, "delete-order", key="key-1", order_id="17")
    assert first.action.allowed
    later = broker.restarted()
    for process in (broker, later):
        again = await authorized(process, task, "delete-order", key="key-1", order_id="17")
        assert again.action == first.action
        refused = await authorized(process, task, "delete-order", key="key-0", order_id="17")
        assert (refused.action, refused.decision.allowed) == (early.action, False)
    with pytest.raises(IdempotencyKeyReusedError):
        await authorized(broker, task, "delete-order", key="key-1", order_id="18")
    assert len(await broker.store.actions_of(task.task_id, 0, 10)) == 3
