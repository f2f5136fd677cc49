"""Signals on the wire: bounded on the way in, and how they were answered on the way out."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from broker.api.v1 import signals_pb2
from broker.domain.findings import Answer, RecordedFinding, Severity
from broker.domain.identifiers import ActionId, TaskId
from broker.domain.signals import (
    CLOCKS_DIFFER,
    MOST_EVIDENCE,
    MOST_WORDS,
    OLDEST,
    Signal,
    SignalKind,
    is_one_line,
)
from broker.domain.spiffe import AgentIdentity, InvalidSpiffeIdError, SpiffeId
from broker.server.bounds import IDENTIFIER, KEY, Problems

_KINDS: Final = frozenset(kind.value for kind in SignalKind)
_ACTION: Final = re.compile(r"[a-zA-Z0-9-]{1,64}")
_SEVERITIES: Final = {
    signals_pb2.SIGNAL_SEVERITY_LOW: Severity.LOW,
    signals_pb2.SIGNAL_SEVERITY_MEDIUM: Severity.MEDIUM,
    signals_pb2.SIGNAL_SEVERITY_HIGH: Severity.HIGH,
    signals_pb2.SIGNAL_SEVERITY_CRITICAL: Severity.CRITICAL,
}
_SAID: Final = {severity: number for number, severity in _SEVERITIES.items()}
_ANSWERS: Final = {
    Answer.NOTE: signals_pb2.SIGNAL_ANSWER_NOTE,
    Answer.WARN: signals_pb2.SIGNAL_ANSWER_WARN,
    Answer.APPROVE: signals_pb2.SIGNAL_ANSWER_APPROVE,
    Answer.FREEZE: signals_pb2.SIGNAL_ANSWER_FREEZE,
    Answer.END_TASK: signals_pb2.SIGNAL_ANSWER_END_TASK,
    Answer.QUARANTINE: signals_pb2.SIGNAL_ANSWER_QUARANTINE,
}


def signal(request: signals_pb2.ReportSignalRequest, reporter: SpiffeId, now: datetime) -> Signal:
    """ReportSignalRequest, bounded.

    Raises:
        FieldInvalidError: says what is wrong.
    """
    problems = Problems()
    problems.check(
        bool(KEY.fullmatch(request.event_id)),
        "event_id",
        "8 to 128 printable ASCII characters without spaces, of your own, the same whenever it is sent again",
    )
    instance = _instance(request.instance)
    problems.check(instance is not None, "instance", "spiffe://<trust domain>/agent/<class>/<instance>")
    if request.task_id:
        problems.check(bool(IDENTIFIER.fullmatch(request.task_id)), "task_id", "empty, or a task's id")
    problems.check(request.kind in _KINDS, "kind", f"one of {', '.join(sorted(_KINDS))}")
    severity = _SEVERITIES.get(request.severity)
    problems.check(severity is not None, "severity", "LOW, MEDIUM, HIGH or CRITICAL")
    problems.check(0 < request.confidence <= 1, "confidence", "above 0, to 1: how sure you are")
    problems.check(
        is_one_line(request.happened),
        "happened",
        f"one line of at most {MOST_WORDS} printable characters: no line ends, no control characters",
    )
    at = _time(request, now, problems)
    problems.check(len(request.evidence) <= MOST_EVIDENCE, "evidence", f"at most {MOST_EVIDENCE} actions")
    for index, action_id in enumerate(request.evidence[:MOST_EVIDENCE]):
        problems.check(bool(_ACTION.fullmatch(action_id)), f"evidence[{index}]", "an action's id")
    problems.raise_any()
    assert instance is not None  # noqa: S101 - raised above
    assert severity is not None  # noqa: S101 - raised above
    return Signal(
        reporter=str(reporter),
        event_id=request.event_id,
        kind=SignalKind(request.kind),
        severity=severity,
        confidence=request.confidence,
        instance=instance,
        task_id=TaskId(request.task_id) if request.task_id else None,
        happened=request.happened,
        at=at,
        evidence=tuple(ActionId(one) for one in request.evidence),
    )


def answered(recorded: RecordedFinding) -> signals_pb2.ReportSignalResponse:
    """How a signal was answered."""
    return signals_pb2.ReportSignalResponse(
        finding_id=recorded.finding_id,
        answer=_ANSWERS[recorded.answer],
        severity=_SAID[recorded.found.severity],
    )


def _instance(text: str) -> SpiffeId | None:
    try:
        instance = SpiffeId.parse(text)
    except InvalidSpiffeIdError:
        return None
    return instance if AgentIdentity.of(instance) is not None else None


def _time(request: signals_pb2.ReportSignalRequest, now: datetime, problems: Problems) -> datetime:
    if not request.HasField("happened_at"):
        return now
    try:
        at = request.happened_at.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        at = None
    good = at is not None and now - OLDEST <= at <= now + CLOCKS_DIFFER
    problems.check(good, "happened_at", "unset, or a time within the last day and not to come")
    return at if good and at is not None else now
