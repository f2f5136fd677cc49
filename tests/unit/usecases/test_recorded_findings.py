"""Findings as the trail has them, and what people said of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from broker.domain.audit import AuditEvent, AuditRecord, append
from broker.domain.findings import Mark
from broker.domain.identifiers import TaskId
from broker.usecases import recorded_findings
from broker.usecases.recorded_findings import FindingsOfTrail, labels_of

AT = datetime(2026, 3, 2, 12, tzinfo=UTC)
ANN = "spiffe://example.test/oncall/ann"
FACTS = {
    "detector": "pivot",
    "rule": "another-way",
    "severity": "high",
    "confidence": 0.9,
    "instance": "spiffe://example.test/agent/a/1",
    "evidence": ["action-1"],
    "expected": "nothing more",
    "happened": "it was tried",
    "source": "tasklease",
    "answer": "freeze",
    "at": (AT - timedelta(seconds=1)).isoformat(),
}


def record(kind: str, finding: str, **facts: object) -> AuditRecord:
    return append(None, AuditEvent(kind=kind, at=AT, actor=ANN, facts={"finding": finding, **facts}))


def found(finding: str, task: str, **facts: object) -> AuditRecord:
    event = AuditEvent(
        kind="anomaly.found", at=AT, actor=ANN, task_id=task, facts={"finding": finding, **FACTS, **facts}
    )
    return append(None, event)


def taken(*records: AuditRecord) -> FindingsOfTrail:
    findings = FindingsOfTrail()
    assert list(findings.passing(records)) == list(records)
    return findings


def test_a_finding_is_what_was_recorded_and_answered() -> None:
    answered = record("anomaly.answered", "f-1")
    later = replace(answered, event=replace(answered.event, at=AT + timedelta(seconds=9)))
    (one,) = taken(found("f-1", "task-1"), answered, later).found.values()
    assert (one.finding_id, one.task_id, one.detector, one.answer) == ("f-1", "task-1", "pivot", "freeze")
    assert (one.at, one.found_at, one.answered_at) == (AT - timedelta(seconds=1), AT, AT)
    assert (one.evidence, one.confidence, one.mark) == (("action-1",), 0.9, Mark.NONE)


def test_without_a_moment_of_its_own_it_happened_when_it_was_found() -> None:
    (one,) = taken(found("f-1", "", at="")).found.values()
    assert (one.at, one.task_id) == (AT, None)


def test_the_last_mark_counts() -> None:
    marks = [record("anomaly.marked", "f-1", false=True), record("anomaly.marked", "f-1", false=False)]
    (one,) = taken(found("f-1", "task-1"), *marks).found.values()
    assert (one.mark, one.marked_by) == (Mark.CONFIRMED, ANN)


@pytest.mark.parametrize(
    "bad",
    [
        record("anomaly.answered", "f-2"),
        record("anomaly.marked", "f-1", false="no"),
        record("anomaly.marked", "f-1"),
        found("f-3", "task-1", evidence="action-1"),
        found("f-3", "task-1", confidence="high"),
        found("f-3", "task-1", at="yesterday"),
    ],
)
def test_what_cannot_be_read_is_counted_and_changes_nothing(bad: AuditRecord) -> None:
    findings = taken(found("f-1", "task-1"), bad)
    assert findings.unreadable == 1
    assert list(findings.found) == ["f-1"]
    assert findings.found["f-1"].mark is Mark.NONE


def test_the_newest_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded_findings, "MOST_FINDINGS", 2)
    findings = taken(*(found(f"f-{number}", "task-1") for number in range(4)))
    assert list(findings.found) == ["f-2", "f-3"]


def test_labels_are_what_people_said() -> None:
    findings = taken(
        found("f-1", "task-confirmed"),
        found("f-2", "task-false"),
        found("f-3", "task-standing"),
        found("f-4", "task-false-and-standing"),
        found("f-5", "task-false-and-standing"),
        found("f-6", "task-false-and-confirmed"),
        found("f-7", "task-false-and-confirmed", detector="canary"),
        found("f-8", ""),
        record("anomaly.marked", "f-1", false=False),
        record("anomaly.marked", "f-2", false=True),
        record("anomaly.marked", "f-4", false=True),
        record("anomaly.marked", "f-6", false=True),
        record("anomaly.marked", "f-7", false=False),
    )
    named = {TaskId("task-named"): frozenset[str](), TaskId("task-confirmed"): frozenset({"drift"})}
    labels = labels_of(findings.found.values(), named)
    assert labels.bad == {
        "task-named": frozenset(),
        "task-confirmed": {"pivot", "drift"},
        "task-false-and-confirmed": {"canary"},
    }
    assert labels.false == {"task-false"}
    assert labels.standing == {"task-standing", "task-false-and-standing"}
