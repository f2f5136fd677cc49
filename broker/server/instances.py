"""InstanceService: from messages to use cases and back."""

from __future__ import annotations

from typing import Any

import grpc

from broker.api.v1 import instances_pb2, instances_pb2_grpc
from broker.server import bounds
from broker.server.gate import admitted_operator
from broker.usecases.report_ended import ReportEnded

Context = grpc.aio.ServicerContext[Any, Any]


class InstanceServicer(instances_pb2_grpc.InstanceServiceServicer):
    """Behind the gate: the caller is an operator with a role of the RPC's, the bytes are a message."""

    def __init__(self, *, report_ended: ReportEnded) -> None:
        self._report_ended = report_ended

    async def ReportEnded(  # noqa: N802 - the wire's name
        self, request: instances_pb2.ReportEndedRequest, _context: Context
    ) -> instances_pb2.ReportEndedResponse:
        """End what the instance had; answers when that is revoked, or says how much is left."""
        ended = await self._report_ended(admitted_operator(), bounds.ended_instance(request))
        return instances_pb2.ReportEndedResponse(
            tasks_found=ended.tasks_found, unfinished_tasks=ended.unfinished_tasks
        )
