"""Findings as the audit trail has them, what was answered, and what people have said of them since."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from broker.domain.audit import AuditEvent, AuditKind, AuditRecord
from broker.domain.findings import Mark
from broker.domain.identifiers import ActionId, TaskId

FOUND: Final = AuditKind.ANOMALY_FOUND
ANSWERED: Final = AuditKind.ANOMALY_ANSWERED
MARKED: Final = AuditKind.ANOMALY_MARKED

MOST_FINDINGS: Final = 100_000
"""Findings that are held at once: the newest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrailFinding:
    """One of them."""

    finding_id: str
    detector: str
    rule: str
    severity: str
    confidence: float
    instance: str
    task_id: TaskId | None
    at: datetime
    """When it happened."""
    found_at: datetime
    """When it was durable that it was found."""
    evidence: tuple[ActionId, ...]
    expected: str
    happened: str
    source: str
    answer: str
    answered_at: datetime | None = None
    """When everything that the answer demanded had taken effect."""
    mark: Mark = Mark.NONE
    marked_by: str = ""


class FindingsOfTrail:
    """Takes records in order; holds the findings with all that was recorded of them."""

    def __init__(self) -> None:
        self.found: dict[str, TrailFinding] = {}
        """By their ids, oldest first."""
        self.unreadable = 0

    def take(self, record: AuditRecord) -> None:
        """One more record, of any kind."""
        event = record.event
        if event.kind not in {FOUND, ANSWERED, MARKED}:
            return
        try:
            self._take(event)
        except (KeyError, TypeError, ValueError):
            self.unreadable += 1

    def passing(self, records: Iterable[AuditRecord]) -> Iterator[AuditRecord]:
        """Take each of them on its way to somebody else."""
        for record in records:
            self.take(record)
            yield record

    def _take(self, event: AuditEvent) -> None:
        finding_id = str(event.facts["finding"])
        if event.kind == FOUND:
            self.found[finding_id] = _found(event)
            while len(self.found) > MOST_FINDINGS:
                del self.found[next(iter(self.found))]
        elif event.kind == ANSWERED:
            known = self.found[finding_id]
            self.found[finding_id] = replace(known, answered_at=known.answered_at or event.at)
        else:
            false = event.facts["false"]
            if not isinstance(false, bool):
                raise TypeError
            mark = Mark.FALSE if false else Mark.CONFIRMED
            self.found[finding_id] = replace(self.found[finding_id], mark=mark, marked_by=event.actor)


def _found(event: AuditEvent) -> TrailFinding:
    facts = event.facts
    return TrailFinding(
        finding_id=str(facts["finding"]),
        detector=str(facts["detector"]),
        rule=str(facts["rule"]),
        severity=str(facts["severity"]),
        confidence=_number(facts["confidence"]),
        instance=str(facts["instance"]),
        task_id=TaskId(event.task_id) if event.task_id else None,
        at=datetime.fromisoformat(str(facts["at"])) if facts.get("at") else event.at,
        found_at=event.at,
        evidence=tuple(ActionId(str(one)) for one in _list(facts["evidence"])),
        expected=str(facts["expected"]),
        happened=str(facts["happened"]),
        source=str(facts.get("source", "")),
        answer=str(facts["answer"]),
    )


def _list(value: object) -> list[object]:
    if not isinstance(value, list | tuple):
        raise TypeError
    return list(value)


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        raise TypeError
    return float(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """What is known of tasks by people."""

    bad: Mapping[TaskId, frozenset[str]]
    """Those that went wrong, and which detectors should see it; none where that was not said."""
    false: frozenset[TaskId]
    """Those with a finding that was marked false, and no other that was not."""
    standing: frozenset[TaskId]
    """Those with a finding of which nobody has said anything."""


def labels_of(findings: Iterable[TrailFinding], attacks: Mapping[TaskId, frozenset[str]]) -> Labels:
    """By the marks of findings, and by `attacks`: tasks that are known to have gone wrong, from elsewhere."""
    bad = {task_id: set(detectors) for task_id, detectors in attacks.items()}
    false: set[TaskId] = set()
    standing: set[TaskId] = set()
    for one in findings:
        if one.task_id is None:
            continue
        match one.mark:
            case Mark.CONFIRMED:
                bad.setdefault(one.task_id, set()).add(one.detector)
            case Mark.FALSE:
                false.add(one.task_id)
            case Mark.NONE:
                standing.add(one.task_id)
    return Labels(
        bad={task_id: frozenset(detectors) for task_id, detectors in bad.items()},
        false=frozenset(false - standing - bad.keys()),
        standing=frozenset(standing - bad.keys()),
    )
