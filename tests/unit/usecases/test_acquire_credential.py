"""Acquiring, step by step (A1 to A8): what leaves, what is refused, and what is taken back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest

from broker.domain.audit import AuditKind
from broker.domain.changes import AddTaskToken, Append, CreateLease, IssueLease, RevokeLease, VoidLease
from broker.domain.decision import AcquireContext, CallContext, Decision, DeclareContext, Verdict
from broker.domain.errors import (
    CredentialBackendUnavailableError,
    IdempotencyKeyReusedError,
    IdempotentResultGoneError,
    LeaseLimitReachedError,
    LeaseNotLiveError,
    PolicyDeniedError,
    RoleNotAllowedError,
    StoreUnavailableError,
    TaskNotActiveError,
    TaskNotFoundError,
)
from broker.domain.identifiers import TaskId
from broker.domain.lease import LeaseState, RevokeCause
from broker.domain.task import Scope, Task
from broker.usecases.acquire_credential import REPLAY_WINDOW
from broker.usecases.decide_acquisition import Acquisition
from broker.usecases.revoke_leases import IN_DOUBT_GRACE
from tests.fakes.issuer import Trouble
from tests.fakes.samples import OTHER, OWNER, a_caller, a_catalog, a_role, an_end
from tests.fakes.system import NOON
from tests.unit.usecases.wiring import TIMEOUT, Broker, an_acquisition, settle, until

CALLER = a_caller()


def store_unavailable() -> None:
    raise StoreUnavailableError


def store_gone(broker: Broker) -> Callable[[], None]:
    def gone() -> None:
        broker.store.down = True

    return gone


async def sweep(broker: Broker) -> None:
    """What the broker does by itself, once nothing can be in doubt any more."""
    broker.clock.advance(seconds=TIMEOUT.total_seconds() * 3)
    await broker.watch.reclaim()
    broker.clock.advance(seconds=IN_DOUBT_GRACE.total_seconds())
    await broker.watch.retry()


async def end(broker: Broker, task: Task) -> None:
    await broker.end_task.begin(task.task_id, an_end(at=broker.clock.now()), actor="test")


# A8: what leaves -------------------------------------------------------------------------------------------


async def test_a_credential_leaves_with_a_lease_that_is_live_and_recorded(broker: Broker) -> None:
    task = await broker.declared()
    acquired = await broker.acquired(task)
    lease = await broker.only_lease(task)
    assert acquired.lease == lease
    assert (lease.state, lease.role, lease.renewable) == (LeaseState.LIVE, "orders", True)
    assert lease.vault_lease_id in broker.issuer.leases
    assert lease.expires_at == NOON + timedelta(minutes=1)
    assert lease.max_expires_at == NOON + timedelta(minutes=30)
    assert acquired.secret["password"].reveal().startswith("secret-password-")
    assert acquired.destination.port == 5432
    intended, issued = (record.event for record in (await broker.records())[1:])
    assert (intended.kind, issued.kind) == (AuditKind.CREDENTIAL_INTENDED, AuditKind.CREDENTIAL_ISSUED)
    for event in (intended, issued):
        assert (event.actor, event.task_id, event.lease_id) == (str(OWNER), task.task_id, lease.lease_id)
        assert event.request_id == CALLER.request_id
    assert intended.facts["accessor"] == lease.accessor
    assert intended.facts["destination"] == "postgresql://127.0.0.1:5432"
    assert intended.facts["svid_sha256"] == CALLER.peer.svid_sha256
    assert issued.facts["vault_lease_id"] == lease.vault_lease_id
    assert issued.facts["fields"] == ["password", "username"]


async def test_the_steps_come_in_their_order(broker: Broker) -> None:
    task = await broker.declared()
    await broker.acquired(task)
    assert broker.steps.reached_steps[2:] == [
        "acquire.decided",
        "acquire.token-made",
        "acquire.intent-durable",
        "acquire.vault-issued",
        "acquire.issued-durable",
    ]


async def test_the_intent_is_durable_before_the_backend_is_asked(broker: Broker) -> None:
    task = await broker.declared()
    with broker.issuer.holding("issue") as hold:
        work = asyncio.create_task(broker.acquired(task))
        await until(hold.entered)
        lease = await broker.only_lease(task)
        assert lease.state is LeaseState.INTENDED
        assert (await broker.kinds())[-1] == AuditKind.CREDENTIAL_INTENDED
        assert lease.lease_id in broker.acquire.being_made
        hold.let_go.set()
        await work
    assert lease.lease_id not in broker.acquire.being_made


async def test_no_record_holds_the_secret(broker: Broker) -> None:
    task = await broker.declared()
    acquired = await broker.acquired(task)
    text = repr(await broker.records()) + repr(acquired) + repr(await broker.only_lease(task))
    for secret in acquired.secret.values():
        assert secret.reveal() not in text
    for token in broker.issuer.tokens.values():
        assert token.value not in text


async def test_a_lease_never_outlives_its_tasks_deadline(broker: Broker) -> None:
    task = await broker.declared(deadline=NOON + timedelta(seconds=20))
    lease = (await broker.acquired(task)).lease
    assert lease.expires_at == lease.max_expires_at == task.deadline


async def test_a_tasks_credentials_are_made_under_one_token(broker: Broker) -> None:
    task = await broker.declared()
    first = await broker.acquired(task, key="one")
    second = await broker.acquired(task, role="customers", key="two")
    assert first.lease.accessor == second.lease.accessor
    assert broker.issuer.count("open_task") == 1


# A1 to A3: who, and whether ----------------------------------------------------------------------------------


@pytest.mark.parametrize("task_id", ["task-never", ""])
async def test_an_unknown_task_is_not_found(broker: Broker, task_id: str) -> None:
    request = Acquisition(task_id=TaskId(task_id), role="orders", idempotency_key="key")
    with pytest.raises(TaskNotFoundError):
        await broker.acquire(CALLER, request)
    assert broker.issuer.calls == []


async def test_a_task_that_is_ending_gets_nothing(broker: Broker) -> None:
    task = await broker.declared()
    await end(broker, task)
    with pytest.raises(TaskNotActiveError):
        await broker.acquired(task)
    assert broker.issuer.count("issue") == 0


async def test_a_role_outside_the_scope_is_denied_and_the_denial_recorded(broker: Broker) -> None:
    task = await broker.declared(scope=Scope(roles=frozenset({"orders"})))
    with pytest.raises(RoleNotAllowedError) as caught:
        await broker.acquired(task, role="customers")
    assert caught.value.metadata == {"denial_class": "structural"}
    denied = (await broker.records())[-1].event
    assert (denied.kind, denied.task_id) == (AuditKind.CREDENTIAL_DENIED, task.task_id)
    assert denied.facts["reason"] == RoleNotAllowedError.reason
    assert await broker.store.leases_of(task.task_id) == ()
    assert broker.issuer.count("issue") == 0


async def test_a_denial_that_cannot_be_recorded_is_not_answered(broker: Broker) -> None:
    task = await broker.declared()
    broker.store.before(Append, store_unavailable)
    with pytest.raises(StoreUnavailableError):
        await broker.acquired(task, role="unlisted")


async def test_the_decision_sees_what_the_task_holds_and_was_denied(broker: Broker) -> None:
    task = await broker.declared()
    await broker.acquired(task, key="one")
    with pytest.raises(RoleNotAllowedError):
        await broker.acquired(task, role="unlisted", key="two")
    await broker.acquired(task, key="three")
    context = broker.policy.asked[-1]
    assert isinstance(context, AcquireContext)
    assert (context.live_leases, context.earlier_denials, context.at) == (1, 1, NOON)
    assert (context.caller, context.task, context.role_name) == (OWNER, task, "orders")


async def test_a_policy_engine_that_fails_denies(broker: Broker) -> None:
    task = await broker.declared()

    def fail(_context: DeclareContext | AcquireContext | CallContext) -> Decision:
        raise RuntimeError

    broker.policy.instead = fail
    with pytest.raises(PolicyDeniedError):
        await broker.acquired(task)
    assert (await broker.kinds())[-1] == AuditKind.CREDENTIAL_DENIED
    assert broker.issuer.count("issue") == 0


async def test_a_role_that_left_the_catalog_is_denied_whatever_the_policy_says(broker: Broker) -> None:
    task = await broker.declared()
    broker.catalogs.catalog = a_catalog(roles=(a_role("customers"),))
    broker.policy.instead = lambda _context: Decision(verdict=Verdict.ALLOW, policies=("all",))
    with pytest.raises(PolicyDeniedError):
        await broker.acquired(task)
    assert broker.issuer.count("issue") == 0


# A2: idempotency ---------------------------------------------------------------------------------------------


async def test_the_same_key_gets_the_same_secret_while_it_is_remembered(broker: Broker) -> None:
    task = await broker.declared()
    first = await broker.acquired(task)
    broker.clock.advance(seconds=REPLAY_WINDOW.total_seconds() - 1)
    assert await broker.acquired(task) == first
    assert broker.issuer.count("issue") == 1


async def test_twins_at_once_get_the_same_secret(broker: Broker) -> None:
    task = await broker.declared()
    first, second = await asyncio.gather(broker.acquired(task), broker.acquired(task))
    assert first == second
    assert broker.issuer.count("issue") == 1


async def test_twins_fail_together_and_leave_the_key_free(broker: Broker) -> None:
    task = await broker.declared()
    broker.issuer.troubles.append(Trouble.REFUSED)
    answers = await asyncio.gather(broker.acquired(task), broker.acquired(task), return_exceptions=True)
    assert [type(answer) for answer in answers] == [CredentialBackendUnavailableError] * 2
    assert broker.issuer.count("issue") == 1
    assert (await broker.acquired(task)).lease.state is LeaseState.LIVE


async def test_the_same_key_with_another_request_is_refused(broker: Broker) -> None:
    task = await broker.declared()
    await broker.acquired(task)
    with pytest.raises(IdempotencyKeyReusedError):
        await broker.acquired(task, role="customers")
    with pytest.raises(IdempotencyKeyReusedError):
        await broker.restarted().acquired(task, role="customers")
    assert broker.issuer.count("issue") == 1


async def test_a_key_is_one_tasks_own(broker: Broker) -> None:
    one, two = await broker.declared(), await broker.declared()
    first, second = await broker.acquired(one), await broker.acquired(two)
    assert first.lease.lease_id != second.lease.lease_id


@pytest.mark.parametrize("how", ["time", "restart"])
async def test_a_secret_that_is_no_longer_in_memory_is_gone(broker: Broker, how: str) -> None:
    task = await broker.declared()
    lease = (await broker.acquired(task)).lease
    if how == "time":
        broker.clock.advance(seconds=REPLAY_WINDOW.total_seconds())
    else:
        broker = broker.restarted()
    with pytest.raises(IdempotentResultGoneError) as caught:
        await broker.acquired(task)
    assert caught.value.metadata == {"lease_id": lease.lease_id}
    assert broker.issuer.count("issue") == 1


async def test_a_replay_after_the_release_is_not_answered_with_a_dead_secret(broker: Broker) -> None:
    task = await broker.declared()
    lease = (await broker.acquired(task)).lease
    await broker.release(CALLER, lease.lease_id)
    with pytest.raises(LeaseNotLiveError):
        await broker.acquired(task)


async def test_a_replay_after_the_tasks_end_is_refused(broker: Broker) -> None:
    task = await broker.declared()
    await broker.acquired(task)
    await end(broker, task)
    with pytest.raises(TaskNotActiveError):
        await broker.acquired(task)


async def test_a_replay_shows_the_expiry_as_it_is_now(broker: Broker) -> None:
    task = await broker.declared()
    first = await broker.acquired(task)
    broker.clock.advance(seconds=30)
    await broker.renew.for_owner(CALLER, first.lease.lease_id, None)
    again = await broker.acquired(task)
    assert again.lease.expires_at == NOON + timedelta(seconds=90)
    assert again.secret == first.secret


async def test_another_instance_with_the_same_key_gets_no_replay(broker: Broker) -> None:
    task = await broker.declared()
    await broker.acquired(task)
    with pytest.raises(TaskNotFoundError):
        await broker.acquire(a_caller(OTHER), an_acquisition(task))


# A4: the task's token ----------------------------------------------------------------------------------------


async def test_after_a_restart_another_token_is_made_once_and_recorded(broker: Broker) -> None:
    task = await broker.declared()
    again = broker.restarted()
    first, second = await asyncio.gather(again.acquired(task, key="one"), again.acquired(task, key="two"))
    assert first.lease.accessor == second.lease.accessor
    tokens = await broker.store.task_tokens(task.task_id)
    assert len(tokens) == 2
    assert set(tokens) == set(broker.issuer.tokens)
    assert tokens[1] == first.lease.accessor


async def test_the_accessor_is_durable_before_the_token_is_used(broker: Broker) -> None:
    task = await broker.declared()
    again = broker.restarted()
    with broker.issuer.holding("issue") as hold:
        work = asyncio.create_task(again.acquired(task))
        await until(hold.entered)
        assert set(await broker.store.task_tokens(task.task_id)) == set(broker.issuer.tokens)
        hold.let_go.set()
        await work


async def test_a_token_that_cannot_be_recorded_is_taken_back(broker: Broker) -> None:
    task = await broker.declared()
    tokens = dict(broker.issuer.tokens)
    again = broker.restarted()
    broker.store.before(AddTaskToken, store_unavailable)
    with pytest.raises(StoreUnavailableError):
        await again.acquired(task)
    assert broker.issuer.tokens == tokens
    assert (await again.acquired(task)).lease.state is LeaseState.LIVE


async def test_without_the_backend_no_token_is_made_and_nothing_is_left(broker: Broker) -> None:
    task = await broker.declared()
    again = broker.restarted()
    broker.issuer.away = True
    with pytest.raises(CredentialBackendUnavailableError):
        await again.acquired(task)
    assert await broker.store.leases_of(task.task_id) == ()


async def test_a_token_made_while_the_task_ends_is_taken_back(broker: Broker) -> None:
    """Whoever ends the task revokes the tokens that the store knows; a later one would be nobody's."""
    task = await broker.declared()
    again = broker.restarted()
    with broker.issuer.holding("open_task") as opening, broker.issuer.holding("revoke_token") as revoking:
        acquiring = asyncio.create_task(again.acquired(task))
        await until(opening.entered)
        ending = asyncio.create_task(
            again.end_task(task.task_id, an_end(at=NOON), actor=str(OWNER), request_id="")
        )
        await until(revoking.entered)
        opening.let_go.set()
        await settle()
        revoking.let_go.set()
        with pytest.raises(TaskNotActiveError):
            await acquiring
        await ending
    assert broker.issuer.tokens == {}


# A5: the intent ----------------------------------------------------------------------------------------------


async def test_without_a_durable_intent_the_backend_is_not_asked(broker: Broker) -> None:
    task = await broker.declared()
    broker.store.before(CreateLease, store_unavailable)
    with pytest.raises(StoreUnavailableError):
        await broker.acquired(task)
    assert broker.issuer.count("issue") == 0
    assert await broker.kinds() == [AuditKind.TASK_DECLARED]
    assert (await broker.acquired(task)).lease.state is LeaseState.LIVE


async def test_a_task_that_ends_before_the_intent_gets_nothing(broker: Broker) -> None:
    task = await broker.declared()
    broker.store.before(CreateLease, lambda: end(broker, task))
    with pytest.raises(TaskNotActiveError):
        await broker.acquired(task)
    assert broker.issuer.count("issue") == 0


async def test_beyond_the_limit_the_backend_is_not_asked(broker: Broker) -> None:
    broker.catalogs.catalog = a_catalog(max_leases=2)
    task = await broker.declared()
    await broker.acquired(task, key="one")
    second = await broker.acquired(task, key="two")
    with pytest.raises(LeaseLimitReachedError):
        await broker.acquired(task, key="three")
    assert broker.issuer.count("issue") == 2
    await broker.release(CALLER, second.lease.lease_id)
    assert (await broker.acquired(task, key="three")).lease.state is LeaseState.LIVE


async def test_many_at_once_do_not_get_past_the_limit(broker: Broker) -> None:
    broker.catalogs.catalog = a_catalog(max_leases=2)
    task = await broker.declared()
    answers = await asyncio.gather(
        *(broker.acquired(task, key=f"key-{n}") for n in range(9)), return_exceptions=True
    )
    assert sum(isinstance(answer, LeaseLimitReachedError) for answer in answers) == 7
    assert len(broker.issuer.leases) == 2


async def test_a_key_that_another_process_took_meanwhile_is_refused(broker: Broker) -> None:
    task = await broker.declared()
    broker.store.before(CreateLease, lambda: broker.restarted().acquired(task))
    with pytest.raises(IdempotencyKeyReusedError):
        await broker.acquired(task)
    assert len(broker.issuer.leases) == 1


# A6: the backend ---------------------------------------------------------------------------------------------


async def test_a_refused_issue_leaves_a_void_lease_and_a_free_key(broker: Broker) -> None:
    task = await broker.declared()
    broker.issuer.troubles.append(Trouble.REFUSED)
    with pytest.raises(CredentialBackendUnavailableError):
        await broker.acquired(task)
    assert (await broker.only_lease(task)).state is LeaseState.VOID
    assert (await broker.kinds())[-1] == AuditKind.CREDENTIAL_VOIDED
    assert len(broker.issuer.tokens) == 1
    assert (await broker.acquired(task)).lease.state is LeaseState.LIVE
    assert broker.issuer.count("open_task") == 1


async def test_a_void_that_cannot_be_recorded_is_swept_up_later(broker: Broker) -> None:
    task = await broker.declared()
    broker.issuer.troubles.append(Trouble.REFUSED)
    broker.store.before(VoidLease, store_unavailable)
    with pytest.raises(CredentialBackendUnavailableError):
        await broker.acquired(task)
    assert (await broker.only_lease(task)).state is LeaseState.INTENDED
    await sweep(broker)
    assert (await broker.only_lease(task)).state is LeaseState.REVOKED


async def test_a_token_that_is_gone_is_replaced_at_the_next_acquire(broker: Broker) -> None:
    task = await broker.declared()
    broker.issuer.troubles.append(Trouble.TOKEN_GONE)
    with pytest.raises(CredentialBackendUnavailableError):
        await broker.acquired(task)
    assert (await broker.only_lease(task)).state is LeaseState.VOID
    acquired = await broker.acquired(task)
    assert acquired.lease.accessor in broker.issuer.tokens
    assert len(await broker.store.task_tokens(task.task_id)) == 2


@pytest.mark.parametrize("trouble", [Trouble.DONE_IN_DOUBT, Trouble.NOT_DONE_IN_DOUBT])
async def test_an_issue_in_doubt_is_revoked_by_its_token(broker: Broker, trouble: Trouble) -> None:
    task = await broker.declared()
    (accessor,) = broker.issuer.tokens
    broker.issuer.troubles.append(trouble)
    with pytest.raises(CredentialBackendUnavailableError):
        await broker.acquired(task)
    lease = await broker.only_lease(task)
    assert (lease.state, lease.revoke_cause) == (LeaseState.REVOKING, RevokeCause.IN_DOUBT)
    assert lease.vault_lease_id is None
    assert lease.lease_id not in broker.acquire.being_made
    await sweep(broker)
    assert broker.issuer.leases == {}
    assert accessor not in broker.issuer.tokens
    assert (await broker.only_lease(task)).state is LeaseState.REVOKED


async def test_after_a_doubt_the_next_credential_has_another_token_and_survives_the_sweep(
    broker: Broker,
) -> None:
    task = await broker.declared()
    broker.issuer.troubles.append(Trouble.DONE_IN_DOUBT)
    with pytest.raises(CredentialBackendUnavailableError):
        await broker.acquired(task)
    again = (await broker.acquired(task)).lease
    await sweep(broker)
    assert list(broker.issuer.leases) == [again.vault_lease_id]
    assert list(broker.issuer.tokens) == [again.accessor]


async def test_a_doubt_that_cannot_be_recorded_is_swept_up_later(broker: Broker) -> None:
    task = await broker.declared()
    broker.issuer.troubles.append(Trouble.DONE_IN_DOUBT)
    broker.store.before(RevokeLease, store_gone(broker))
    with pytest.raises(CredentialBackendUnavailableError):
        await broker.acquired(task)
    broker.store.down = False
    assert (await broker.only_lease(task)).state is LeaseState.INTENDED
    await sweep(broker)
    assert broker.issuer.leases == {}


async def test_a_backend_that_is_away_leaves_the_issue_in_doubt(broker: Broker) -> None:
    task = await broker.declared()
    broker.issuer.away = True
    with pytest.raises(CredentialBackendUnavailableError):
        await broker.acquired(task)
    broker.issuer.away = False
    await sweep(broker)
    assert (await broker.only_lease(task)).state is LeaseState.REVOKED


# A7: the issue -----------------------------------------------------------------------------------------------


async def test_a_task_that_ends_while_the_backend_is_at_work_takes_the_credential_with_it(
    broker: Broker,
) -> None:
    task = await broker.declared()
    with broker.issuer.holding("issue") as hold:
        work = asyncio.create_task(broker.acquired(task))
        await until(hold.entered)
        ended = await broker.end_task(task.task_id, an_end(at=NOON), actor=str(OWNER))
        assert ended is not None
        assert ended.state.value == "ending"  # it holds what is being made
        hold.let_go.set()
        with pytest.raises(TaskNotActiveError):
            await work
    assert broker.issuer.made >= 2
    assert broker.issuer.leases == {}
    assert (await broker.only_lease(task)).state is LeaseState.REVOKED
    await broker.watch.retry()
    assert (await broker.task(task.task_id)).state.value == "ended"
    assert broker.issuer.tokens == {}


async def test_a_lease_that_is_released_while_it_is_made_does_not_leave(broker: Broker) -> None:
    task = await broker.declared()
    with broker.issuer.holding("issue") as hold:
        work = asyncio.create_task(broker.acquired(task))
        await until(hold.entered)
        await broker.release(CALLER, (await broker.only_lease(task)).lease_id)
        hold.let_go.set()
        with pytest.raises(LeaseNotLiveError):
            await work
    assert broker.issuer.leases == {}
    assert (await broker.only_lease(task)).state is LeaseState.REVOKED


async def test_an_issue_that_cannot_be_recorded_is_taken_back_at_once(broker: Broker) -> None:
    task = await broker.declared()
    broker.store.before(IssueLease, store_unavailable)
    with pytest.raises(StoreUnavailableError):
        await broker.acquired(task)
    assert broker.issuer.count("issue") == 1
    assert broker.issuer.leases == {}
    lease = await broker.only_lease(task)
    assert (lease.state, lease.revoke_cause) == (LeaseState.REVOKED, RevokeCause.UNDELIVERED)
    assert (await broker.acquired(task)).lease.state is LeaseState.LIVE


async def test_when_the_store_is_gone_at_last_the_credential_is_taken_back_without_it(
    broker: Broker,
) -> None:
    task = await broker.declared()
    broker.store.before(IssueLease, store_gone(broker))
    with pytest.raises(StoreUnavailableError):
        await broker.acquired(task)
    await settle()
    assert broker.issuer.made >= 2
    assert broker.issuer.leases == {}
    broker.store.down = False
    await sweep(broker)
    assert (await broker.only_lease(task)).state is LeaseState.REVOKED


# A caller that goes away -------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["open_task", "issue"])
async def test_a_caller_that_goes_away_does_not_stop_what_has_begun(broker: Broker, operation: str) -> None:
    task = await broker.declared()
    again = broker.restarted()
    with broker.issuer.holding(operation) as hold:
        work = asyncio.create_task(again.acquired(task))
        await until(hold.entered)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        hold.let_go.set()
        await again.acquire.drain()
    lease = await broker.only_lease(task)
    assert lease.state is LeaseState.LIVE
    # Its owner comes back for it with the same key.
    assert (await again.acquired(task)).lease == lease
    assert broker.issuer.count("issue") == 1


@pytest.mark.parametrize("gone", [0, 1])
async def test_a_twin_that_goes_away_leaves_the_other_its_answer(broker: Broker, gone: int) -> None:
    task = await broker.declared()
    with broker.issuer.holding("issue") as hold:
        twins = [asyncio.create_task(broker.acquired(task)) for _ in range(2)]
        await until(hold.entered)
        twins[gone].cancel()
        await settle()
        hold.let_go.set()
        assert (await twins[1 - gone]).lease.state is LeaseState.LIVE
    assert broker.issuer.count("issue") == 1


async def test_a_drain_waits_for_what_is_under_way(broker: Broker) -> None:
    task = await broker.declared()
    with broker.issuer.holding("issue") as hold:
        work = asyncio.create_task(broker.acquired(task))
        await until(hold.entered)
        draining = asyncio.create_task(broker.acquire.drain())
        await settle()
        assert not draining.done()
        hold.let_go.set()
        await draining
    assert (await work).lease.state is LeaseState.LIVE
