"""Events that are read from the trail are those that the actions themselves make, and so are the findings."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from broker.adapters.policy.traces import read_traces
from broker.adapters.store.opening import open_store
from broker.anomaly.events import Closed, Event, EventKind, decided_of, in_order, place_of
from broker.anomaly.findings import DetectorName, Finding
from broker.anomaly.watching import rebuild
from broker.cli.trail import records_of
from broker.config.catalog import load_catalog
from broker.domain.actions import Action, ActionKind, ActionOutcome
from broker.domain.audit import AuditEvent, AuditKind, AuditRecord
from broker.domain.catalog import Catalog
from broker.domain.effects import EVERY_VERB
from broker.domain.identifiers import TaskId
from broker.domain.task import Task
from broker.usecases.recorded_events import TrailEvents
from tests.scenarios.anomaly.corpus import TUNING, Trace, attacks, benign_tasks
from tests.scenarios.anomaly.trails import (
    CANARIES,
    a_store_with,
    catalog_text,
    moved,
    of_traces,
    without_calls,
)
from tests.scenarios.recorded import a_recorded_store
from tests.scenarios.worlds import TRACES, the_catalog, the_policy


class Recorded:
    """What a store has of the traces: its trail, and the tasks with their actions."""

    def __init__(self, url: str) -> None:
        self.records: list[AuditRecord] = []
        self.tasks: list[tuple[Task, tuple[Action, ...]]] = []
        asyncio.run(self._read(url))

    async def _read(self, url: str) -> None:
        store = open_store(url, read_only=True)
        try:
            while batch := await store.audit_records(len(self.records), 1000):
                self.records += batch
            for record in self.records:
                if record.event.kind == AuditKind.TASK_DECLARED:
                    task = await store.task(TaskId(record.event.task_id))
                    assert task is not None
                    self.tasks.append((task, await store.actions_of(task.task_id, 0, 10_000)))
        finally:
            await store.close()


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return the_catalog()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, catalog: Catalog) -> Recorded:
    file = tmp_path_factory.mktemp("events") / "broker.db"
    return Recorded(a_recorded_store(file, read_traces(TRACES, catalog), the_policy(catalog), catalog))


def of_the_actions(task: Task, actions: Iterable[Action], catalog: Catalog) -> list[Event]:
    """As a broker makes them that has the objects themselves."""
    first = Event(
        kind=EventKind.DECLARED,
        at=task.created_at,
        instance=task.owner,
        agent_class=task.agent_class,
        task_id=task.task_id,
        task_type=task.task_type,
        environment=task.environment,
    )
    events = [first]
    for action in actions:
        listed = catalog.tools if action.kind is ActionKind.TOOL else catalog.credential_roles
        entry = listed.get(action.name)
        decided = decided_of(action, entry)
        events.append(
            replace(first, kind=EventKind.DECIDED, at=action.at, position=action.position, decided=decided)
        )
        if action.closed_at is not None:
            closed = Closed(action_id=action.action_id, outcome=action.outcome)
            events.append(
                replace(
                    first,
                    kind=EventKind.CLOSED,
                    at=action.closed_at,
                    position=action.position,
                    closed=closed,
                )
            )
    if task.end is not None:
        ended = replace(first, kind=EventKind.TASK_ENDED, at=task.end.at, end=task.end.cause)
        events.append(replace(ended, outcome=task.end.outcome))
    return events


def found_in(events: Iterable[Event]) -> dict[str, tuple[Finding, ...]]:
    by_instance = defaultdict(list)
    for event in events:
        by_instance[str(event.instance)].append(event)
    return {name: found for name, ours in by_instance.items() if (found := rebuild(ours)[1])}


def test_the_trail_gives_the_events_that_the_actions_give(recorded: Recorded, catalog: Catalog) -> None:
    trail = TrailEvents(catalog)
    of_the_trail = list(trail.events(recorded.records))
    own = [event for task, actions in recorded.tasks for event in of_the_actions(task, actions, catalog)]
    assert in_order(of_the_trail) == in_order(own)
    assert (trail.unreadable, trail.unlisted) == (0, 0)
    kinds = {event.kind for event in of_the_trail}
    assert kinds >= {EventKind.DECLARED, EventKind.DECIDED, EventKind.CLOSED, EventKind.TASK_ENDED}
    assert any(event.decided and event.decided.kind is ActionKind.CREDENTIAL for event in of_the_trail)


def test_the_findings_are_the_same(recorded: Recorded, catalog: Catalog) -> None:
    found = found_in(TrailEvents(catalog).events(recorded.records))
    own = [event for task, actions in recorded.tasks for event in of_the_actions(task, actions, catalog)]
    assert found == found_in(own)
    assert len({one.detector for findings in found.values() for one in findings}) >= 2


def test_effects_are_as_they_were_when_the_catalog_has_changed(recorded: Recorded, catalog: Catalog) -> None:
    used = {
        event.decided.name
        for event in TrailEvents(catalog).events(recorded.records)
        if event.decided is not None and event.decided.kind is ActionKind.TOOL and event.decided.allowed
    }
    gone = min(used)
    tools = {name: tool for name, tool in catalog.tools.items() if name != gone}
    trail = TrailEvents(replace(catalog, tools=tools))
    events = [event for event in trail.events(recorded.records) if event.decided is not None]
    of_it = [event.decided for event in events if event.decided and event.decided.name == gone]
    assert of_it
    assert trail.unlisted == len(of_it)
    assert {one.effect.verbs for one in of_it if one.effect.resource} == {
        frozenset({catalog.tools[gone].verb})
    }


def test_tasks_from_before_the_first_record_are_counted_and_left_out(
    recorded: Recorded, catalog: Catalog
) -> None:
    trail = TrailEvents(catalog)
    without = [one for one in recorded.records if one.event.kind != AuditKind.TASK_DECLARED]
    assert list(trail.events(without)) == []
    assert trail.unreadable > 0


@pytest.mark.parametrize(
    "change",
    [
        {"position": "1"},
        {"action": ""},
        {"effect": "burn orders"},
        {"effect": "read customers", "resource": "orders"},
        {"effect": "read orders of nobody", "resource": "orders"},
        {"denial_class": "whimsical"},
    ],
    ids=str,
)
def test_a_record_that_says_nothing_clear_is_no_event(
    recorded: Recorded, catalog: Catalog, change: dict[str, object]
) -> None:
    denied = next(one for one in recorded.records if one.event.kind == AuditKind.ACTION_DENIED)
    declared = next(one for one in recorded.records if one.event.task_id == denied.event.task_id)
    bad = replace(denied, event=replace(denied.event, facts={**denied.event.facts, **change}))
    trail = TrailEvents(catalog)
    assert [event.kind for event in trail.events([declared, bad])] == [EventKind.DECLARED]
    assert trail.unreadable == 1
    assert len(list(TrailEvents(catalog).events([declared, denied]))) == 2


def test_what_was_in_no_catalog_has_no_effect_and_what_ended_is_an_event(
    recorded: Recorded, catalog: Catalog
) -> None:
    denied = next(one for one in recorded.records if one.event.kind == AuditKind.ACTION_DENIED)
    declared = next(one for one in recorded.records if one.event.task_id == denied.event.task_id)
    facts = {**denied.event.facts, "tool": "no-such-tool", "effect": "", "resource": ""}
    unknown = replace(denied, event=replace(denied.event, facts=facts))
    gone = AuditEvent(
        kind=AuditKind.INSTANCE_ENDED,
        at=denied.event.at,
        actor="spiffe://example.test/operator/a",
        facts={"instance": declared.event.actor},
    )
    events = list(TrailEvents(catalog).events([declared, unknown, replace(denied, event=gone)]))
    assert [event.kind for event in events] == [
        EventKind.DECLARED,
        EventKind.DECIDED,
        EventKind.INSTANCE_ENDED,
    ]
    assert events[1].decided is not None
    assert not events[1].decided.has_effect
    assert events[1].decided.effect.verbs == EVERY_VERB
    assert events[2].instance == events[0].instance


def test_an_outcome_belongs_to_the_action_that_was_allowed(recorded: Recorded, catalog: Catalog) -> None:
    events = list(TrailEvents(catalog).events(recorded.records))
    allowed = {
        event.decided.action_id: event.position
        for event in events
        if event.decided is not None and event.decided.allowed
    }
    closed = [event for event in events if event.closed is not None]
    assert closed
    assert all(allowed[one.closed.action_id] == one.position for one in closed if one.closed is not None)
    assert ActionOutcome.OPEN not in {one.closed.outcome for one in closed if one.closed is not None}


def test_the_corpus_gives_the_same_findings_from_its_trail(tmp_path: Path) -> None:
    (tmp_path / "catalog.yaml").write_text(catalog_text())
    listed = load_catalog(tmp_path / "catalog.yaml", trust_domain="example.org")
    made = [*benign_tasks(TUNING, 60), *attacks(TUNING, 1)]
    traces = [moved(trace, number) for number, trace in enumerate(made)]
    url = a_store_with(tmp_path / "broker.db", of_traces(traces))
    from_the_trail = found_in(with_canaries(TrailEvents(listed).events(records_of(None, url))))
    own = found_in(event for trace in traces for event in told(trace))
    assert from_the_trail == own
    # Drift knows nothing yet, and identity misuse is shown by calls.
    assert {one.detector for findings in own.values() for one in findings} >= set(DetectorName) - {
        DetectorName.DRIFT,
        DetectorName.IDENTITY_MISUSE,
    }


def with_canaries(events: Iterable[Event]) -> Iterable[Event]:
    """The catalog at hand does not say which tools they are."""
    for event in events:
        decided = event.decided
        if decided is None or decided.name not in CANARIES:
            yield event
        else:
            yield replace(event, decided=replace(decided, canary=True))


def told(trace: Trace) -> Iterable[Event]:
    """What a trail can have of a trace: no calls, no delegates, and of a task only what comes after its declaration."""
    declared: set[TaskId | None] = {None}
    for event in sorted(without_calls(trace), key=place_of):
        if event.kind is EventKind.DECLARED:
            declared.add(event.task_id)
        if event.task_id in declared:
            yield replace(event, delegator=None)
