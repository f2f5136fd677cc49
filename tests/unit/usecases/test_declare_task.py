"""Declaring: decided, a token made, durable; or nothing is left."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from broker.domain.audit import AuditKind
from broker.domain.changes import Append, CreateTask
from broker.domain.decision import AcquireContext, CallContext, Decision, DeclareContext, Verdict
from broker.domain.errors import (
    AgentClassUnknownError,
    BrokerError,
    CredentialBackendUnavailableError,
    DenialClass,
    EnvironmentNotAllowedError,
    FieldInvalidError,
    IdempotencyKeyReusedError,
    PolicyDeniedError,
    RoleNotAllowedError,
    StoreUnavailableError,
    TaskLimitReachedError,
    TaskTypeNotAllowedError,
)
from broker.domain.spiffe import SpiffeId
from broker.domain.task import Scope, TaskState
from tests.fakes.samples import OTHER, OWNER, a_caller, a_catalog, a_role
from tests.fakes.system import NOON
from tests.unit.usecases.wiring import TIMEOUT, Broker, a_declaration, asked

CALLER = a_caller()
NO_CLASS = SpiffeId.parse("spiffe://example.test/agent/unlisted/one")


def raise_store_unavailable() -> None:
    raise StoreUnavailableError


async def test_a_declared_task_is_stored_with_what_was_declared(broker: Broker) -> None:
    task = await broker.declared(intent="März", fingerprint=b"\x07")
    assert await broker.store.task(task.task_id) == task
    assert (task.owner, task.agent_class, task.intent) == (OWNER, "invoice-bot", "März")
    assert (task.environment, task.state, task.fingerprint) == ("production", TaskState.ACTIVE, b"\x07")
    assert task.deadline == NOON + timedelta(hours=1)
    assert task.heartbeat_due == NOON + timedelta(seconds=30)
    (record,) = await broker.records()
    assert record.event.kind == AuditKind.TASK_DECLARED
    assert (record.event.actor, record.event.task_id) == (str(OWNER), task.task_id)
    assert record.event.request_id == CALLER.request_id
    assert record.event.facts["catalog"] == "digest-one"
    assert record.event.facts["svid_sha256"] == CALLER.peer.svid_sha256
    assert record.event.facts["roles"] == ["customers", "orders"]


async def test_the_tasks_token_has_the_scopes_roles_alone_and_dies_after_the_deadline(
    broker: Broker,
) -> None:
    deadline = NOON + timedelta(minutes=10)
    task = await broker.declared(scope=Scope(roles=frozenset({"orders"})), deadline=deadline)
    ((accessor, token),) = broker.issuer.tokens.items()
    assert await broker.store.task_tokens(task.task_id) == (accessor,)
    assert (token.task_id, token.roles) == (task.task_id, frozenset({"orders"}))
    assert timedelta(minutes=10) < token.ttl <= timedelta(minutes=11)
    assert [call.timeout for call in broker.issuer.calls] == [TIMEOUT]


async def test_a_task_that_declares_no_scope_may_use_all_that_its_type_lists(broker: Broker) -> None:
    task = await broker.declared(scope=None)
    assert task.scope.roles == frozenset(broker.catalogs.current().task_types[task.task_type].roles)
    assert task.scope.roles


async def test_a_task_without_roles_has_no_token(broker: Broker) -> None:
    task = await broker.declared(scope=Scope(roles=frozenset()))
    assert await broker.store.task(task.task_id) == task
    assert broker.issuer.calls == []
    assert await broker.store.task_tokens(task.task_id) == ()


async def test_the_token_is_made_before_the_task_is_durable(broker: Broker) -> None:
    await broker.declared()
    assert broker.steps.reached_steps == ["declare.token-made", "declare.durable"]


@pytest.mark.parametrize(
    ("caller", "changed", "error"),
    [
        (CALLER, {"task_type": "unlisted"}, TaskTypeNotAllowedError),
        (a_caller(NO_CLASS), {}, AgentClassUnknownError),
        (CALLER, {"environment": "staging"}, EnvironmentNotAllowedError),
        (CALLER, {"scope": Scope(roles=frozenset({"orders", "unlisted"}))}, RoleNotAllowedError),
    ],
)
async def test_a_denial_is_recorded_and_makes_nothing(
    broker: Broker, caller: object, changed: dict[str, object], error: type[BrokerError]
) -> None:
    with pytest.raises(error):
        await broker.declare(caller, a_declaration(**changed))  # type: ignore[arg-type]
    (record,) = await broker.records()
    assert record.event.kind == AuditKind.TASK_DENIED
    assert record.event.facts["reason"] == error.reason
    assert broker.issuer.calls == []


async def test_a_denial_that_cannot_be_recorded_is_not_answered(broker: Broker) -> None:
    broker.store.before(Append, raise_store_unavailable)
    with pytest.raises(StoreUnavailableError):
        await broker.declared(task_type="unlisted")


async def test_a_policy_engine_that_fails_denies(broker: Broker) -> None:
    def fail(_context: DeclareContext | AcquireContext | CallContext) -> Decision:
        message = "engine"
        raise ZeroDivisionError(message)

    broker.policy.instead = fail
    with pytest.raises(PolicyDeniedError) as caught:
        await broker.declared()
    assert caught.value.metadata == {"denial_class": DenialClass.TRANSIENT.value}
    assert await broker.kinds() == [AuditKind.TASK_DENIED]


async def test_a_policy_that_allows_what_is_not_listed_allows_nothing(broker: Broker) -> None:
    broker.policy.instead = lambda _context: Decision(verdict=Verdict.ALLOW, policies=("all",))
    with pytest.raises(PolicyDeniedError):
        await broker.declared(task_type="unlisted")
    assert await broker.kinds() == [AuditKind.TASK_DENIED]
    assert broker.issuer.calls == []


@pytest.mark.parametrize(
    "deadline", [NOON, NOON - timedelta(days=1), NOON + timedelta(hours=1, microseconds=1)]
)
async def test_a_deadline_that_passed_or_is_too_far_is_refused(broker: Broker, deadline: object) -> None:
    with pytest.raises(FieldInvalidError) as caught:
        await broker.declared(deadline=deadline)
    assert [violation.field for violation in caught.value.violations] == ["deadline"]
    assert broker.issuer.calls == []


async def test_the_same_key_and_declaration_answer_with_the_same_task(broker: Broker) -> None:
    task = await broker.declared(idempotency_key="key")
    broker.clock.advance(seconds=5)
    assert await broker.declared(idempotency_key="key") == task
    assert await broker.restarted().declared(idempotency_key="key") == task
    assert broker.issuer.count("open_task") == 1


async def test_the_same_key_with_another_declaration_is_refused(broker: Broker) -> None:
    await broker.declared(idempotency_key="key")
    with pytest.raises(IdempotencyKeyReusedError):
        await broker.declared(idempotency_key="key", intent="another")
    assert len(broker.issuer.tokens) == 1


async def test_another_instance_may_use_the_same_key(broker: Broker) -> None:
    mine = await broker.declared(idempotency_key="key")
    theirs = await broker.declared(a_caller(OTHER), idempotency_key="key", intent="another")
    assert (mine.owner, theirs.owner) == (OWNER, OTHER)


async def test_twins_at_once_declare_one_task_and_leave_one_token(broker: Broker) -> None:
    with broker.issuer.holding("open_task") as hold:
        twins = [asyncio.create_task(broker.declared(idempotency_key="key")) for _ in range(2)]
        await asked(broker.issuer, "open_task", 2)
        hold.let_go.set()
        first, second = await asyncio.gather(*twins)
    assert first == second
    assert tuple(broker.issuer.tokens) == await broker.store.task_tokens(first.task_id)


async def test_of_different_declarations_under_one_key_at_once_one_is_refused(broker: Broker) -> None:
    with broker.issuer.holding("open_task") as hold:
        twins = [
            asyncio.create_task(broker.declared(idempotency_key="key", intent=intent)) for intent in "ab"
        ]
        await asked(broker.issuer, "open_task", 2)
        hold.let_go.set()
        answers = await asyncio.gather(*twins, return_exceptions=True)
    assert [type(answer) for answer in answers if isinstance(answer, Exception)] == [
        IdempotencyKeyReusedError
    ]
    assert len(broker.issuer.tokens) == 1


async def test_beyond_the_limit_nothing_is_declared_and_the_token_is_taken_back(broker: Broker) -> None:
    broker.catalogs.catalog = a_catalog(max_tasks=1)
    await broker.declared()
    with pytest.raises(TaskLimitReachedError):
        await broker.declared()
    assert len(broker.issuer.tokens) == 1
    assert await broker.kinds() == [AuditKind.TASK_DECLARED]


async def test_when_the_store_fails_at_last_the_token_is_taken_back(broker: Broker) -> None:
    broker.store.before(CreateTask, raise_store_unavailable)
    with pytest.raises(StoreUnavailableError):
        await broker.declared()
    assert broker.issuer.count("open_task") == 1
    assert broker.issuer.tokens == {}
    page = await broker.store.tasks_of(OWNER, states=frozenset(), page_size=9, page_token="")
    assert page.tasks == ()


async def test_without_the_store_no_token_is_made_for_a_keyed_declaration(broker: Broker) -> None:
    broker.store.down = True
    with pytest.raises(StoreUnavailableError):
        await broker.declared(idempotency_key="key")
    assert broker.issuer.calls == []


async def test_without_the_backend_nothing_is_declared(broker: Broker) -> None:
    broker.issuer.away = True
    with pytest.raises(CredentialBackendUnavailableError):
        await broker.declared(idempotency_key="key")
    assert await broker.kinds() == []
    broker.issuer.away = False
    assert (await broker.declared(idempotency_key="key")).state is TaskState.ACTIVE


async def test_a_role_that_left_the_catalog_is_not_declared(broker: Broker) -> None:
    broker.catalogs.catalog = a_catalog(roles=(a_role("customers"),))
    with pytest.raises(RoleNotAllowedError):
        await broker.declared()
