"""What the broker does by itself: the dead man's switch, renewing, expiring, reclaiming, trying again."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from broker.domain.audit import AuditKind
from broker.domain.changes import CreateLease, EndTask, ExtendLease, RevokeLease
from broker.domain.errors import StoreUnavailableError
from broker.domain.lease import Lease, LeaseState, RevokeCause
from broker.domain.task import EndCause, Scope, Task, TaskState
from broker.usecases import watch_over_tasks
from tests.fakes.issuer import FakeIssuer
from tests.fakes.samples import BROKER, a_caller, a_catalog, a_lease, a_role
from tests.fakes.store import FakeStore
from tests.fakes.system import NOON, CountingIds, FakeClock
from tests.unit.usecases.wiring import Broker, an_acquisition, until

CALLER = a_caller()


def store_unavailable() -> None:
    raise StoreUnavailableError


async def held(broker: Broker, role: str = "orders") -> tuple[Task, Lease]:
    task = await broker.declared()
    return task, (await broker.acquired(task, role)).lease


# The dead man's switch -----------------------------------------------------------------------------------------


async def test_a_task_without_a_sign_of_life_ends_and_its_leases_are_revoked(broker: Broker) -> None:
    task, lease = await held(broker)
    broker.clock.advance(seconds=29.999)
    assert await broker.watch.end_lapsed() == 0
    broker.clock.advance(seconds=0.001)
    assert await broker.watch.end_lapsed() == 1
    ending = await broker.task(task.task_id)
    assert ending.state is TaskState.ENDING
    assert ending.end is not None
    assert (ending.end.cause, ending.end.at) == (EndCause.HEARTBEAT_LOST, NOON + timedelta(seconds=30))
    event = (await broker.records())[-1].event
    assert (event.kind, event.actor) == (AuditKind.TASK_ENDING, str(BROKER))
    await broker.watch.retry()
    assert (await broker.task(task.task_id)).state is TaskState.ENDED
    assert not broker.issuer.leases
    assert not broker.issuer.tokens
    assert (await broker.lease(lease.lease_id)).revoke_cause is RevokeCause.TASK_ENDED


async def test_a_task_that_gives_signs_of_life_goes_on_until_its_deadline(broker: Broker) -> None:
    task = await broker.declared(deadline=NOON + timedelta(minutes=2))
    for _ in range(11):
        broker.clock.advance(seconds=10)
        await broker.keep_alive.beat(CALLER, task.task_id)
        assert await broker.watch.end_lapsed() == 0
    broker.clock.advance(seconds=10)
    assert await broker.watch.end_lapsed() == 1
    end = (await broker.task(task.task_id)).end
    assert end is not None
    assert end.cause is EndCause.DEADLINE


async def test_a_task_lapses_once(broker: Broker) -> None:
    await held(broker)
    broker.clock.advance(hours=2)
    assert await broker.watch.end_lapsed() == 1
    assert await broker.watch.end_lapsed() == 0
    assert (await broker.kinds()).count(AuditKind.TASK_ENDING) == 1


async def test_a_task_that_somebody_else_ends_in_the_same_moment_is_not_ended_twice(broker: Broker) -> None:
    task, _lease = await held(broker)
    broker.clock.advance(hours=2)
    broker.store.before(EndTask, broker.restarted().watch.end_lapsed)
    assert await broker.watch.end_lapsed() == 0
    assert (await broker.task(task.task_id)).state is TaskState.ENDING
    assert (await broker.kinds()).count(AuditKind.TASK_ENDING) == 1


async def test_a_lapsed_task_is_ended_after_a_restart(broker: Broker) -> None:
    task, _lease = await held(broker)
    broker.clock.advance(hours=2)
    again = broker.restarted()
    assert await again.watch.end_lapsed() == 1
    await again.watch.retry()
    assert (await broker.task(task.task_id)).state is TaskState.ENDED
    assert not broker.issuer.leases
    assert not broker.issuer.tokens


async def test_nothing_is_issued_to_a_task_that_lapsed(broker: Broker) -> None:
    task, _lease = await held(broker)
    broker.clock.advance(hours=2)
    await broker.watch.end_lapsed()
    with pytest.raises(Exception, match="ending or has ended"):
        await broker.acquired(task, key="late")


# Renewing ------------------------------------------------------------------------------------------------------


async def test_a_lease_is_renewed_once_half_of_its_time_is_over(broker: Broker) -> None:
    _task, lease = await held(broker)
    broker.clock.advance(seconds=29)
    assert await broker.watch.renew_due() == 0
    broker.clock.advance(seconds=2)
    assert await broker.watch.renew_due() == 1
    assert (await broker.lease(lease.lease_id)).expires_at == NOON + timedelta(seconds=91)
    assert await broker.watch.renew_due() == 0


async def test_each_lease_is_renewed_by_its_own_roles_time(broker: Broker) -> None:
    slow = a_role("slow", ttl=timedelta(minutes=20))
    broker.catalogs.catalog = a_catalog(roles=(a_role("orders"), slow))
    task = await broker.declared(scope=Scope(roles=frozenset({"orders", "slow"})))
    quick = await broker.acquire(CALLER, an_acquisition(task, "orders", "one"))
    await broker.acquire(CALLER, an_acquisition(task, "slow", "two"))
    broker.clock.advance(seconds=31)
    assert await broker.watch.renew_due() == 1
    assert (await broker.lease(quick.lease.lease_id)).expires_at == NOON + timedelta(seconds=91)


async def test_a_lease_at_its_maximum_is_not_renewed(broker: Broker) -> None:
    task = await broker.declared(deadline=NOON + timedelta(seconds=20))
    await broker.acquired(task)
    broker.clock.advance(seconds=19)
    assert await broker.watch.renew_due() == 0
    assert broker.issuer.count("renew") == 0


async def test_a_lease_of_a_task_that_is_ending_is_not_renewed(broker: Broker) -> None:
    await held(broker)
    broker.clock.advance(seconds=40)
    await broker.watch.end_lapsed()
    assert await broker.watch.renew_due() == 0
    assert broker.issuer.count("renew") == 0


async def test_one_lease_that_is_not_renewed_does_not_stop_the_others(broker: Broker) -> None:
    _task, lost = await held(broker)
    _other, kept = await held(broker)
    broker.issuer.lose_token(lost.accessor)
    broker.clock.advance(seconds=40)
    assert await broker.watch.renew_due() == 1
    assert (await broker.lease(kept.lease_id)).expires_at == NOON + timedelta(seconds=100)
    assert (await broker.lease(lost.lease_id)).expires_at == lost.expires_at


async def test_a_round_of_renewals_without_the_store_says_so(broker: Broker) -> None:
    await held(broker)
    broker.clock.advance(seconds=40)
    broker.store.before(ExtendLease, store_unavailable)
    with pytest.raises(StoreUnavailableError):
        await broker.watch.renew_due()
    assert await broker.watch.renew_due() == 1


# Expiring ------------------------------------------------------------------------------------------------------


async def test_a_live_lease_whose_time_ran_out_is_revoked_and_not_forgotten(broker: Broker) -> None:
    _task, lease = await held(broker)
    broker.clock.advance(seconds=59.999)
    assert await broker.watch.revoke_expired() == 0
    broker.clock.advance(seconds=0.001)
    assert await broker.watch.revoke_expired() == 1
    moved = await broker.lease(lease.lease_id)
    assert (moved.state, moved.revoke_cause) == (LeaseState.REVOKING, RevokeCause.EXPIRED)
    event = (await broker.records())[-1].event
    assert (event.kind, event.actor, event.facts) == (
        AuditKind.LEASE_REVOKING,
        str(BROKER),
        {"role": "orders", "cause": "expired"},
    )
    assert await broker.watch.retry() == 1
    assert broker.issuer.leases == {}


async def test_a_lease_that_is_released_in_the_same_moment_is_not_moved_twice(broker: Broker) -> None:
    _task, lease = await held(broker)
    broker.clock.advance(minutes=1)
    broker.store.before(RevokeLease, lambda: broker.restarted().release(CALLER, lease.lease_id))
    assert await broker.watch.revoke_expired() == 0
    assert (await broker.lease(lease.lease_id)).revoke_cause is RevokeCause.RELEASED


# Reclaiming ----------------------------------------------------------------------------------------------------


async def test_an_intent_that_a_crash_left_behind_is_reclaimed_at_the_start(broker: Broker) -> None:
    task = await broker.declared()
    with broker.issuer.holding("issue") as hold:
        work = asyncio.create_task(broker.acquired(task))
        await until(hold.entered)
        again = broker.restarted()  # the process that was at work is no more
        assert await again.watch.reclaim() == 1
        lease = await broker.only_lease(task)
        assert (lease.state, lease.revoke_cause) == (LeaseState.REVOKING, RevokeCause.IN_DOUBT)
        broker.clock.advance(seconds=10)
        assert await again.watch.retry() == 1
        assert broker.issuer.tokens == {}
        # It has no token any more with which it could make one.
        hold.let_go.set()
        await asyncio.gather(work, return_exceptions=True)
    assert broker.issuer.leases == {}


async def test_what_this_process_is_making_is_not_reclaimed_however_long_it_takes(broker: Broker) -> None:
    task = await broker.declared()
    with broker.issuer.holding("issue") as hold:
        work = asyncio.create_task(broker.acquired(task))
        await until(hold.entered)
        broker.clock.advance(hours=1)
        assert await broker.watch.reclaim() == 0
        hold.let_go.set()
        assert (await work).lease.state is LeaseState.LIVE


async def test_an_intent_that_nobody_is_at_work_on_is_reclaimed(broker: Broker) -> None:
    task = await broker.declared()
    lease = a_lease(task_id=task.task_id, intended_at=NOON)
    await broker.store.commit([CreateLease(lease=lease, max_live=9)])
    assert await broker.watch.reclaim() == 1
    assert (await broker.lease(lease.lease_id)).state is LeaseState.REVOKING
    assert (await broker.kinds())[-1] == AuditKind.LEASE_REVOKING


# Trying again --------------------------------------------------------------------------------------------------


async def test_whatever_restarts_the_revocation_goes_on(broker: Broker) -> None:
    task, lease = await held(broker)
    broker.issuer.away = True
    broker.clock.advance(hours=2)
    await broker.watch.end_lapsed()
    for _ in range(3):
        broker = broker.restarted()
        assert await broker.watch.retry() == 0
        broker.clock.advance(minutes=1)
        assert (await broker.task(task.task_id)).state is TaskState.ENDING
        assert (await broker.lease(lease.lease_id)).state is LeaseState.REVOKING
    broker.issuer.away = False
    broker = broker.restarted()
    assert await broker.watch.retry() == 1
    assert (await broker.lease(lease.lease_id)).state is LeaseState.REVOKED
    assert (await broker.task(task.task_id)).state is TaskState.ENDED
    assert not broker.issuer.leases
    assert not broker.issuer.tokens


async def test_every_round_says_when_the_store_is_away(broker: Broker) -> None:
    broker.store.down = True
    watch = broker.watch
    for one_round in (
        watch.end_lapsed,
        watch.renew_due,
        watch.revoke_expired,
        watch.reclaim,
        watch.retry,
    ):
        with pytest.raises(StoreUnavailableError):
            await one_round()


async def test_with_nothing_to_do_nothing_is_done(broker: Broker) -> None:
    await held(broker)
    calls, records = list(broker.issuer.calls), await broker.records()
    watch = broker.watch
    done = [
        await watch.end_lapsed(),
        await watch.renew_due(),
        await watch.revoke_expired(),
        await watch.reclaim(),
        await watch.retry(),
    ]
    assert done == [0] * 5
    assert (broker.issuer.calls, await broker.records()) == (calls, records)


async def test_a_backend_that_does_not_answer_holds_up_no_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch_over_tasks, "_ROUND_PATIENCE", 0.01)
    monkeypatch.setattr(watch_over_tasks, "_BATCH", 1)
    roles = (a_role("orders"), a_role("events", mount="rabbitmq"))
    broker = Broker(FakeStore(), FakeIssuer(), FakeClock(), CountingIds(), a_catalog(roles=roles))
    task = await broker.declared(scope=Scope(roles=frozenset({"orders", "events"})))
    held = [await broker.acquired(task, role, key=role) for role in ("orders", "events")]
    stuck, other = (acquired.lease for acquired in held)
    now = broker.clock.now()
    for lease, since in ((stuck, now - timedelta(seconds=9)), (other, now)):
        change = RevokeLease(lease_id=lease.lease_id, cause=RevokeCause.RELEASED, at=since)
        await broker.store.commit([change])
    with broker.issuer.holding("revoke") as hold:
        assert await broker.watch.retry() == 0
        assert broker.issuer.count("revoke") == 1
        assert await broker.watch.retry() == 0
        assert broker.issuer.count("revoke") == 2, "the next round begins with what nobody works on"
        hold.let_go.set()
        await broker.revoke_leases.drain()
    assert {(await broker.lease(lease.lease_id)).state for lease in (stuck, other)} == {LeaseState.REVOKED}


def test_leases_that_were_issued_together_are_not_renewed_together() -> None:
    points = [watch_over_tasks._renew_at(a_lease(f"lease-{number}")) for number in range(200)]
    assert points == [watch_over_tasks._renew_at(a_lease(f"lease-{number}")) for number in range(200)]
    assert all(0.5 <= point <= 0.6 for point in points)
    tenths = {int((point - 0.5) * 100) for point in points}
    assert tenths == set(range(10))
