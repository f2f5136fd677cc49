"""Findings as messages, and the requests about them, bounded: every field is checked here before anything acts on it."""

from __future__ import annotations

from typing import Final

from broker.api.v1 import anomalies_pb2
from broker.domain.findings import Answer, Mark, RecordedFinding, Severity
from broker.domain.identifiers import FindingId
from broker.domain.spiffe import AgentIdentity, InvalidSpiffeIdError, SpiffeId
from broker.ports.store import FindingFilter
from broker.server.bounds import DEFAULT_PAGE, IDENTIFIER, MAX_PAGE, MAX_REASON, MAX_TOKEN, Problems
from broker.server.wire import timestamp
from broker.usecases.operate_findings import Watched

SEVERITIES: Final = {
    Severity.LOW: anomalies_pb2.ANOMALY_SEVERITY_LOW,
    Severity.MEDIUM: anomalies_pb2.ANOMALY_SEVERITY_MEDIUM,
    Severity.HIGH: anomalies_pb2.ANOMALY_SEVERITY_HIGH,
    Severity.CRITICAL: anomalies_pb2.ANOMALY_SEVERITY_CRITICAL,
}
ANSWERS: Final = {
    Answer.NOTE: anomalies_pb2.ANOMALY_ANSWER_NOTE,
    Answer.WARN: anomalies_pb2.ANOMALY_ANSWER_WARN,
    Answer.APPROVE: anomalies_pb2.ANOMALY_ANSWER_APPROVE,
    Answer.FREEZE: anomalies_pb2.ANOMALY_ANSWER_FREEZE,
    Answer.END_TASK: anomalies_pb2.ANOMALY_ANSWER_END_TASK,
    Answer.QUARANTINE: anomalies_pb2.ANOMALY_ANSWER_QUARANTINE,
}
MARKS: Final = {
    Mark.NONE: anomalies_pb2.ANOMALY_MARK_UNSPECIFIED,
    Mark.FALSE: anomalies_pb2.ANOMALY_MARK_FALSE,
    Mark.CONFIRMED: anomalies_pb2.ANOMALY_MARK_CONFIRMED,
}
_LEAST: Final = {
    anomalies_pb2.ANOMALY_SEVERITY_UNSPECIFIED: Severity.LOW,
    **{value: severity for severity, value in SEVERITIES.items()},
}
_WORDS: Final = {
    anomalies_pb2.ANOMALY_MARK_FALSE: Mark.FALSE,
    anomalies_pb2.ANOMALY_MARK_CONFIRMED: Mark.CONFIRMED,
}


def finding_message(recorded: RecordedFinding) -> anomalies_pb2.AnomalyFinding:
    """A finding with what was answered."""
    found = recorded.found
    return anomalies_pb2.AnomalyFinding(
        finding_id=recorded.finding_id,
        number=recorded.number,
        detector=found.detector,
        rule=found.rule,
        severity=SEVERITIES[found.severity],
        confidence=found.confidence,
        instance=str(found.instance),
        task_id=found.task_id or "",
        at=timestamp(found.at),
        found_at=timestamp(recorded.found_at),
        evidence=found.evidence,
        expected=found.expected,
        happened=found.happened,
        source=found.source,
        answer=ANSWERS[recorded.answer],
        answered_at=timestamp(recorded.answered_at),
        mark=MARKS[recorded.mark],
        marked_by=recorded.marked_by,
    )


def watched_message(watched: Watched) -> anomalies_pb2.WatchFindingsResponse:
    """One item of a stream."""
    return anomalies_pb2.WatchFindingsResponse(
        finding=None if watched.finding is None else finding_message(watched.finding), number=watched.number
    )


def finding_id(value: str) -> FindingId:
    """Check the form of a finding's id."""
    problems = Problems()
    _finding_id(value, problems)
    problems.raise_any()
    return FindingId(value)


def listing(request: anomalies_pb2.ListFindingsRequest) -> tuple[FindingFilter, int, str]:
    """ListFindingsRequest, bounded: which, page size, page token."""
    problems = Problems()
    if request.detector:
        problems.name(request.detector, "detector")
    if request.instance:
        problems.check(
            _is_an_instance(request.instance), "instance", "spiffe://<trust domain>/agent/<class>/<instance>"
        )
    if request.task_id:
        problems.check(bool(IDENTIFIER.fullmatch(request.task_id)), "task_id", "a task's id")
    least = _LEAST.get(request.least_severity)
    problems.check(least is not None, "least_severity", "LOW, MEDIUM, HIGH or CRITICAL")
    problems.check(0 <= request.page_size <= MAX_PAGE, "page_size", f"0 to {MAX_PAGE}")
    problems.check(len(request.page_token) <= MAX_TOKEN, "page_token", "give back next_page_token as it was")
    problems.raise_any()
    wanted = FindingFilter(
        detector=request.detector,
        instance=request.instance,
        task_id=request.task_id,
        least=least or Severity.LOW,
        unmarked=request.unmarked,
        unanswered=request.unanswered,
    )
    return wanted, request.page_size or DEFAULT_PAGE, request.page_token


def marking(request: anomalies_pb2.MarkFindingRequest) -> tuple[FindingId, Mark, str]:
    """MarkFindingRequest, bounded: which, what it is, and why."""
    problems = Problems()
    _finding_id(request.finding_id, problems)
    mark = _WORDS.get(request.mark)
    problems.check(mark is not None, "mark", "FALSE or CONFIRMED")
    problems.text(request.reason, "reason", most=MAX_REASON)
    problems.raise_any()
    return FindingId(request.finding_id), mark or Mark.CONFIRMED, request.reason


def watching(request: anomalies_pb2.WatchFindingsRequest) -> int | None:
    """WatchFindingsRequest, bounded: beyond which number; None for what comes from now on."""
    if not request.HasField("after"):
        return None
    problems = Problems()
    problems.check(request.after >= 0, "after", "0, or the number of a finding")
    problems.raise_any()
    return request.after


def _finding_id(value: str, problems: Problems) -> None:
    problems.check(bool(IDENTIFIER.fullmatch(value)), "finding_id", "a finding's id: finding-...")


def _is_an_instance(value: str) -> bool:
    try:
        return AgentIdentity.of(SpiffeId.parse(value)) is not None
    except InvalidSpiffeIdError:
        return False
