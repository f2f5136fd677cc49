"""AnomalyService: from messages to use cases and back."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from broker.api.v1 import anomalies_pb2, anomalies_pb2_grpc
from broker.server import anomaly_wire as wire
from broker.server import bounds
from broker.server.gate import admitted_operator
from broker.usecases.operate_findings import OperateFindings

Context = grpc.aio.ServicerContext[Any, Any]


class AnomalyServicer(anomalies_pb2_grpc.AnomalyServiceServicer):
    """Behind the gate: the caller is an operator with a role of the RPC's, the bytes are a message."""

    def __init__(self, *, findings: OperateFindings) -> None:
        self._findings = findings

    async def ListFindings(  # noqa: N802 - the wire's name
        self, request: anomalies_pb2.ListFindingsRequest, _context: Context
    ) -> anomalies_pb2.ListFindingsResponse:
        """Look at a page."""
        wanted, page_size, page_token = wire.listing(request)
        page = await self._findings.page(
            admitted_operator(), wanted, page_size=page_size, page_token=page_token
        )
        return anomalies_pb2.ListFindingsResponse(
            findings=[wire.finding_message(one) for one in page.findings], next_page_token=page.next_token
        )

    async def GetFinding(  # noqa: N802
        self, request: anomalies_pb2.GetFindingRequest, _context: Context
    ) -> anomalies_pb2.GetFindingResponse:
        """Look at one."""
        finding = await self._findings.one(admitted_operator(), wire.finding_id(request.finding_id))
        return anomalies_pb2.GetFindingResponse(finding=wire.finding_message(finding))

    async def MarkFinding(  # noqa: N802
        self, request: anomalies_pb2.MarkFindingRequest, _context: Context
    ) -> anomalies_pb2.MarkFindingResponse:
        """Say what it is."""
        finding_id, mark, reason = wire.marking(request)
        finding = await self._findings.mark(admitted_operator(), finding_id, mark, reason)
        return anomalies_pb2.MarkFindingResponse(finding=wire.finding_message(finding))

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
        """Findings as they come; the gate ends it."""
        findings = self._findings.watch(admitted_operator(), wire.watching(request))
        async with contextlib.aclosing(findings):
            async for one in findings:
                yield wire.watched_message(one)
