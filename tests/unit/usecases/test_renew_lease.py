"""Renewing: at its owner's wish or by the broker, and never beyond the bounds."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from broker.domain.audit import AuditKind
from broker.domain.changes import ExtendLease
from broker.domain.errors import (
    CredentialBackendUnavailableError,
    LeaseNotLiveError,
    LeaseNotRenewableError,
    StoreUnavailableError,
    TaskNotActiveError,
)
from broker.domain.lease import Lease
from broker.domain.task import Task
from broker.usecases.task_events import EventKind
from tests.fakes.samples import OWNER, a_caller, a_catalog, a_role, an_end
from tests.fakes.system import NOON
from tests.unit.usecases.wiring import TIMEOUT, Broker

CALLER = a_caller()


async def held(broker: Broker) -> tuple[Task, Lease]:
    task = await broker.declared()
    return task, (await broker.acquired(task)).lease


async def test_a_renewed_lease_lives_for_another_ttl_and_it_is_recorded(broker: Broker) -> None:
    task, lease = await held(broker)
    broker.clock.advance(seconds=40)
    with broker.events.listening(task.task_id) as events:
        renewed = await broker.renew.for_owner(CALLER, lease.lease_id, None)
        event = events.get_nowait()
    assert renewed.expires_at == NOON + timedelta(seconds=100)
    assert await broker.lease(lease.lease_id) == renewed
    assert event is not None
    assert (event.kind, event.lease) == (EventKind.LEASE_RENEWED, renewed)
    record = (await broker.records())[-1].event
    assert (record.kind, record.lease_id, record.actor) == (
        AuditKind.LEASE_RENEWED,
        lease.lease_id,
        str(OWNER),
    )


async def test_the_broker_renews_without_a_record(broker: Broker) -> None:
    _task, lease = await held(broker)
    broker.clock.advance(seconds=40)
    renewed = await broker.renew.by_broker(lease)
    assert renewed.expires_at == NOON + timedelta(seconds=100)
    assert (await broker.kinds())[-1] == AuditKind.CREDENTIAL_ISSUED


@pytest.mark.parametrize(
    ("asked", "seconds"), [(timedelta(seconds=5), 5), (timedelta(minutes=9), 540), (timedelta(days=9), 1800)]
)
async def test_an_owner_gets_what_it_asks_for_up_to_the_roles_maximum(
    broker: Broker, asked: timedelta, seconds: int
) -> None:
    _task, lease = await held(broker)
    renewed = await broker.renew.for_owner(CALLER, lease.lease_id, asked)
    assert renewed.expires_at == NOON + timedelta(seconds=seconds)


async def test_no_renewal_goes_beyond_the_leases_maximum(broker: Broker) -> None:
    _task, lease = await held(broker)
    for _ in range(40):
        broker.clock.advance(seconds=45)
        if broker.clock.now() >= lease.max_expires_at:
            break
        lease = await broker.renew.by_broker(await broker.lease(lease.lease_id))
        assert lease.expires_at is not None
        assert lease.expires_at <= lease.max_expires_at
    assert lease.expires_at == lease.max_expires_at == NOON + timedelta(minutes=30)
    with pytest.raises(LeaseNotRenewableError):
        await broker.renew.by_broker(lease)


async def test_a_backend_that_gives_more_than_the_leases_maximum_is_not_believed(broker: Broker) -> None:
    _task, lease = await held(broker)
    broker.issuer.least_ttl = timedelta(hours=9)
    assert (await broker.renew.by_broker(lease)).expires_at == lease.max_expires_at


async def test_the_backend_is_asked_for_no_more_than_there_is_room_for(broker: Broker) -> None:
    _task, lease = await held(broker)
    await broker.renew.for_owner(CALLER, lease.lease_id, timedelta(minutes=29))
    broker.clock.advance(minutes=20)
    await broker.renew.for_owner(CALLER, lease.lease_id, timedelta(minutes=29))
    asked = [call.increment for call in broker.issuer.calls if call.operation == "renew"]
    assert asked == [timedelta(minutes=29), timedelta(minutes=10)]


async def test_a_backend_that_gives_less_is_believed(broker: Broker) -> None:
    _task, lease = await held(broker)
    broker.issuer.most_ttl = timedelta(seconds=7)
    assert (await broker.renew.by_broker(lease)).expires_at == NOON + timedelta(seconds=7)


async def test_a_renewal_waits_no_longer_than_its_caller(broker: Broker) -> None:
    _task, lease = await held(broker)
    hurry = timedelta(seconds=1)
    await broker.renew.for_owner(a_caller(time_left=hurry), lease.lease_id, None)
    await broker.renew.for_owner(a_caller(time_left=timedelta(hours=1)), lease.lease_id, None)
    assert [call.timeout for call in broker.issuer.calls if call.operation == "renew"] == [hurry, TIMEOUT]


async def test_a_lease_of_a_task_that_is_ending_is_not_renewed(broker: Broker) -> None:
    task, lease = await held(broker)
    await broker.end_task.begin(task.task_id, an_end(), actor="test")
    with pytest.raises(TaskNotActiveError):
        await broker.renew.for_owner(CALLER, lease.lease_id, None)
    assert broker.issuer.count("renew") == 0


async def test_a_released_lease_is_not_renewed(broker: Broker) -> None:
    _task, lease = await held(broker)
    await broker.release(CALLER, lease.lease_id)
    with pytest.raises(LeaseNotLiveError):
        await broker.renew.for_owner(CALLER, lease.lease_id, None)
    assert broker.issuer.count("renew") == 0


async def test_a_role_that_left_the_catalog_is_not_renewed(broker: Broker) -> None:
    _task, lease = await held(broker)
    broker.catalogs.catalog = a_catalog(roles=(a_role("customers"),))
    with pytest.raises(LeaseNotRenewableError):
        await broker.renew.for_owner(CALLER, lease.lease_id, None)
    assert broker.issuer.count("renew") == 0


async def test_a_lease_that_the_backend_lost_is_not_renewed(broker: Broker) -> None:
    _task, lease = await held(broker)
    broker.issuer.lose_token(lease.accessor)
    with pytest.raises(LeaseNotRenewableError):
        await broker.renew.for_owner(CALLER, lease.lease_id, None)


async def test_a_lease_that_ends_while_it_is_renewed_stays_ended(broker: Broker) -> None:
    _task, lease = await held(broker)
    broker.store.before(ExtendLease, lambda: broker.release(CALLER, lease.lease_id))
    with pytest.raises(LeaseNotLiveError):
        await broker.renew.for_owner(CALLER, lease.lease_id, None)
    assert broker.issuer.leases == {}
    assert (await broker.lease(lease.lease_id)).state.is_final
    assert AuditKind.LEASE_RENEWED not in await broker.kinds()


def away(broker: Broker) -> None:
    broker.issuer.away = True


def store_fails(broker: Broker) -> None:
    def fail() -> None:
        raise StoreUnavailableError

    broker.store.before(ExtendLease, fail)


@pytest.mark.parametrize(
    ("break_it", "error"),
    [(away, CredentialBackendUnavailableError), (store_fails, StoreUnavailableError)],
)
async def test_a_renewal_that_fails_leaves_the_expiry_as_it_was(
    broker: Broker, break_it: Callable[[Broker], None], error: type[Exception]
) -> None:
    _task, lease = await held(broker)
    break_it(broker)
    with pytest.raises(error):
        await broker.renew.for_owner(CALLER, lease.lease_id, None)
    assert await broker.lease(lease.lease_id) == lease
