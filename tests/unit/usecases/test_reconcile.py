"""Store against backend, in both directions: what differs is put right, and what is alive is left alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from broker.domain.audit import AuditKind
from broker.domain.errors import CredentialBackendUnavailableError
from broker.domain.identifiers import TokenAccessor, VaultLeaseId
from broker.domain.lease import LeaseState, RevokeCause
from broker.domain.task import TaskState
from broker.usecases.reconcile import ORPHAN_GRACE, Finding, FindingKind, OnBehalfOf, Reconcile
from tests.fakes.samples import BROKER, a_caller, a_role, an_end
from tests.fakes.view import FakeView
from tests.unit.usecases.wiring import TIMEOUT, Broker, an_acquisition, settle

ANN = OnBehalfOf(actor="spiffe://example.test/oncall/ann", request_id="req-7", reason="a restore")


class Reconciled:
    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.view = FakeView(broker.issuer)
        self.reconcile = Reconcile(
            store=broker.store,
            view=self.view,
            issuer=broker.issuer,
            clock=broker.clock,
            actor=str(BROKER),
            timeout=TIMEOUT,
        )

    async def found(self, *, dry_run: bool = False) -> list[Finding]:
        return (await self.reconcile(by=ANN, dry_run=dry_run)).findings


@pytest.fixture
def world(broker: Broker) -> Reconciled:
    return Reconciled(broker)


async def test_where_nothing_differs_nothing_happens(world: Reconciled) -> None:
    broker = world.broker
    task = await broker.declared()
    await broker.acquired(task)
    before = len(await broker.records())
    result = await world.reconcile(by=ANN)
    assert (result.findings, result.leases, result.tokens, result.not_looked_at) == ([], 1, 1, [])
    assert len(await broker.records()) == before
    assert len(broker.issuer.leases) == 1


async def test_the_brokers_own_round_rests_between_pages_and_an_operators_does_not(
    world: Reconciled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.usecases.reconcile._PAGE", 1)
    broker = world.broker
    task = await broker.declared()
    for key in ("one", "two", "three"):
        await broker.acquired(task, key=key)
    knows = world.view.knows

    async def slowly(vault_lease_id: VaultLeaseId, *, timeout: timedelta) -> bool:
        broker.clock.advance(seconds=2)
        return await knows(vault_lease_id, timeout=timeout)

    monkeypatch.setattr(world.view, "knows", slowly)
    work = asyncio.create_task(world.reconcile.round())
    await settle()
    rests = broker.clock.next_wake
    assert rests == broker.clock.now() + timedelta(seconds=8)
    broker.clock.advance(seconds=8)
    await settle()
    assert not work.done()
    broker.clock.advance(seconds=8)
    await settle()
    assert await work == 0
    assert (await world.reconcile(by=replace(ANN, asked_for=True))).leases == 3
    assert broker.clock.next_wake is None


async def test_a_token_that_nobody_knows_is_revoked_with_its_leases_after_the_grace(
    world: Reconciled,
) -> None:
    broker = world.broker
    grant = await broker.issuer.open_task(broker.ids.task_id(), [a_role()], TIMEOUT, timeout=TIMEOUT)
    await broker.issuer.issue(grant, broker.ids.task_id(), a_role(), timeout=TIMEOUT)
    broker.clock.advance(seconds=ORPHAN_GRACE.total_seconds() - 1)
    assert await world.found() == []
    broker.clock.advance(seconds=1)
    (finding,) = await world.found(dry_run=True)
    assert (finding.kind, finding.subject) == (FindingKind.ORPHAN, grant.accessor)
    assert broker.issuer.tokens, "it was only looked"
    assert await world.found() == [finding]
    assert (broker.issuer.tokens, broker.issuer.leases) == ({}, {})
    orphan, summary = [record.event for record in (await broker.records())[-2:]]
    assert (orphan.kind, orphan.actor, orphan.facts["accessor"]) == (
        AuditKind.ORPHAN_REVOKED,
        ANN.actor,
        grant.accessor,
    )
    assert (summary.kind, summary.facts["orphan"], summary.facts["reason"]) == (
        AuditKind.RECONCILED,
        1,
        ANN.reason,
    )
    assert await world.found() == []


async def test_a_token_of_another_store_is_left_alone(world: Reconciled) -> None:
    broker = world.broker
    grant = await broker.issuer.open_task(broker.ids.task_id(), [a_role()], TIMEOUT, timeout=TIMEOUT)
    broker.clock.advance(hours=10)
    for other in ("another", ""):
        world.view.made_for[grant.accessor] = other
        assert await world.found() == []
    assert broker.issuer.tokens


async def test_a_token_of_a_task_that_ended_comes_back_with_a_restore_and_goes_at_once(
    world: Reconciled,
) -> None:
    broker = world.broker
    task = await broker.declared()
    lease = (await broker.acquired(task)).lease
    tokens, leases = dict(broker.issuer.tokens), dict(broker.issuer.leases)
    await broker.end_task(task.task_id, an_end(at=broker.clock.now()), actor="test")
    assert (await broker.task(task.task_id)).state is TaskState.ENDED
    broker.issuer.tokens, broker.issuer.leases = tokens, leases  # the restore
    (finding,) = await world.found()
    assert (finding.kind, finding.task_id) == (FindingKind.ORPHAN, task.task_id)
    assert lease.vault_lease_id not in broker.issuer.leases


async def test_a_lease_that_the_backend_forgot_is_not_said_to_be_revoked_before_it_has_expired(
    world: Reconciled,
) -> None:
    broker = world.broker
    task = await broker.declared()
    lease = (await broker.acquired(task)).lease
    broker.issuer.leases.clear()  # a restore from an older copy
    (looked,) = await world.found(dry_run=True)
    assert (await broker.lease(lease.lease_id)).state is LeaseState.LIVE
    (finding,) = await world.found()
    assert finding == looked == Finding(kind=FindingKind.LOST, subject=lease.lease_id, task_id=task.task_id)
    lost = await broker.lease(lease.lease_id)
    assert (lost.state, lost.revoke_cause) == (LeaseState.REVOKING, RevokeCause.LOST)
    assert (await broker.task(task.task_id)).state is TaskState.ACTIVE, "what is alive is not killed"
    assert lost.expires_at is not None
    while broker.clock.now() < lost.expires_at:
        await broker.watch.retry()
        assert (await broker.lease(lease.lease_id)).state is LeaseState.REVOKING
        broker.clock.advance(seconds=10)
    await broker.watch.retry()
    assert (await broker.lease(lease.lease_id)).state is LeaseState.REVOKED
    assert await world.found() == []


async def test_the_task_of_a_lost_lease_acquires_anew_and_ends_when_the_lost_one_has_expired(
    world: Reconciled,
) -> None:
    broker = world.broker
    task = await broker.declared()
    await broker.acquired(task)
    broker.issuer.leases.clear()
    broker.issuer.tokens.clear()
    await world.found()
    again = an_acquisition(task, "orders", "key-2")
    with pytest.raises(
        CredentialBackendUnavailableError
    ):  # its token is gone as well: the next one makes another
        await broker.acquire(a_caller(task.owner), again)
    await broker.acquire(a_caller(task.owner), again)
    assert len(broker.issuer.leases) == 1
    await broker.end_task(task.task_id, an_end(at=broker.clock.now()), actor="test")
    assert broker.issuer.leases == {}
    assert (await broker.task(task.task_id)).state is TaskState.ENDING, "the lost one may still work"
    broker.clock.advance(minutes=2)
    await broker.watch.retry()
    assert (await broker.task(task.task_id)).state is TaskState.ENDED


async def test_what_the_backend_gave_up_is_tried_again_until_it_is_gone(world: Reconciled) -> None:
    broker = world.broker
    task = await broker.declared()
    lease = (await broker.acquired(task)).lease
    assert lease.vault_lease_id is not None
    world.view.given_up.append(lease.vault_lease_id)
    with_trouble = Finding(kind=FindingKind.STRANDED, subject=lease.vault_lease_id, trouble="")
    assert await world.found(dry_run=True) == [with_trouble]
    assert lease.vault_lease_id in broker.issuer.leases
    assert await world.found() == [with_trouble]
    assert lease.vault_lease_id not in broker.issuer.leases


async def test_what_it_may_not_look_at_is_said_and_the_rest_is_looked_at(world: Reconciled) -> None:
    broker = world.broker
    task = await broker.declared()
    await broker.acquired(task)
    broker.issuer.leases.clear()
    world.view.forbidden = True
    result = await world.reconcile(by=ANN)
    assert [finding.kind for finding in result.findings] == [FindingKind.LOST]
    assert result.not_looked_at == ["not allowed"] * 2


async def test_a_backend_that_is_away_loses_nothing(world: Reconciled) -> None:
    broker = world.broker
    task = await broker.declared()
    lease = (await broker.acquired(task)).lease
    broker.issuer.away = True
    with pytest.raises(CredentialBackendUnavailableError):
        await world.found()
    assert (await broker.lease(lease.lease_id)).state is LeaseState.LIVE


async def test_a_lease_that_is_released_while_it_is_looked_up_is_no_finding(world: Reconciled) -> None:
    broker = world.broker
    task = await broker.declared()
    lease = (await broker.acquired(task)).lease

    async def released_meanwhile(_lease_id: object, *, timeout: timedelta) -> bool:
        await broker.release(a_caller(task.owner), lease.lease_id)
        return False

    world.view.knows = released_meanwhile  # type: ignore[assignment]
    assert await world.found() == []
    assert (await broker.lease(lease.lease_id)).revoke_cause is RevokeCause.RELEASED


async def test_an_orphan_that_cannot_be_revoked_is_said_to_be_left(world: Reconciled) -> None:
    broker = world.broker
    await broker.issuer.open_task(broker.ids.task_id(), [a_role()], TIMEOUT, timeout=TIMEOUT)
    broker.clock.advance(minutes=5)

    async def away(_accessor: TokenAccessor, *, timeout: timedelta) -> None:
        raise CredentialBackendUnavailableError

    broker.issuer.revoke_token = away  # type: ignore[assignment]
    (finding,) = await world.found()
    assert finding.trouble == "CREDENTIAL_BACKEND_UNAVAILABLE"
    assert (await broker.records())[-1].event.facts["left"] == 1
