"""Giving a credential back before its task ends."""

from __future__ import annotations

import asyncio

import pytest

from broker.domain.audit import AuditKind
from broker.domain.changes import RevokeLease
from broker.domain.errors import StoreUnavailableError
from broker.domain.lease import LeaseState, RevokeCause
from broker.usecases.revoke_leases import IN_DOUBT_GRACE
from tests.fakes.samples import OWNER, a_caller, an_end
from tests.unit.usecases.wiring import Broker, asked, until

CALLER = a_caller()


async def test_a_released_credential_is_refused_by_the_backend_when_the_answer_comes(
    broker: Broker,
) -> None:
    task = await broker.declared()
    lease = (await broker.acquired(task)).lease
    broker.clock.advance(seconds=1)
    released = await broker.release(CALLER, lease.lease_id)
    assert (released.state, released.revoke_cause) == (LeaseState.REVOKED, RevokeCause.RELEASED)
    assert released.revoked_at == broker.clock.now()
    assert broker.issuer.leases == {}
    assert list(broker.issuer.tokens) == [lease.accessor]
    revoking, revoked = (record.event for record in (await broker.records())[-2:])
    assert (revoking.kind, revoking.actor) == (AuditKind.LEASE_REVOKING, str(OWNER))
    assert revoking.facts["cause"] == "released"
    assert revoked.kind == AuditKind.LEASE_REVOKED


async def test_what_else_the_task_holds_stays(broker: Broker) -> None:
    task = await broker.declared()
    first = (await broker.acquired(task, key="one")).lease
    second = (await broker.acquired(task, key="two")).lease
    await broker.release(CALLER, first.lease_id)
    assert list(broker.issuer.leases) == [second.vault_lease_id]


async def test_releasing_twice_is_harmless(broker: Broker) -> None:
    task = await broker.declared()
    lease = (await broker.acquired(task)).lease
    first = await broker.release(CALLER, lease.lease_id)
    records = await broker.records()
    assert await broker.release(CALLER, lease.lease_id) == first
    assert await broker.records() == records
    assert broker.issuer.count("revoke") == 1


async def test_two_releases_at_once_revoke_once(broker: Broker) -> None:
    task = await broker.declared()
    lease = (await broker.acquired(task)).lease
    first, second = await asyncio.gather(
        broker.release(CALLER, lease.lease_id), broker.release(CALLER, lease.lease_id)
    )
    assert first == second
    assert broker.issuer.count("revoke") == 1


async def test_while_the_backend_is_away_the_lease_is_said_to_be_revoking(broker: Broker) -> None:
    task = await broker.declared()
    lease = (await broker.acquired(task)).lease
    broker.issuer.away = True
    released = await broker.release(CALLER, lease.lease_id)
    assert (released.state, released.attempts) == (LeaseState.REVOKING, 1)
    broker.issuer.away = False
    released = await broker.release(CALLER, lease.lease_id)
    assert released.state is LeaseState.REVOKED
    assert broker.issuer.leases == {}


async def test_a_release_that_is_not_durable_changes_nothing(broker: Broker) -> None:
    task = await broker.declared()
    lease = (await broker.acquired(task)).lease

    def fail() -> None:
        raise StoreUnavailableError

    broker.store.before(RevokeLease, fail)
    with pytest.raises(StoreUnavailableError):
        await broker.release(CALLER, lease.lease_id)
    assert await broker.lease(lease.lease_id) == lease
    assert broker.issuer.count("revoke") == 0


async def test_a_lease_of_a_task_that_is_ending_can_be_released(broker: Broker) -> None:
    task = await broker.declared()
    lease = (await broker.acquired(task)).lease
    await broker.end_task.begin(task.task_id, an_end(), actor="test")
    released = await broker.release(CALLER, lease.lease_id)
    assert (released.state, released.revoke_cause) == (LeaseState.REVOKED, RevokeCause.TASK_ENDED)


async def test_a_caller_that_goes_away_does_not_stop_the_revocation(broker: Broker) -> None:
    task = await broker.declared()
    lease = (await broker.acquired(task)).lease
    with broker.issuer.holding("revoke") as hold:
        work = asyncio.create_task(broker.release(CALLER, lease.lease_id))
        await until(hold.entered)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        hold.let_go.set()
        await broker.revoke_leases.drain()
    assert (await broker.lease(lease.lease_id)).state is LeaseState.REVOKED


async def test_a_lease_that_another_process_left_half_made_is_revoked_with_its_token(
    broker: Broker,
) -> None:
    task = await broker.declared()
    again = broker.restarted()
    with broker.issuer.holding("issue"):
        work = asyncio.create_task(broker.acquired(task))
        await asked(broker.issuer, "issue", 1)
        lease = await broker.only_lease(task)
        await again.release(CALLER, lease.lease_id)
        broker.clock.advance(seconds=IN_DOUBT_GRACE.total_seconds())
        released = await again.release(CALLER, lease.lease_id)
    await asyncio.gather(work, return_exceptions=True)
    assert (released.state, broker.issuer.leases) == (LeaseState.REVOKED, {})
    assert broker.issuer.tokens == {}
