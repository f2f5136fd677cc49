"""What operators do about findings: everything with its record, nothing undone by a mark, watching without a gap."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from broker.domain.audit import AuditEvent, AuditKind
from broker.domain.changes import AddMessage, AnswerFinding, Change, HoldTask, LiftHold, MarkFinding
from broker.domain.errors import (
    FindingNotFoundError,
    HoldNotFoundError,
    OverloadedError,
    StoreUnavailableError,
    TaskNotFoundError,
)
from broker.domain.findings import Hold, Mark, RecordedFinding, Severity
from broker.domain.identifiers import FindingId, RequestId, TaskId
from broker.domain.operators import OperatorRole
from broker.domain.peer import VerifiedOperator
from broker.domain.spiffe import SpiffeId
from broker.domain.task import EndCause, TaskEnd
from broker.ports.store import FindingFilter
from broker.usecases.caller import OperatorCaller
from broker.usecases.operate_findings import (
    LOOKS_EVERY,
    MOST_AT_ONCE,
    MOST_AWAITED,
    MOST_FOLLOWED,
    MOST_WATCHERS,
    Watched,
)
from tests.contract.finding import a_finding, a_message, add_finding
from tests.unit.usecases.wiring import Broker

ANN = OperatorCaller(
    operator=VerifiedOperator(
        spiffe_id=SpiffeId.parse("spiffe://example.test/operator/ann"),
        roles=frozenset({OperatorRole.OPERATOR}),
        svid_sha256="cd" * 32,
    ),
    request_id=RequestId("req-ann"),
)
NEVER = FindingId("finding-never")


async def recorded(broker: Broker, kind: str) -> list[AuditEvent]:
    records = await broker.store.audit_records(0, 10_000)
    return [record.event for record in records if record.event.kind == kind]


async def following(broker: Broker, stream: AsyncGenerator[Watched]) -> RecordedFinding:
    """The next finding of the stream; the clock goes on while it waits."""
    step = asyncio.ensure_future(anext(stream))
    for _ in range(100):
        await asyncio.sleep(0)
        if step.done():
            break
        if broker.clock.next_wake is not None:
            broker.clock.advance(seconds=LOOKS_EVERY.total_seconds())
    watched = await asyncio.wait_for(step, 5)
    assert watched.finding is not None
    assert watched.number >= watched.finding.number
    return watched.finding


async def test_looking_is_in_the_trail_with_what_was_looked_at(broker: Broker) -> None:
    one = await add_finding(broker.store)
    await add_finding(broker.store, a_finding("low", severity=Severity.LOW))
    page = await broker.operate_findings.page(
        ANN, FindingFilter(least=Severity.MEDIUM), page_size=10, page_token=""
    )
    assert page.findings == (one,)
    assert await broker.operate_findings.one(ANN, one.finding_id) == one
    _, event = await recorded(broker, AuditKind.ANOMALY_LISTED)
    assert (event.actor, event.request_id) == (str(ANN.operator.spiffe_id), "req-ann")
    assert event.facts["finding"] == one.finding_id


async def test_what_cannot_be_recorded_is_not_shown(broker: Broker) -> None:
    one = await add_finding(broker.store)
    broker.store.down = True
    with pytest.raises(StoreUnavailableError):
        await broker.operate_findings.one(ANN, one.finding_id)


async def test_a_mark_is_recorded_with_its_reason_and_the_last_word_counts(broker: Broker) -> None:
    one = await add_finding(broker.store)
    for mark in (Mark.FALSE, Mark.FALSE, Mark.CONFIRMED):
        found = await broker.operate_findings.mark(ANN, one.finding_id, mark, "a rehearsal")
        assert found == replace(one, mark=mark, marked_by=str(ANN.operator.spiffe_id))
    events = await recorded(broker, AuditKind.ANOMALY_MARKED)
    assert [event.facts["false"] for event in events] == [True, True, False]
    assert {event.facts["reason"] for event in events} == {"a rehearsal"}
    assert {event.facts["finding"] for event in events} == {one.finding_id}


async def test_a_mark_undoes_no_answer(broker: Broker) -> None:
    task = await broker.declared()
    one = await add_finding(broker.store, a_finding(task_id=task.task_id))
    await broker.store.commit([HoldTask(task_id=task.task_id, hold=Hold.FROZEN)])
    await broker.operate_findings.mark(ANN, one.finding_id, Mark.FALSE, "")
    assert (await broker.task(task.task_id)).hold is Hold.FROZEN


async def test_a_hold_is_lifted_once_with_its_record(broker: Broker) -> None:
    task = await broker.declared()
    await broker.store.commit([HoldTask(task_id=task.task_id, hold=Hold.APPROVAL)])
    await broker.operate_findings.lift(ANN, task.task_id, "looked at")
    assert (await broker.task(task.task_id)).hold is None
    (event,) = await recorded(broker, AuditKind.HOLD_LIFTED)
    assert (event.actor, event.task_id) == (str(ANN.operator.spiffe_id), task.task_id)
    assert event.facts.items() >= {"hold": "approval", "reason": "looked at"}.items()
    with pytest.raises(HoldNotFoundError):
        await broker.operate_findings.lift(ANN, task.task_id, "again")
    assert len(await recorded(broker, AuditKind.HOLD_LIFTED)) == 1


async def test_a_task_that_ended_has_no_hold_to_lift(broker: Broker) -> None:
    task = await broker.declared()
    await broker.store.commit([HoldTask(task_id=task.task_id, hold=Hold.FROZEN)])
    end = TaskEnd(cause=EndCause.ANOMALY, at=broker.clock.now())
    await broker.end_task(task.task_id, end, actor="spiffe://example.test/broker", request_id="")
    with pytest.raises(HoldNotFoundError):
        await broker.operate_findings.lift(ANN, task.task_id, "too late")


async def test_what_there_is_not_is_said(broker: Broker) -> None:
    with pytest.raises(FindingNotFoundError):
        await broker.operate_findings.one(ANN, NEVER)
    with pytest.raises(FindingNotFoundError):
        await broker.operate_findings.mark(ANN, NEVER, Mark.FALSE, "")
    with pytest.raises(TaskNotFoundError):
        await broker.operate_findings.lift(ANN, TaskId("task-never"), "x")
    assert not await recorded(broker, AuditKind.ANOMALY_MARKED)


@pytest.mark.parametrize("change", [MarkFinding, LiftHold])
async def test_nothing_takes_effect_where_it_cannot_be_durable(
    broker: Broker, change: type[MarkFinding | LiftHold]
) -> None:
    task = await broker.declared()
    one = await add_finding(broker.store, a_finding(task_id=task.task_id))
    await broker.store.commit([HoldTask(task_id=task.task_id, hold=Hold.FROZEN)])

    def away() -> None:
        raise StoreUnavailableError

    broker.store.before(change, away)
    operate = broker.operate_findings
    work: Coroutine[Any, Any, object] = (
        operate.mark(ANN, one.finding_id, Mark.FALSE, "")
        if change is MarkFinding
        else operate.lift(ANN, task.task_id, "x")
    )
    with pytest.raises(StoreUnavailableError):
        await work
    assert await broker.store.finding(one.finding_id) == one
    assert (await broker.task(task.task_id)).hold is Hold.FROZEN


async def test_who_watches_sees_what_comes_and_each_again_when_it_is_answered(broker: Broker) -> None:
    await add_finding(broker.store, a_finding("before"))
    async with aclosing(broker.operate_findings.watch(ANN, None)) as stream:
        assert await anext(stream) == Watched(finding=None, number=1)
        one = await add_finding(broker.store, a_finding("new"))
        assert await following(broker, stream) == one
        at = broker.clock.now()
        await broker.store.commit([AnswerFinding(finding_id=one.finding_id, at=at)])
        two = await add_finding(broker.store, a_finding("newer"))
        assert await following(broker, stream) == replace(one, answered_at=at)
        assert await following(broker, stream) == two
        await broker.store.commit([AnswerFinding(finding_id=two.finding_id, at=at)])
        assert await following(broker, stream) == replace(two, answered_at=at)
    (event,) = await recorded(broker, AuditKind.ANOMALY_LISTED)
    assert event.facts["watching_after"] == 1


async def test_who_watches_sees_what_a_person_says_of_it(broker: Broker) -> None:
    one = await add_finding(broker.store)
    async with aclosing(broker.operate_findings.watch(ANN, 0)) as stream:
        await anext(stream)
        assert await following(broker, stream) == one
        for mark in (Mark.CONFIRMED, Mark.FALSE):
            marked = await broker.operate_findings.mark(ANN, one.finding_id, mark, "")
            assert await following(broker, stream) == marked
        new = await add_finding(broker.store, a_finding("new"))
        assert await following(broker, stream) == new, "and nothing twice"


async def test_of_an_older_one_the_answer_is_seen_and_nothing_else(broker: Broker) -> None:
    oldest, older, *_ = [await add_finding(broker.store, a_finding(str(n))) for n in range(MOST_FOLLOWED + 2)]
    async with aclosing(broker.operate_findings.watch(ANN, 0)) as stream:
        await anext(stream)
        for _ in range(MOST_FOLLOWED + 2):
            await following(broker, stream)
        await broker.operate_findings.mark(ANN, oldest.finding_id, Mark.FALSE, "")
        at = broker.clock.now()
        await broker.store.commit([AnswerFinding(finding_id=older.finding_id, at=at)])
        assert await following(broker, stream) == replace(older, answered_at=at)
        new = await add_finding(broker.store, a_finding("new"))
        assert await following(broker, stream) == new


async def test_others_are_told_of_a_mark_once_and_together_with_it(broker: Broker) -> None:
    one = await add_finding(broker.store)
    told: list[RecordedFinding] = []

    async def tell(finding: RecordedFinding) -> list[Change]:
        told.append(finding)
        return [AddMessage(message=a_message(str(len(told))))]

    broker.operate_findings.tell_of_mark = tell
    for mark in (Mark.FALSE, Mark.FALSE, Mark.CONFIRMED):
        await broker.operate_findings.mark(ANN, one.finding_id, mark, "")
    assert [finding.mark for finding in told] == [Mark.FALSE, Mark.CONFIRMED]
    assert (await broker.store.figures()).messages == 2


async def test_who_goes_on_after_a_number_misses_none(broker: Broker) -> None:
    found = [await add_finding(broker.store, a_finding(str(n))) for n in range(MOST_AT_ONCE + 3)]
    async with aclosing(broker.operate_findings.watch(ANN, 1)) as stream:
        await anext(stream)
        seen = [await following(broker, stream) for _ in range(len(found) - 1)]
    assert seen == found[1:]


async def test_more_that_wait_for_an_answer_than_are_read_at_once_are_not_taken_for_answered(
    broker: Broker,
) -> None:
    for n in range(MOST_AWAITED):
        await add_finding(broker.store, a_finding(str(n)))
    watched = [await add_finding(broker.store, a_finding(f"w{n}")) for n in range(MOST_FOLLOWED + 2)]
    async with aclosing(broker.operate_findings.watch(ANN, MOST_AWAITED)) as stream:
        await anext(stream)
        assert [await following(broker, stream) for _ in watched] == watched
        new = await add_finding(broker.store, a_finding("new"))
        assert await following(broker, stream) == new, "and no finding that is not answered"


async def test_watchers_leave_room_and_give_it_back(broker: Broker) -> None:
    streams = [broker.operate_findings.watch(ANN, 0) for _ in range(MOST_WATCHERS)]
    for stream in streams:
        await anext(stream)
    one_more = broker.operate_findings.watch(ANN, 0)
    with pytest.raises(OverloadedError):
        await anext(one_more)
    await streams[0].aclose()
    async with aclosing(broker.operate_findings.watch(ANN, 0)) as stream:
        assert (await anext(stream)).number == 0
    for stream in streams:
        await stream.aclose()
