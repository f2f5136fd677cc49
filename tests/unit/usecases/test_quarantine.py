"""Quarantine: nothing more is taken from the target, all that it had ends, whatever comes in between."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from broker.domain.audit import AuditKind
from broker.domain.changes import (
    AddQuarantine,
    CreateLease,
    CreateTask,
    EndTask,
    IssueLease,
    RemoveQuarantine,
)
from broker.domain.errors import (
    BrokerError,
    InstanceQuarantinedError,
    QuarantineNotFoundError,
    StoreUnavailableError,
)
from broker.domain.identifiers import RequestId
from broker.domain.operators import OperatorRole
from broker.domain.peer import VerifiedOperator
from broker.domain.quarantine import Quarantine, QuarantineTarget, TargetKind
from broker.domain.spiffe import SpiffeId
from broker.domain.task import EndCause, TaskState
from broker.usecases.caller import OperatorCaller
from broker.usecases.quarantine import Imposed
from tests.contract.quarantining import ALL, CLASS, DOMAIN, INSTANCE, a_quarantine
from tests.fakes.samples import BROKER, OTHER, OWNER, a_caller, a_catalog, a_task
from tests.fakes.system import NOON
from tests.unit.usecases.wiring import Broker, settle, until

ANN = OperatorCaller(
    operator=VerifiedOperator(
        spiffe_id=SpiffeId.parse("spiffe://example.test/operator/ann"),
        roles=frozenset({OperatorRole.OPERATOR}),
        svid_sha256="cd" * 32,
    ),
    request_id=RequestId("req-ann"),
)


async def impose(
    broker: Broker, target: QuarantineTarget = INSTANCE, reason: str = "strange mail"
) -> Imposed:
    return await broker.quarantine_instances.impose(ANN, target, reason)


def store_unavailable() -> None:
    raise StoreUnavailableError


@pytest.mark.parametrize("target", ALL, ids=str)
async def test_every_task_of_the_target_ends_and_what_it_held_is_revoked(
    broker: Broker, target: QuarantineTarget
) -> None:
    tasks = [await broker.declared() for _ in range(2)]
    for task in tasks:
        await broker.acquired(task)
    imposed = await impose(broker, target)
    assert (imposed.tasks_found, imposed.status.unfinished_tasks) == (2, 0)
    assert not broker.issuer.leases
    assert not broker.issuer.tokens
    for task in tasks:
        ended = await broker.task(task.task_id)
        assert ended.state is TaskState.ENDED
        assert ended.end is not None
        assert (ended.end.cause, ended.end.reason) == (EndCause.QUARANTINED, "strange mail")


async def test_the_quarantine_is_audited_with_who_and_why_and_its_ends_as_the_brokers(broker: Broker) -> None:
    await broker.declared()
    await impose(broker)
    imposed, ending, *_ = [record.event for record in (await broker.records())[1:]]
    assert (imposed.kind, imposed.actor, imposed.request_id) == (
        AuditKind.QUARANTINE_IMPOSED,
        "spiffe://example.test/operator/ann",
        "req-ann",
    )
    assert imposed.facts == {
        "roles": ["operator"],
        "svid_sha256": "cd" * 32,
        "target": "instance",
        "name": str(OWNER),
        "reason": "strange mail",
    }
    assert (ending.kind, ending.actor, ending.facts["cause"]) == (
        AuditKind.TASK_ENDING,
        str(BROKER),
        "quarantined",
    )


async def test_it_is_known_in_this_process_when_it_is_durable_and_not_before(broker: Broker) -> None:
    seen: list[bool] = []
    broker.store.before(AddQuarantine, lambda: seen.append(broker.quarantine.holds(OWNER)))
    broker.store.before(EndTask, lambda: seen.append(broker.quarantine.holds(OWNER)))
    await broker.declared()
    await impose(broker)
    assert seen == [False, True]
    assert not broker.quarantine.holds(OTHER)


async def test_one_that_cannot_be_made_durable_holds_nobody_and_says_so(broker: Broker) -> None:
    task = await broker.declared()
    broker.store.before(AddQuarantine, store_unavailable)
    with pytest.raises(StoreUnavailableError):
        await impose(broker)
    assert not broker.quarantine.holds(OWNER)
    assert (await broker.task(task.task_id)).state is TaskState.ACTIVE


async def test_a_declaration_under_way_is_refused_and_leaves_no_token(broker: Broker) -> None:
    broker.store.before(CreateTask, lambda: impose(broker))
    with pytest.raises(InstanceQuarantinedError):
        await broker.declared()
    assert not broker.issuer.tokens
    page = await broker.store.tasks_of(OWNER, states=frozenset(), page_size=10, page_token="")
    assert page.tasks == ()


@pytest.mark.parametrize("change", [CreateLease, IssueLease])
async def test_an_acquire_under_way_hands_out_nothing_and_leaves_nothing(
    broker: Broker, change: type[CreateLease | IssueLease]
) -> None:
    """Between the durable quarantine and the end of the task, too."""
    task = await broker.declared()
    quarantine = AddQuarantine(quarantine=a_quarantine())
    broker.store.before(change, lambda: broker.store.commit([quarantine]))
    with pytest.raises(InstanceQuarantinedError):
        await broker.acquired(task)
    assert not broker.issuer.leases
    assert (await broker.task(task.task_id)).state is TaskState.ACTIVE
    await broker.quarantine_instances.follow()
    await broker.quarantine_instances.drain()
    assert (await broker.task(task.task_id)).state is TaskState.ENDED


async def test_an_attached_stream_ends_at_once_also_of_a_task_that_is_ending(broker: Broker) -> None:
    def welcome() -> None:
        if broker.quarantine.holds(OWNER):
            raise InstanceQuarantinedError

    active, ending = await broker.declared(), await broker.declared()
    streams = [broker.keep_alive.attach(a_caller(), task.task_id, welcome) for task in (active, ending)]
    for stream in streams:
        await anext(stream)
    await broker.acquired(ending)
    with broker.issuer.holding("revoke"):
        end = asyncio.ensure_future(broker.end_task(ending.task_id, an_end_now(), actor="test"))
        await anext(streams[1])
        waiting = [asyncio.ensure_future(anext(stream)) for stream in streams]
        await settle()
        work = asyncio.ensure_future(impose(broker))
        async with asyncio.timeout(5):
            answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(answer) for answer in answers] == [InstanceQuarantinedError] * 2
    await asyncio.gather(end, work)


def an_end_now() -> Any:
    from tests.fakes.samples import an_end

    return an_end()


async def test_others_streams_go_on_and_are_told_nothing(broker: Broker) -> None:
    task = await broker.declared()
    stream = broker.keep_alive.attach(a_caller(), task.task_id, lambda: None)
    await anext(stream)
    waiting = asyncio.ensure_future(anext(stream))
    await impose(broker, QuarantineTarget(kind=TargetKind.INSTANCE, name=str(OTHER)))
    await settle()
    assert not waiting.done()
    await broker.end_task.begin(task.task_id, an_end_now(), actor="test")
    assert (await waiting)[0] is not None


async def test_an_answer_does_not_wait_for_a_backend_that_is_away_and_says_what_is_left(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.usecases.quarantine.PATIENCE", timedelta(seconds=0.05))
    task = await broker.declared()
    await broker.acquired(task)
    with broker.issuer.holding("revoke"):
        imposed = await impose(broker)
        assert (imposed.tasks_found, imposed.status.unfinished_tasks) == (1, 1)
        assert (await broker.task(task.task_id)).state is TaskState.ENDING
    await broker.quarantine_instances.drain()
    assert (await broker.task(task.task_id)).state is TaskState.ENDED


async def test_a_backend_that_fails_is_the_sweeps(broker: Broker) -> None:
    task = await broker.declared()
    await broker.acquired(task)
    broker.issuer.away = True
    imposed = await impose(broker)
    assert imposed.status.unfinished_tasks == 1
    broker.issuer.away = False
    broker.clock.advance(minutes=2)
    await broker.watch.retry()
    assert (await broker.task(task.task_id)).state is TaskState.ENDED


async def test_an_answer_waits_for_what_another_replica_ends(broker: Broker) -> None:
    task = await broker.declared()
    await broker.acquired(task)
    replica = broker.restarted()
    with broker.issuer.holding("revoke"):
        broker.store.before(EndTask, replica.end_quarantined)  # told at once, it is first
        call = asyncio.ensure_future(impose(broker))
        await settle()
        assert not call.done()
    imposed = await call
    assert (imposed.tasks_found, imposed.status.unfinished_tasks) == (1, 0)
    assert not broker.issuer.leases


async def test_a_caller_that_goes_away_stops_nothing(broker: Broker) -> None:
    task = await broker.declared()
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        entered.set()
        await go_on.wait()

    broker.store.before(AddQuarantine, hold)
    call = asyncio.ensure_future(impose(broker))
    await until(entered)
    call.cancel()
    await settle()
    go_on.set()
    await settle()
    assert broker.quarantine.holds(OWNER)
    await broker.quarantine_instances.follow()
    await broker.quarantine_instances.drain()
    assert (await broker.task(task.task_id)).state is TaskState.ENDED


async def test_a_process_that_starts_ends_what_the_one_before_did_not(broker: Broker) -> None:
    task = await broker.declared()
    await broker.acquired(task)

    def crash() -> None:
        raise SystemError

    broker.steps.at("quarantine.durable", crash)
    with pytest.raises(SystemError):
        await impose(broker)
    assert (await broker.task(task.task_id)).state is TaskState.ACTIVE
    after = broker.restarted()
    await after.quarantine.refresh()
    assert after.quarantine.holds(OWNER)
    assert await after.end_quarantined() == 1
    await after.end_quarantined.settled()
    assert (await after.task(task.task_id)).state is TaskState.ENDED
    assert not after.issuer.leases


async def test_another_replica_follows_the_store(broker: Broker) -> None:
    replica = broker.restarted()
    await replica.quarantine.refresh()
    await impose(broker)
    assert not replica.quarantine.holds(OWNER)
    await replica.quarantine_instances.follow()
    assert replica.quarantine.holds(OWNER)
    await broker.quarantine_instances.release(ANN, INSTANCE, "done")
    await replica.quarantine_instances.follow()
    assert not replica.quarantine.holds(OWNER)


async def test_hundreds_of_tasks_end_in_one_go(broker: Broker) -> None:
    await asyncio.gather(
        *(broker.store.commit([CreateTask(task=a_task(f"task-{n}"), max_live=1000)]) for n in range(350))
    )
    imposed = await impose(broker, DOMAIN)
    assert (imposed.tasks_found, imposed.status.unfinished_tasks) == (350, 0)


async def test_a_round_with_nothing_to_do_does_nothing(broker: Broker) -> None:
    await broker.declared()
    before = await broker.records()
    await broker.quarantine_instances.follow()
    assert await broker.records() == before


async def test_twice_is_harmless_and_both_are_audited(broker: Broker) -> None:
    await impose(broker, reason="first")
    imposed = await impose(broker, reason="second")
    assert imposed.status.quarantine.reason == "first"
    reasons = [record.event.facts["reason"] for record in await broker.records()]
    assert reasons == ["first", "second"]


# Release -------------------------------------------------------------------------------------------------------


async def test_who_is_released_may_begin_anew_and_what_ended_stays_ended(broker: Broker) -> None:
    task = await broker.declared()
    await impose(broker)
    assert await broker.quarantine_instances.release(ANN, INSTANCE, "a false alarm") == ()
    assert not broker.quarantine.holds(OWNER)
    assert (await broker.task(task.task_id)).state is TaskState.ENDED
    await broker.acquired(await broker.declared())
    released = next(r.event for r in await broker.records() if r.event.kind == AuditKind.QUARANTINE_RELEASED)
    assert (released.actor, released.facts["reason"]) == (str(ANN.operator.spiffe_id), "a false alarm")


async def test_a_release_ends_first_what_the_quarantine_did_not(broker: Broker) -> None:
    task = await broker.declared()
    await broker.store.commit([AddQuarantine(quarantine=a_quarantine())])
    await broker.quarantine_instances.release(ANN, INSTANCE, "too quick")
    await broker.quarantine_instances.drain()
    assert (await broker.task(task.task_id)).state is TaskState.ENDED


@pytest.mark.parametrize("target", ALL, ids=str)
async def test_what_does_not_stand_is_not_released(broker: Broker, target: QuarantineTarget) -> None:
    with pytest.raises(QuarantineNotFoundError):
        await broker.quarantine_instances.release(ANN, target, "nothing")
    assert await broker.kinds() == []


async def test_a_release_that_is_not_durable_releases_nobody(broker: Broker) -> None:
    await impose(broker)
    broker.store.before(RemoveQuarantine, store_unavailable)
    with pytest.raises(BrokerError):
        await broker.quarantine_instances.release(ANN, INSTANCE, "no luck")
    assert broker.quarantine.holds(OWNER)


async def test_other_quarantines_go_on_and_are_told(broker: Broker) -> None:
    for target in ALL:
        await impose(broker, target)
    standing = await broker.quarantine_instances.release(ANN, INSTANCE, "one of three")
    assert {status.quarantine.target for status in standing} == {CLASS, DOMAIN}
    assert broker.quarantine.holds(OWNER)


# What this process knows ---------------------------------------------------------------------------------------


async def test_an_older_answer_of_the_store_undoes_nothing(broker: Broker) -> None:
    """The round asked before this process quarantined, and hears of it after."""
    asked, go_on = asyncio.Event(), asyncio.Event()
    real = broker.store.quarantines

    async def slow() -> tuple[Quarantine, ...]:
        answer = await real()
        asked.set()
        await go_on.wait()
        return answer

    broker.store.quarantines = slow  # type: ignore[method-assign]
    refresh = asyncio.ensure_future(broker.quarantine.refresh())
    await until(asked)
    broker.store.quarantines = real  # type: ignore[method-assign]
    await impose(broker)
    go_on.set()
    await refresh
    assert broker.quarantine.holds(OWNER)


async def test_what_is_held_stays_held_while_the_store_is_away(broker: Broker) -> None:
    await impose(broker)
    broker.store.down = True
    with pytest.raises(StoreUnavailableError):
        await broker.quarantine.refresh()
    assert broker.quarantine.holds(OWNER)


async def test_a_list_is_audited_and_shows_who_and_why(broker: Broker) -> None:
    await impose(broker)
    page = await broker.quarantine_instances.page(ANN, page_size=10, page_token="")
    (status,) = page.quarantines
    assert status.quarantine == Quarantine(
        target=INSTANCE, by=str(ANN.operator.spiffe_id), reason="strange mail", since=NOON
    )
    assert (await broker.kinds())[-1] == AuditKind.QUARANTINE_LISTED


def test_the_catalog_of_these_tests_lets_an_instance_have_several_tasks() -> None:
    assert a_catalog().agent_classes["invoice-bot"].max_tasks >= 2
