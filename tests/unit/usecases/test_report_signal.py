"""Reports of others: whom they may be about, what is durable when they are answered, and how many there may be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from broker.domain.audit import AuditEvent, AuditKind
from broker.domain.changes import RecordAction
from broker.domain.errors import (
    ActionNotFoundError,
    AgentClassUnknownError,
    IdempotencyKeyReusedError,
    RateLimitedError,
    StoreUnavailableError,
    TaskNotFoundError,
)
from broker.domain.findings import Answer, RecordedFinding, Severity
from broker.domain.identifiers import ActionId, TaskId
from broker.domain.signals import ReporterBounds
from broker.domain.spiffe import SpiffeId
from broker.usecases.report_signal import ReportSignal
from tests.contract.quarantining import impose
from tests.fakes.answers import FakeAnswers
from tests.fakes.samples import OTHER, OWNER, a_caller, an_action
from tests.unit.domain.test_signals import EDR, a_signal
from tests.unit.usecases.wiring import Broker, a_broker

SHOWN: Mapping[str, object] = {"svid_sha256": "ab" * 32}


class World:
    """The use case, over a broker with fakes."""

    def __init__(self) -> None:
        self.broker: Broker = a_broker()
        self.answers = FakeAnswers(self.broker.store, self.broker.clock)
        self.bounds = ReporterBounds(most_severe=Severity.CRITICAL, per_minute=3)
        self.report = ReportSignal(
            store=self.broker.store,
            catalogs=self.broker.catalogs,
            answer_findings=self.answers,
            bounds_of=lambda _reporter: self.bounds,
            clock=self.broker.clock,
        )

    async def reported(self, **changed: Any) -> RecordedFinding:
        return await self.report(a_signal(**changed), shown=SHOWN, request_id="req-9")

    async def received(self) -> list[AuditEvent]:
        events = [record.event for record in await self.broker.records()]
        return [event for event in events if event.kind == AuditKind.SIGNAL_RECEIVED]


@pytest.fixture
def world() -> World:
    return World()


async def test_a_signal_is_a_finding_with_an_answer_and_a_record_of_who_said_what(world: World) -> None:
    task = await world.broker.declared()
    recorded = await world.reported(task_id=task.task_id)
    assert recorded.answer is Answer.END_TASK
    (event,) = await world.received()
    assert (event.actor, event.task_id, event.request_id) == (EDR, task.task_id, "req-9")
    expected = {
        "finding": recorded.finding_id,
        "event": "event-0001",
        "kind": "malware",
        "instance": str(OWNER),
        "severity": "high",
        "counted_as": "high",
        "happened": "a process that nobody started",
        **SHOWN,
    }
    assert event.facts.items() >= expected.items()
    assert world.answers.requests == ["req-9"]


async def test_what_is_said_and_as_what_it_counts_are_both_recorded(world: World) -> None:
    world.bounds = ReporterBounds(most_severe=Severity.LOW)
    recorded = await world.reported(severity=Severity.CRITICAL)
    assert (recorded.answer, recorded.found.severity) == (Answer.NOTE, Severity.LOW)
    (event,) = await world.received()
    assert (event.facts["severity"], event.facts["counted_as"]) == ("critical", "low")


async def test_the_same_event_again_is_answered_as_the_first_time_and_leaves_nothing(world: World) -> None:
    first = await world.reported()
    for _ in range(10):
        assert await world.reported(at=world.broker.clock.now(), severity=Severity.LOW) == first
    assert len(await world.received()) == 1
    assert len(world.answers.asked) == 1


async def test_an_event_that_says_something_else_the_second_time_is_refused(world: World) -> None:
    await world.reported()
    for changed in ({"instance": OTHER}, {"happened": "something else"}):
        with pytest.raises(IdempotencyKeyReusedError):
            await world.reported(**changed)
    assert len(await world.received()) == 1


@pytest.mark.parametrize(
    "instance",
    [
        "spiffe://example.test/agent/unlisted/one",
        "spiffe://other.test/agent/invoice-bot/one",
        "spiffe://example.test/operator/ann",
        "spiffe://example.test/tasklease/broker",
        "spiffe://example.test/agent/invoice-bot",
    ],
)
async def test_nobody_is_reported_who_is_no_instance_of_the_catalog(world: World, instance: str) -> None:
    with pytest.raises(AgentClassUnknownError):
        await world.reported(instance=SpiffeId.parse(instance))
    assert not world.answers.asked
    assert not await world.received()


async def test_a_reporter_speaks_of_the_classes_that_it_was_given(world: World) -> None:
    world.bounds = ReporterBounds(agent_classes=frozenset({"other-bot"}))
    with pytest.raises(AgentClassUnknownError):
        await world.reported()
    world.bounds = ReporterBounds(agent_classes=frozenset({"other-bot", "invoice-bot"}))
    assert await world.reported() is not None


async def test_another_instances_task_is_as_if_it_did_not_exist(world: World) -> None:
    task = await world.broker.declared(a_caller(OTHER))
    texts = []
    for task_id in (task.task_id, TaskId("task-none")):
        with pytest.raises(TaskNotFoundError) as caught:
            await world.reported(task_id=task_id)
        texts.append(caught.value.text)
    assert texts[0] == texts[1]
    assert not world.answers.asked


async def test_actions_are_the_instances_own_and_of_that_task(world: World) -> None:
    mine, second = await world.broker.declared(), await world.broker.declared()
    theirs = await world.broker.declared(a_caller(OTHER))
    for number, (task, owner) in enumerate(((mine, OWNER), (second, OWNER), (theirs, OTHER)), start=1):
        action = an_action(action_id=ActionId(f"action-{number}"), task_id=task.task_id, owner=owner)
        await world.broker.store.commit([RecordAction(action=action)])
    for evidence in ("action-2", "action-3", "action-none"):
        with pytest.raises(ActionNotFoundError):
            await world.reported(task_id=mine.task_id, evidence=(ActionId(evidence),))
    assert not world.answers.asked
    found = (ActionId("action-1"), ActionId("action-2"))
    assert (await world.reported(evidence=found)).found.evidence == found


async def test_an_instance_that_is_quarantined_can_be_reported_and_stays_so(world: World) -> None:
    await impose(world.broker.store)
    before = await world.broker.store.quarantines()
    await world.reported()
    assert await world.broker.store.quarantines() == before


async def test_new_signals_have_a_budget_and_repeated_ones_cost_nothing(world: World) -> None:
    for number in range(3):
        await world.reported(event_id=f"event-{number}")
    with pytest.raises(RateLimitedError) as caught:
        await world.reported(event_id="event-3")
    assert caught.value.retry_after is not None
    await world.reported(event_id="event-0")
    await world.reported(event_id="event-3", reporter=EDR + "-two")
    world.broker.clock.advance(seconds=caught.value.retry_after.total_seconds())
    await world.reported(event_id="event-3")
    with pytest.raises(RateLimitedError):
        await world.reported(event_id="event-4")


@pytest.mark.parametrize("which", ["the signal", "the finding"])
async def test_what_is_not_durable_is_not_answered_and_costs_nothing(world: World, which: str) -> None:
    for _ in range(10):
        world.answers.down = True
        if which == "the signal":
            world.broker.store.before(_append(), _fail)
        with pytest.raises(StoreUnavailableError):
            await world.reported()
    world.answers.down = False
    recorded = await world.reported()
    assert world.answers.recorded == {recorded.finding_id: recorded}


def _append() -> Any:
    from broker.domain.changes import Append

    return Append


def _fail() -> None:
    raise StoreUnavailableError
