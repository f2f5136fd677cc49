"""SignalService: from messages to use cases and back."""

from __future__ import annotations

from typing import Any

import grpc

from broker.api.v1 import signals_pb2, signals_pb2_grpc
from broker.ports.system import Clock
from broker.server import signal_wire
from broker.server.gate import admitted_operator
from broker.usecases.report_signal import ReportSignal

Context = grpc.aio.ServicerContext[Any, Any]


class SignalServicer(signals_pb2_grpc.SignalServiceServicer):
    """Behind the gate: the caller is an operator with a role of the RPC's, the bytes are a message."""

    def __init__(self, *, report: ReportSignal, clock: Clock) -> None:
        self._report = report
        self._clock = clock

    async def ReportSignal(  # noqa: N802 - the wire's name
        self, request: signals_pb2.ReportSignalRequest, _context: Context
    ) -> signals_pb2.ReportSignalResponse:
        """Take it; answers when the finding and its answer are durable."""
        caller = admitted_operator()
        signal = signal_wire.signal(request, caller.operator.spiffe_id, self._clock.now())
        shown = {
            "roles": sorted(role.value for role in caller.operator.roles),
            "svid_sha256": caller.operator.svid_sha256,
        }
        return signal_wire.answered(await self._report(signal, shown=shown, request_id=caller.request_id))
