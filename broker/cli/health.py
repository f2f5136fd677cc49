"""`tasklease health`: for probes on the broker's own machine."""

from __future__ import annotations

from typing import Annotated

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from broker.cli.output import fail, out


def health(
    address: Annotated[str, typer.Argument(help="The broker's health_listen: unix:PATH or 127.0.0.1:PORT.")],
    timeout: Annotated[float, typer.Option(help="Seconds to wait.")] = 3.0,
) -> None:
    """Ask a broker whether it is ready; exit code 0 when it is."""
    with grpc.insecure_channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=timeout
            )
        except grpc.RpcError as error:
            fail(f"no answer from {address}: {error.code().name}")
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    out.print(name)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise typer.Exit(1)
