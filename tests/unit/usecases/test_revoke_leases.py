"""The one path by which anything is taken back: tried until it is done, said only when it is."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from datetime import timedelta

import pytest

from broker.domain.audit import AuditKind
from broker.domain.catalog import Catalog
from broker.domain.changes import ConfirmRevoked, CreateLease, PostponeRevocation, RevokeLease
from broker.domain.errors import CredentialBackendUnavailableError, StoreUnavailableError
from broker.domain.identifiers import LeaseId
from broker.domain.lease import Lease, LeaseState, RevokeCause
from broker.domain.task import Outcome, Scope, Task, TaskState
from broker.usecases.revoke_leases import IN_DOUBT_GRACE
from broker.usecases.task_events import EventKind
from tests.fakes.issuer import FakeIssuer, Trouble
from tests.fakes.samples import BROKER, a_caller, a_catalog, a_lease, a_role
from tests.fakes.store import FakeStore
from tests.fakes.system import CountingIds, FakeClock
from tests.unit.usecases.wiring import Broker, asked, settle, until


def store_unavailable() -> None:
    raise StoreUnavailableError


async def revoking(broker: Broker, task: Task | None = None, key: str = "key", role: str = "orders") -> Lease:
    """A lease whose revocation is durable and due."""
    task = task or await broker.declared()
    lease = (await broker.acquired(task, role, key)).lease
    change = RevokeLease(lease_id=lease.lease_id, cause=RevokeCause.RELEASED, at=broker.clock.now())
    await broker.store.commit([change])
    return await broker.lease(lease.lease_id)


async def doubtful(broker: Broker, task: Task, key: str = "doubtful") -> Lease:
    """A lease of which nobody knows whether the backend made it (it did)."""
    broker.issuer.troubles.append(Trouble.DONE_IN_DOUBT)
    with pytest.raises(CredentialBackendUnavailableError):
        await broker.acquired(task, key=key)
    leases = await broker.store.leases_of(task.task_id)
    return next(lease for lease in leases if lease.idempotency_key == key)


def in_doubt(broker: Broker, lease: Lease) -> RevokeLease:
    return RevokeLease(lease_id=lease.lease_id, cause=RevokeCause.IN_DOUBT, at=broker.clock.now())


async def test_a_revoked_lease_is_recorded_after_the_backend_refuses_it(broker: Broker) -> None:
    lease = await revoking(broker)
    with broker.issuer.holding("revoke") as hold:
        work = asyncio.create_task(broker.revoke_leases.attempt(lease))
        await until(hold.entered)
        assert (await broker.lease(lease.lease_id)).state is LeaseState.REVOKING
        hold.let_go.set()
        assert await work
    assert broker.issuer.leases == {}
    assert (await broker.lease(lease.lease_id)).state is LeaseState.REVOKED
    event = (await broker.records())[-1].event
    assert (event.kind, event.actor, event.lease_id) == (
        AuditKind.LEASE_REVOKED,
        str(BROKER),
        lease.lease_id,
    )
    assert event.facts == {
        "role": "orders",
        "cause": "released",
        "vault_lease_id": lease.vault_lease_id,
        "by": "lease",
        "attempts": 1,
    }
    assert broker.steps.reached_steps[-2:] == ["revoke.vault-revoked", "revoke.durable"]


async def test_who_is_attached_hears_of_it(broker: Broker) -> None:
    lease = await revoking(broker)
    with broker.events.listening(lease.task_id) as events:
        await broker.revoke_leases.attempt(lease)
        event = events.get_nowait()
    assert event is not None
    assert event.kind is EventKind.LEASE_REVOKED
    assert event.lease == await broker.lease(lease.lease_id)


async def test_attempts_at_once_are_one(broker: Broker) -> None:
    lease = await revoking(broker)
    answers = await asyncio.gather(*(broker.revoke_leases.attempt(lease) for _ in range(5)))
    assert answers == [True] * 5
    assert broker.issuer.count("revoke") == 1


async def test_no_more_than_a_few_leases_are_revoked_at_once(broker: Broker) -> None:
    leases = [
        await revoking(broker, task, key)
        for task in [await broker.declared() for _ in range(3)]
        for key in ("one", "two", "three")
    ]
    with broker.issuer.holding("revoke") as hold:
        work = [asyncio.create_task(broker.revoke_leases.attempt(lease)) for lease in leases]
        await asked(broker.issuer, "revoke", 2)
        await settle()
        assert broker.issuer.count("revoke") == 2
        hold.let_go.set()
        assert await asyncio.gather(*work) == [True] * 9


async def test_beside_what_is_being_issued_one_at_a_time_is_revoked(broker: Broker) -> None:
    task = await broker.declared()
    leases = [await revoking(broker, task, key) for key in ("one", "two", "three")]
    being_made = {LeaseId("lease-being-made")}
    broker.revoke_leases.being_made = lambda: being_made
    with broker.issuer.holding("revoke") as hold:
        work = [asyncio.create_task(broker.revoke_leases.attempt(lease)) for lease in leases]
        await asked(broker.issuer, "revoke", 1)
        await settle()
        assert broker.issuer.count("revoke") == 1
        hold.let_go.set()
        assert await asyncio.gather(*work) == [True] * 3


async def test_a_lease_that_the_backend_still_knows_is_not_called_revoked(broker: Broker) -> None:
    lease = await revoking(broker)
    broker.issuer.deaf_to.add("revoke")
    assert not await broker.revoke_leases.attempt(lease)
    assert (await broker.lease(lease.lease_id)).state is LeaseState.REVOKING
    broker.issuer.deaf_to.clear()
    assert await broker.revoke_leases.attempt(await broker.lease(lease.lease_id))


async def test_a_mount_that_does_not_answer_keeps_no_other_waiting() -> None:
    roles = (a_role("orders"), a_role("events", mount="rabbitmq"))
    broker = Broker(FakeStore(), FakeIssuer(), FakeClock(), CountingIds(), a_catalog(roles=roles))
    task = await broker.declared(scope=Scope(roles=frozenset({"orders", "events"})))
    stuck = [await revoking(broker, task, f"orders-{number}") for number in range(2)]
    other = await revoking(broker, task, "events", role="events")
    with broker.issuer.holding("revoke") as hold:
        work = [asyncio.create_task(broker.revoke_leases.attempt(lease)) for lease in stuck]
        await asked(broker.issuer, "revoke", 2)
        work.append(asyncio.create_task(broker.revoke_leases.attempt(other)))
        await asked(broker.issuer, "revoke", 3)
        hold.let_go.set()
        assert await asyncio.gather(*work) == [True] * 3


async def test_a_task_with_one_lease_waits_for_as_many_as_there_are_tasks(broker: Broker) -> None:
    large, small = [await broker.declared() for _ in range(2)]
    many = [await revoking(broker, large, f"key-{number}") for number in range(3)]
    one = await revoking(broker, small, "one")
    with broker.issuer.holding("revoke") as hold:
        work = [asyncio.create_task(broker.revoke_leases.attempt(lease)) for lease in (*many, one)]
        await asked(broker.issuer, "revoke", 2)
        hold.let_go.set()
        await asyncio.gather(*work)
    asked_for = [call.about for call in broker.issuer.calls if call.operation == "revoke"]
    assert asked_for.index(str(one.vault_lease_id)) <= 3


# Backoff -------------------------------------------------------------------------------------------------------


async def test_a_failure_is_recorded_alarmed_and_put_off(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    lease = await revoking(broker)
    broker.issuer.away = True
    with caplog.at_level(logging.ERROR):
        assert not await broker.revoke_leases.attempt(lease)
    after = await broker.lease(lease.lease_id)
    assert (after.state, after.attempts) == (LeaseState.REVOKING, 1)
    assert after.next_attempt_at == broker.clock.now() + timedelta(milliseconds=375)
    event = (await broker.records())[-1].event
    assert event.kind == AuditKind.LEASE_REVOCATION_FAILED
    assert event.facts == {"reason": "CREDENTIAL_BACKEND_UNAVAILABLE", "attempts": 1}
    assert "NOT revoked" in caplog.text
    assert lease.lease_id in caplog.text


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.999])
async def test_pauses_double_up_to_a_minute_with_jitter_in_their_upper_half(
    broker: Broker, fraction: float
) -> None:
    broker.ids = broker.revoke_leases._ids = CountingIds(fraction)
    lease = await revoking(broker)
    broker.issuer.away = True
    whole = 0.5
    for _ in range(20):
        began = broker.clock.now()
        await broker.revoke_leases.attempt(await broker.lease(lease.lease_id))
        next_attempt_at = (await broker.lease(lease.lease_id)).next_attempt_at
        assert next_attempt_at is not None
        pause = (next_attempt_at - began).total_seconds()
        assert whole / 2 <= pause < whole
        assert pause == pytest.approx(whole * (0.5 + fraction / 2))
        whole = min(whole * 2, 60)
        broker.clock.advance(seconds=pause)


async def test_it_is_tried_without_limit_and_the_trail_stays_short(broker: Broker) -> None:
    lease = await revoking(broker)
    broker.issuer.away = True
    for _ in range(200):
        broker.clock.advance(minutes=1)
        await broker.watch.retry()
    assert (await broker.lease(lease.lease_id)).attempts == 200
    failed = (await broker.kinds()).count(AuditKind.LEASE_REVOCATION_FAILED)
    assert failed == 9  # at 0, 1, 2, 4 … 128 earlier attempts
    broker.issuer.away = False
    broker.clock.advance(minutes=1)
    assert await broker.watch.retry() == 1
    assert broker.issuer.leases == {}
    assert (await broker.records())[-1].event.facts["attempts"] == 201


async def test_what_is_not_due_is_not_tried(broker: Broker) -> None:
    lease = await revoking(broker)
    broker.issuer.away = True
    await broker.revoke_leases.attempt(lease)
    assert broker.issuer.count("revoke") == 1
    broker.issuer.away = False
    assert await broker.watch.retry() == 0
    broker.clock.advance(seconds=1)
    assert await broker.watch.retry() == 1


async def test_a_failure_that_cannot_be_recorded_leaves_the_lease_due(broker: Broker) -> None:
    lease = await revoking(broker)
    broker.issuer.away = True
    broker.store.before(PostponeRevocation, store_unavailable)
    assert not await broker.revoke_leases.attempt(lease)
    assert await broker.lease(lease.lease_id) == lease
    broker.issuer.away = False
    assert await broker.watch.retry() == 1


async def test_a_revocation_that_cannot_be_recorded_is_not_called_done_and_is_repeated(
    broker: Broker,
) -> None:
    lease = await revoking(broker)
    broker.store.before(ConfirmRevoked, store_unavailable)
    assert not await broker.revoke_leases.attempt(lease)
    assert (await broker.lease(lease.lease_id)).state is LeaseState.REVOKING
    assert await broker.watch.retry() == 1
    assert (await broker.lease(lease.lease_id)).state is LeaseState.REVOKED


async def test_a_lease_that_another_process_revoked_is_done(broker: Broker) -> None:
    lease = await revoking(broker)
    other = broker.restarted()
    answers = await asyncio.gather(*(one.revoke_leases.attempt(lease) for one in (broker, other)))
    assert answers == [True, True]
    assert (await broker.kinds()).count(AuditKind.LEASE_REVOKED) == 1


# In doubt ------------------------------------------------------------------------------------------------------


async def test_a_doubtful_lease_is_left_alone_until_the_backend_can_be_done_with_it(
    broker: Broker,
) -> None:
    task = await broker.declared()
    lease = await doubtful(broker, task)
    broker.clock.advance(seconds=IN_DOUBT_GRACE.total_seconds() - 0.001)
    assert await broker.watch.retry() == 0
    assert broker.issuer.count("revoke_token") == 0
    broker.clock.advance(seconds=0.001)
    assert await broker.watch.retry() == 1
    assert broker.issuer.leases == {}
    event = (await broker.records())[-1].event
    assert (event.facts["by"], event.facts["cause"]) == ("token", "in-doubt")
    assert (await broker.lease(lease.lease_id)).state is LeaseState.REVOKED


async def test_a_doubtful_lease_waits_for_those_that_live_under_its_token(broker: Broker) -> None:
    task = await broker.declared()
    sibling = (await broker.acquired(task)).lease
    lease = await doubtful(broker, task)
    assert lease.accessor == sibling.accessor
    broker.clock.advance(seconds=20)
    await broker.watch.retry()
    assert sibling.vault_lease_id in broker.issuer.leases
    assert (await broker.lease(lease.lease_id)).state is LeaseState.REVOKING
    change = RevokeLease(lease_id=sibling.lease_id, cause=RevokeCause.RELEASED, at=broker.clock.now())
    await broker.store.commit([change])
    await broker.watch.retry()
    await broker.watch.retry()
    assert broker.issuer.leases == {}
    assert (await broker.lease(lease.lease_id)).state is LeaseState.REVOKED


async def test_a_doubtful_lease_does_not_wait_for_another_doubtful_one(broker: Broker) -> None:
    task = await broker.declared()
    with broker.issuer.holding("issue") as hold:
        broker.issuer.troubles.extend([Trouble.DONE_IN_DOUBT] * 2)
        work = [asyncio.create_task(broker.acquired(task, key=key)) for key in ("one", "two")]
        await asked(broker.issuer, "issue", 2)
        hold.let_go.set()
        await asyncio.gather(*work, return_exceptions=True)
    broker.clock.advance(seconds=IN_DOUBT_GRACE.total_seconds())
    assert await broker.watch.retry() == 2
    assert broker.issuer.leases == {}


async def test_what_is_being_made_is_not_revoked_as_doubtful_however_long_it_takes(broker: Broker) -> None:
    task = await broker.declared()
    with broker.issuer.holding("issue") as hold:
        work = asyncio.create_task(broker.acquired(task))
        await until(hold.entered)
        lease = await broker.only_lease(task)
        await broker.store.commit([in_doubt(broker, lease)])
        broker.clock.advance(seconds=60)
        assert await broker.watch.retry() == 0
        assert broker.issuer.count("revoke_token") == 0
        hold.let_go.set()
        await asyncio.gather(work, return_exceptions=True)
    assert broker.issuer.leases == {}


async def test_a_token_is_not_revoked_under_what_is_being_made_with_it(broker: Broker) -> None:
    task = await broker.declared()
    with broker.issuer.holding("issue") as hold:
        work = asyncio.create_task(broker.acquired(task))
        await until(hold.entered)
        making = await broker.only_lease(task)
        doubtful = a_lease(task_id=task.task_id, accessor=making.accessor)
        await broker.store.commit([CreateLease(lease=doubtful, max_live=9), in_doubt(broker, doubtful)])
        broker.clock.advance(seconds=60)
        assert await broker.watch.retry() == 0
        assert broker.issuer.count("revoke_token") == 0
        hold.let_go.set()
        assert (await work).lease.vault_lease_id in broker.issuer.leases


async def test_doubtful_leases_that_have_to_wait_do_not_hold_up_the_others(broker: Broker) -> None:
    """A round takes a batch; what cannot be done yet must not fill it."""
    broker.catalogs.catalog = a_catalog(max_leases=1000)
    waiting = await broker.declared()
    await broker.acquired(waiting, key="sibling")
    with broker.issuer.holding("issue") as hold:
        broker.issuer.troubles.extend([Trouble.NOT_DONE_IN_DOUBT] * 200)
        work = [asyncio.create_task(broker.acquired(waiting, key=f"key-{n}")) for n in range(200)]
        await asked(broker.issuer, "issue", 201)
        hold.let_go.set()
        await asyncio.gather(*work, return_exceptions=True)
    broker.clock.advance(seconds=20)
    lease = await revoking(broker)
    broker.clock.advance(seconds=1)
    await broker.watch.retry()
    assert (await broker.lease(lease.lease_id)).state is LeaseState.REVOKED


CALLER = a_caller()


# Asking the backend itself ---------------------------------------------------------------------------------------


def verified_catalog() -> Catalog:
    observer = a_role("observer")
    catalog = a_catalog(roles=(a_role("orders", verified_by="observer"), a_role("customers")))
    return replace(catalog, credential_roles={**catalog.credential_roles, "observer": observer})


async def test_revoked_is_said_when_the_backend_refuses_and_not_before(broker: Broker) -> None:
    broker.catalogs.catalog = verified_catalog()
    task = await broker.declared()
    acquired = await broker.acquired(task)
    account = acquired.secret["username"].reveal()
    assert acquired.lease.account == account
    broker.verifier.accounts = {account}
    assert (await broker.complete(CALLER, task.task_id, Outcome.SUCCEEDED, "")).state is TaskState.ENDING
    lease = await broker.lease(acquired.lease.lease_id)
    assert (lease.state, lease.attempts) == (LeaseState.REVOKING, 1)
    assert broker.issuer.leases == {}, "Vault had said that it is done"
    assert (await broker.kinds())[-1] == AuditKind.LEASE_REVOCATION_FAILED
    for _ in range(3):
        broker.clock.advance(minutes=2)
        assert await broker.watch.retry() == 0
    broker.verifier.accounts = set()
    broker.clock.advance(minutes=2)
    assert await broker.watch.retry() == 1
    await broker.watch.retry()
    assert (await broker.task(task.task_id)).state is TaskState.ENDED
    assert set(broker.verifier.asked) == {("observer", account)}


async def test_a_backend_that_cannot_be_asked_is_asked_again(broker: Broker) -> None:
    broker.catalogs.catalog = verified_catalog()
    task = await broker.declared()
    await broker.acquired(task)
    broker.verifier.away = True
    assert (await broker.complete(CALLER, task.task_id, Outcome.SUCCEEDED, "")).state is TaskState.ENDING
    broker.verifier.away = False
    broker.clock.advance(minutes=2)
    assert await broker.watch.retry() == 1


async def test_nobody_is_asked_about_a_role_that_names_no_verifier(broker: Broker) -> None:
    task = await broker.declared()
    await broker.acquired(task)
    broker.verifier.away = True
    assert (await broker.complete(CALLER, task.task_id, Outcome.SUCCEEDED, "")).state is TaskState.ENDED
    assert broker.verifier.asked == []


# Without the store ---------------------------------------------------------------------------------------------


async def test_what_was_made_is_taken_back_while_the_store_is_away(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    lease = await revoking(broker)
    broker.store.down = True
    with caplog.at_level(logging.WARNING):
        await broker.revoke_leases.take_back(lease.lease_id, lease.vault_lease_id)
        await settle()
    assert broker.issuer.leases == {}
    assert "taken back without the store" in caplog.text


async def test_taking_back_goes_on_while_both_are_away(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    lease = await revoking(broker)
    broker.store.down = broker.issuer.away = True
    await broker.revoke_leases.take_back(lease.lease_id, lease.vault_lease_id)
    pauses = []
    for _ in range(9):
        await settle()
        due = broker.clock.next_wake
        assert due is not None
        pauses.append((due - broker.clock.now()).total_seconds())
        broker.clock.advance(seconds=pauses[-1])
    assert pauses == [0.375, 0.75, 1.5, 3, 6, 12, 24, 45, 45]
    assert "NOT taken back" in caplog.text
    broker.issuer.away = False
    await settle()
    assert broker.issuer.leases == {}
    assert broker.clock.next_wake is None


async def test_taking_back_what_the_store_knows_is_an_attempt(broker: Broker) -> None:
    lease = await revoking(broker)
    await broker.revoke_leases.take_back(lease.lease_id, lease.vault_lease_id)
    assert (await broker.lease(lease.lease_id)).state is LeaseState.REVOKED


async def test_an_attempt_that_reads_no_siblings_does_not_touch_the_token(broker: Broker) -> None:
    task = await broker.declared()
    lease = await doubtful(broker, task)
    broker.clock.advance(seconds=20)
    broker.store.down = True
    assert not await broker.revoke_leases.attempt(lease)
    assert broker.issuer.count("revoke_token") == 0


async def test_a_drain_waits_for_attempts_under_way(broker: Broker) -> None:
    lease = await revoking(broker)
    with broker.issuer.holding("revoke") as hold:
        work = asyncio.create_task(broker.revoke_leases.attempt(lease))
        await until(hold.entered)
        draining = asyncio.create_task(broker.revoke_leases.drain())
        await settle()
        assert not draining.done()
        hold.let_go.set()
        await draining
    assert await work
