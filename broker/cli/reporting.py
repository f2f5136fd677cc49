"""Tells the broker that an instance has ended, with the SVID of this process: a registrar's, from the Workload API."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from broker.api.v1 import instances_pb2, instances_pb2_grpc
from broker.client import BrokerError
from broker.client.connection import Connection, Line, Unary
from broker.client.identity import WorkloadApiIdentity

_PATIENCE: Final = timedelta(seconds=5)
_CALL: Final = timedelta(seconds=10)


async def report_ended(broker: str, spiffe_id: str, *, endpoint_socket: str) -> str:
    """Report; returns why it could not be, empty when it was."""
    identity = WorkloadApiIdentity(endpoint_socket)
    request = instances_pb2.ReportEndedRequest(spiffe_id=spiffe_id)
    try:
        await identity.start(_PATIENCE)
        connection = Connection(address=broker, identity=identity, broker_id=None)
        try:
            await connection.open(_PATIENCE)
            await connection.call(_report, request, within=_CALL)
        finally:
            await connection.close()
    except BrokerError as error:
        return str(error)
    finally:
        await identity.close()
    return ""


def _report(line: Line) -> Unary[instances_pb2.ReportEndedRequest, instances_pb2.ReportEndedResponse]:
    method: Unary[instances_pb2.ReportEndedRequest, instances_pb2.ReportEndedResponse]
    method = instances_pb2_grpc.InstanceServiceStub(line.channel).ReportEnded  # type: ignore[no-untyped-call]
    return method
