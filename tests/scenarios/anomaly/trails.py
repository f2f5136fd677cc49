"""The corpus as a broker would have recorded it: a catalog of its tools, and a store whose trail has its traces."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from broker.adapters.store.sqlite import SqliteStore
from broker.anomaly.events import Decided, Event, EventKind
from broker.domain.actions import ActionKind
from broker.domain.audit import AuditEvent, AuditKind
from broker.domain.changes import Append
from broker.domain.identifiers import ActionId, TaskId
from tests.scenarios.anomaly.acting import TOOLS, Entry
from tests.scenarios.anomaly.benign import WORK
from tests.scenarios.anomaly.corpus import Trace

OPERATOR = "spiffe://example.org/oncall/ann"
CANARIES = frozenset(name for name, entry in TOOLS.items() if entry.canary)


def catalog_text() -> str:
    """Every tool and role of the corpus."""
    tools = [name for name, entry in TOOLS.items() if entry.kind is ActionKind.TOOL]
    lines = ["version: 1", "agent_classes:", "  worker:", f"    task_types: [{', '.join(WORK)}]"]
    lines += ["    max_tasks: 8", "task_types:"]
    for name in WORK:
        lines += [
            f"  {name}:",
            "    environment: staging",
            f"    roles: [{', '.join(name for name in TOOLS if name not in tools)}]",
            f"    tools: [{', '.join(tools)}]",
            "    max_duration: 1h",
            "    heartbeat: 10s",
            "    max_leases: 4",
        ]
    lines += ["tools:", *(line for name in tools for line in _tool(name, TOOLS[name]))]
    roles = (line for name, entry in TOOLS.items() if name not in tools for line in _role(name, entry))
    return "\n".join([*lines, "credential_roles:", *roles]) + "\n"


def _tool(name: str, entry: Entry) -> Iterator[str]:
    origin = "untrusted" if entry.untrusted else "trusted"
    yield f"  {name}:"
    yield f"    effect: {entry.verb.value}"
    yield f"    resource: {entry.resource.format('{one}')}"
    if entry.at:
        yield f"    destination: {_place(entry.at)}"
    yield f"    reads: {{classification: {entry.level.value}, origin: {origin}}}"
    yield f"    writes: {entry.writes.value}"
    if "{}" in entry.resource:
        yield "    arguments: {type: object, properties: {one: {type: string, maxLength: 99}}, required: [one], additionalProperties: false}"


def _role(name: str, entry: Entry) -> Iterator[str]:
    yield f"  {name}:"
    yield from ("    engine: postgresql", "    mount: database", f"    path: creds/{name}")
    yield f"    classification: {entry.level.value}"
    yield f"    destination: {_place(entry.at)}"
    yield f"    effects: [{entry.verb.value}]"
    if entry.resource:
        yield f"    resource: {entry.resource}"
    yield f"    writes: {entry.writes.value}"
    yield from ("    ttl: 60s", "    max_ttl: 30m", "    revocation: revocable")


def _place(url: str) -> str:
    scheme, _, rest = url.partition("://")
    host, _, port = rest.partition(":")
    return f"{{host: {host}, port: {port}, scheme: {scheme}}}"


def moved(trace: Trace, number: int) -> Trace:
    """The same some hours later, by an instance and with tasks of its own."""
    return replace(trace, events=tuple(_moved(event, number) for event in trace.events))


def _moved(event: Event, number: int) -> Event:
    def named(text: str) -> str:
        return f"{text}-{number}"

    decided, closed, delegator = event.decided, event.closed, event.delegator
    return replace(
        event,
        at=event.at + timedelta(hours=number),
        instance=replace(event.instance, path=named(event.instance.path)),
        delegator=None if delegator is None else replace(delegator, path=named(delegator.path)),
        task_id=None if event.task_id is None else TaskId(named(event.task_id)),
        decided=None if decided is None else replace(decided, action_id=ActionId(named(decided.action_id))),
        closed=None if closed is None else replace(closed, action_id=ActionId(named(closed.action_id))),
    )


def without_calls(trace: Trace) -> tuple[Event, ...]:
    """What a trail has of it: from where somebody called is in no record."""
    return tuple(event for event in trace.events if event.kind is not EventKind.CALLED)


def recorded(event: Event) -> AuditEvent | None:
    """As the use cases record it."""
    facts: dict[str, object]
    actor = str(event.instance)
    match event.kind:
        case EventKind.DECLARED:
            kind: str = AuditKind.TASK_DECLARED
            facts = {"task_type": event.task_type, "environment": event.environment}
        case EventKind.DECIDED if event.decided is not None:
            kind, facts = _decision(event.decided)
            facts |= {"action": event.decided.action_id, "position": event.position}
        case EventKind.CLOSED if event.closed is not None:
            kind = AuditKind.ACTION_CLOSED
            facts = {"action": event.closed.action_id, "outcome": event.closed.outcome.value}
        case EventKind.TASK_ENDED if event.end is not None:
            kind = AuditKind.TASK_ENDING
            facts = {
                "cause": event.end.value,
                "outcome": event.outcome.value if event.outcome else "",
                "reason": "",
            }
        case EventKind.INSTANCE_ENDED:
            kind, actor, facts = AuditKind.INSTANCE_ENDED, OPERATOR, {"instance": str(event.instance)}
        case _:
            return None
    return AuditEvent(kind=kind, at=event.at, actor=actor, task_id=event.task_id or "", facts=facts)


def _decision(decided: Decided) -> tuple[str, dict[str, object]]:
    denied: dict[str, object] = {}
    if not decided.allowed:
        denial = decided.denial_class
        denied = {"reason": decided.reason, "denial_class": "" if denial is None else denial.value}
    if decided.kind is ActionKind.TOOL:
        kind = AuditKind.ACTION_ALLOWED if decided.allowed else AuditKind.ACTION_DENIED
        effect = decided.effect
        return kind, {
            "tool": decided.name,
            "effect": effect.as_text(),
            "resource": effect.resource,
            **denied,
        }
    kind = AuditKind.CREDENTIAL_INTENDED if decided.allowed else AuditKind.CREDENTIAL_DENIED
    return kind, {
        "role": decided.name,
        "classification": decided.classification.value,
        "destination": decided.effect.destination,
        **denied,
    }


def found(
    finding_id: str, task_id: TaskId, instance: str, at: datetime, which: str = "drift/unlikely-order"
) -> AuditEvent:
    """A finding as it is recorded; `which` is its detector and rule."""
    detector, _, rule = which.partition("/")
    return AuditEvent(
        kind="anomaly.found",
        at=at,
        actor="spiffe://example.org/tasklease/broker",
        task_id=task_id,
        facts={
            "finding": finding_id,
            "detector": detector,
            "rule": rule,
            "severity": "medium",
            "confidence": 0.8,
            "instance": instance,
            "evidence": [],
            "expected": "the usual order",
            "happened": "another one",
            "source": "tasklease",
            "answer": "note",
        },
    )


def marked(finding_id: str, at: datetime, *, false: bool) -> AuditEvent:
    """What an operator said of it."""
    return AuditEvent(
        kind="anomaly.marked", at=at, actor=OPERATOR, facts={"finding": finding_id, "false": false}
    )


def a_store_with(file: Path, events: Iterable[AuditEvent]) -> str:
    """The URL of a store with these in its trail, by time."""

    async def write() -> None:
        store: Any = SqliteStore.open(f"sqlite:///{file}")
        try:
            ordered = sorted(events, key=lambda event: event.at)
            for begin in range(0, len(ordered), 500):
                await store.commit([Append(event=event) for event in ordered[begin : begin + 500]])
        finally:
            await store.close()

    asyncio.run(write())
    return f"sqlite:///{file}"


def of_traces(traces: Iterable[Trace]) -> list[AuditEvent]:
    """Their records."""
    return [event for trace in traces for one in trace.events if (event := recorded(one)) is not None]
