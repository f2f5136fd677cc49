"""QuarantineService: from messages to use cases and back."""

from __future__ import annotations

from typing import Any

import grpc

from broker.api.v1 import operators_pb2, operators_pb2_grpc
from broker.server import bounds, wire
from broker.server.gate import admitted_operator
from broker.usecases.quarantine import QuarantineInstances

Context = grpc.aio.ServicerContext[Any, Any]


class QuarantineServicer(operators_pb2_grpc.QuarantineServiceServicer):
    """Behind the gate: the caller is an operator with a role of the RPC's, the bytes are a message."""

    def __init__(self, *, quarantine: QuarantineInstances) -> None:
        self._quarantine = quarantine

    async def Quarantine(  # noqa: N802 - the wire's name
        self, request: operators_pb2.QuarantineRequest, _context: Context
    ) -> operators_pb2.QuarantineResponse:
        """Quarantine; answers when what the target held is revoked, or says how much is left."""
        target, reason = bounds.quarantine(request)
        imposed = await self._quarantine.impose(admitted_operator(), target, reason)
        return operators_pb2.QuarantineResponse(
            quarantine=wire.quarantine_message(imposed.status), tasks_found=imposed.tasks_found
        )

    async def Release(  # noqa: N802
        self, request: operators_pb2.ReleaseRequest, _context: Context
    ) -> operators_pb2.ReleaseResponse:
        """Release."""
        target, reason = bounds.quarantine(request)
        standing = await self._quarantine.release(admitted_operator(), target, reason)
        return operators_pb2.ReleaseResponse(
            still_standing=[wire.quarantine_message(status) for status in standing]
        )

    async def ListQuarantines(  # noqa: N802
        self, request: operators_pb2.ListQuarantinesRequest, _context: Context
    ) -> operators_pb2.ListQuarantinesResponse:
        """Look."""
        page_size, page_token = bounds.quarantine_listing(request)
        page = await self._quarantine.page(admitted_operator(), page_size=page_size, page_token=page_token)
        return operators_pb2.ListQuarantinesResponse(
            quarantines=[wire.quarantine_message(status) for status in page.quarantines],
            next_page_token=page.next_token,
        )
