"""AnomalyService: from messages to use cases and back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import grpc

from broker.api.v1 import anomalies_pb2, anomalies_pb2_grpc
from broker.domain.findings import Mark, RecordedFinding, Severity
from broker.domain.identifiers import FindingId
from broker.domain.spiffe import AgentIdentity, InvalidSpiffeIdError, SpiffeId
from broker.ports.store import FindingFilter
from broker.server import bounds
from broker.server.bounds import DEFAULT_PAGE, IDENTIFIER, MAX_PAGE, MAX_TOKEN, Problems
from broker.server.gate import admitted_operator
from broker.server.wire import timestamp
from broker.usecases.operate_findings import OperateFindings

Context = grpc.aio.ServicerContext[Any, Any]

_MARKS: Final = {
    anomalies_pb2.FINDING_MARK_FALSE: Mark.FALSE,
    anomalies_pb2.FINDING_MARK_CONFIRMED: Mark.CONFIRMED,
}
_MARK_MESSAGES: Final = {
    Mark.NONE: anomalies_pb2.FINDING_MARK_UNSPECIFIED,
    **{mark: message for message, mark in _MARKS.items()},
}
_SEVERITIES: Final = {"": Severity.LOW, **{one.value: one for one in Severity}}


class AnomalyServicer(anomalies_pb2_grpc.AnomalyServiceServicer):
    """Behind the gate: the caller is an operator with a role of the RPC's, the bytes are a message."""

    def __init__(self, *, findings: OperateFindings) -> None:
        self._findings = findings

    async def ListFindings(  # noqa: N802 - the wire's name
        self, request: anomalies_pb2.ListFindingsRequest, _context: Context
    ) -> anomalies_pb2.ListFindingsResponse:
        """Look at them."""
        page = await self._findings.page(
            admitted_operator(),
            _filter(request),
            page_size=request.page_size or DEFAULT_PAGE,
            page_token=request.page_token,
        )
        return anomalies_pb2.ListFindingsResponse(
            findings=[finding_message(one) for one in page.findings], next_page_token=page.next_token
        )

    async def GetFinding(  # noqa: N802
        self, request: anomalies_pb2.GetFindingRequest, _context: Context
    ) -> anomalies_pb2.GetFindingResponse:
        """Look at one."""
        found = await self._findings.one(admitted_operator(), _finding_id(request.finding_id))
        return anomalies_pb2.GetFindingResponse(finding=finding_message(found))

    async def MarkFinding(  # noqa: N802
        self, request: anomalies_pb2.MarkFindingRequest, _context: Context
    ) -> anomalies_pb2.MarkFindingResponse:
        """Say what it is."""
        finding_id, mark = _finding_id(request.finding_id), _MARKS.get(request.mark)
        problems = Problems()
        problems.check(mark is not None, "mark", "FALSE or CONFIRMED")
        problems.raise_any()
        reason = bounds.reason(request.reason)
        marked = await self._findings.mark(admitted_operator(), finding_id, mark or Mark.CONFIRMED, reason)
        return anomalies_pb2.MarkFindingResponse(finding=finding_message(marked))

    async def LiftHold(  # noqa: N802
        self, request: anomalies_pb2.LiftHoldRequest, _context: Context
    ) -> anomalies_pb2.LiftHoldResponse:
        """Let a task go on."""
        task_id, reason = bounds.task_id(request.task_id), bounds.reason(request.reason)
        await self._findings.lift(admitted_operator(), task_id, reason)
        return anomalies_pb2.LiftHoldResponse()

    async def WatchFindings(  # noqa: N802
        self, request: anomalies_pb2.WatchFindingsRequest, _context: Context
    ) -> AsyncIterator[anomalies_pb2.WatchFindingsResponse]:
        """Show them as they come."""
        after = request.after if request.HasField("after") else None
        problems = Problems()
        problems.check(after is None or after >= 0, "after", "a finding's number, or leave it out")
        problems.raise_any()
        async for found in self._findings.watch(admitted_operator(), after):
            yield anomalies_pb2.WatchFindingsResponse(finding=finding_message(found))


def finding_message(recorded: RecordedFinding) -> anomalies_pb2.AnomalyFinding:
    """A finding as operators see it."""
    found = recorded.found
    return anomalies_pb2.AnomalyFinding(
        finding_id=recorded.finding_id,
        detector=found.detector,
        rule=found.rule,
        severity=found.severity.value,
        confidence=found.confidence,
        instance=str(found.instance),
        task_id=found.task_id or "",
        at=timestamp(found.at),
        found_at=timestamp(recorded.found_at),
        evidence=found.evidence,
        expected=found.expected,
        happened=found.happened,
        source=found.source,
        answer=recorded.answer.value,
        answered_at=timestamp(recorded.answered_at),
        mark=_MARK_MESSAGES[recorded.mark],
        marked_by=recorded.marked_by,
        number=recorded.number,
    )


def _finding_id(value: str) -> FindingId:
    problems = Problems()
    problems.check(bool(IDENTIFIER.fullmatch(value)), "finding_id", "give a finding's id")
    problems.raise_any()
    return FindingId(value)


def _filter(request: anomalies_pb2.ListFindingsRequest) -> FindingFilter:
    problems = Problems()
    problems.check(0 <= request.page_size <= MAX_PAGE, "page_size", f"0 to {MAX_PAGE}")
    problems.check(len(request.page_token) <= MAX_TOKEN, "page_token", "give back next_page_token as it was")
    if request.detector:
        problems.name(request.detector, "detector")
    if request.task_id:
        problems.check(bool(IDENTIFIER.fullmatch(request.task_id)), "task_id", "a task's id")
    if request.instance:
        problems.check(
            _is_instance(request.instance), "instance", "spiffe://<trust domain>/agent/<class>/<instance>"
        )
    problems.check(request.severity in _SEVERITIES, "severity", "low, medium, high or critical")
    problems.raise_any()
    return FindingFilter(
        detector=request.detector,
        instance=request.instance,
        task_id=request.task_id,
        least=_SEVERITIES[request.severity],
        unmarked=request.unmarked,
        unanswered=request.unanswered,
    )


def _is_instance(text: str) -> bool:
    try:
        return AgentIdentity.of(SpiffeId.parse(text)) is not None
    except InvalidSpiffeIdError:
        return False
