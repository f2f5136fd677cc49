"""Starts, runs and stops the gRPC server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from broker.api.v1 import (
    anomalies_pb2,
    anomalies_pb2_grpc,
    credentials_pb2,
    credentials_pb2_grpc,
    instances_pb2,
    instances_pb2_grpc,
    leases_pb2,
    leases_pb2_grpc,
    operators_pb2,
    operators_pb2_grpc,
    signals_pb2,
    signals_pb2_grpc,
    tasks_pb2,
    tasks_pb2_grpc,
    tools_pb2,
    tools_pb2_grpc,
)
from broker.server.anomalies import AnomalyServicer
from broker.server.credentials import CredentialServicer
from broker.server.gate import Gate
from broker.server.instances import InstanceServicer
from broker.server.leases import LeaseServicer
from broker.server.quarantines import QuarantineServicer
from broker.server.signals import SignalServicer
from broker.server.tasks import TaskServicer
from broker.server.tools import ToolServicer

logger = logging.getLogger(__name__)


class CannotListenError(Exception):
    """An address cannot be listened on; says which."""


SERVICES = (
    tasks_pb2.DESCRIPTOR.services_by_name["TaskService"].full_name,
    credentials_pb2.DESCRIPTOR.services_by_name["CredentialService"].full_name,
    operators_pb2.DESCRIPTOR.services_by_name["QuarantineService"].full_name,
    instances_pb2.DESCRIPTOR.services_by_name["InstanceService"].full_name,
    leases_pb2.DESCRIPTOR.services_by_name["LeaseService"].full_name,
    signals_pb2.DESCRIPTOR.services_by_name["SignalService"].full_name,
    tools_pb2.DESCRIPTOR.services_by_name["ToolService"].full_name,
    anomalies_pb2.DESCRIPTOR.services_by_name["AnomalyService"].full_name,
)


class _Health(health.aio.HealthServicer):  # type: ignore[misc]  # the library has no types
    """The library's, with the one RPC that its asynchronous half leaves out."""

    async def List(  # noqa: N802 - the wire's name
        self, _request: health_pb2.HealthListRequest, _context: object
    ) -> health_pb2.HealthListResponse:
        """Every service with its status."""
        return health_pb2.HealthListResponse(
            statuses={
                service: health_pb2.HealthCheckResponse(status=status)
                for service, status in self._server_status.items()
            }
        )


class _Services:
    """Where generated code adds its handlers. It would also register each method by itself, and for each call grpc.aio
    then waits for as many futures as there are registered methods: one path is enough, that of the gate."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Those of one service."""
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Nothing: they are among the generic ones."""


class GrpcServer:
    """The agents' and operators' door (mTLS, behind the gate); when wanted, one for JWT-SVIDs (TLS, behind the same
    gate), and one on this machine for health alone."""

    def __init__(  # noqa: PLR0913 - the parts of one server
        self,
        *,
        tasks: TaskServicer,
        credentials: CredentialServicer,
        quarantines: QuarantineServicer,
        instances: InstanceServicer,
        leases: LeaseServicer,
        signals: SignalServicer,
        tools: ToolServicer,
        anomalies: AnomalyServicer,
        gate: Gate,
        tls: grpc.ServerCredentials,
        listen: str,
        health_listen: str | None,
        max_message_bytes: int,
        jwt_listen: tuple[str, grpc.ServerCredentials] | None = None,
    ) -> None:
        self._gate = gate
        self._health = _Health()
        self._server = grpc.aio.server(
            interceptors=(gate,),
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", max_message_bytes * 4),
                ("grpc.max_metadata_size", 16_384),
                ("grpc.so_reuseport", 0),
                ("grpc.max_concurrent_streams", 256),  # of one connection
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.max_connection_age_ms", 6 * 60 * 60 * 1000),
                ("grpc.max_connection_age_grace_ms", 60_000),
            ],
        )
        services: Any = _Services(self._server)
        tasks_pb2_grpc.add_TaskServiceServicer_to_server(tasks, services)  # type: ignore[no-untyped-call]
        credentials_pb2_grpc.add_CredentialServiceServicer_to_server(credentials, services)  # type: ignore[no-untyped-call]
        operators_pb2_grpc.add_QuarantineServiceServicer_to_server(quarantines, services)  # type: ignore[no-untyped-call]
        instances_pb2_grpc.add_InstanceServiceServicer_to_server(instances, services)  # type: ignore[no-untyped-call]
        leases_pb2_grpc.add_LeaseServiceServicer_to_server(leases, services)  # type: ignore[no-untyped-call]
        signals_pb2_grpc.add_SignalServiceServicer_to_server(signals, services)  # type: ignore[no-untyped-call]
        anomalies_pb2_grpc.add_AnomalyServiceServicer_to_server(anomalies, services)  # type: ignore[no-untyped-call]
        tools_pb2_grpc.add_ToolServiceServicer_to_server(tools, services)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, services)
        shown = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            reflection.aio.ReflectionServicer(shown), services
        )
        self.port = self._secure_port("listen", listen, tls)
        if jwt_listen is not None:
            self._secure_port("jwt_svids.listen", *jwt_listen)
        self._health_server: grpc.aio.Server | None = None
        if health_listen is not None:
            self._health_server = grpc.aio.server()
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._health_server)
            try:
                self._health_server.add_insecure_port(health_listen)
            except RuntimeError as error:
                message = f"health_listen: {health_listen} cannot be listened on: is it taken?"
                raise CannotListenError(message) from error

    def _secure_port(self, setting: str, address: str, tls: grpc.ServerCredentials) -> int:
        try:
            return self._server.add_secure_port(address, tls)
        except RuntimeError as error:
            message = f"{setting}: {address} cannot be listened on: is the port taken, or the address another machine's?"
            raise CannotListenError(message) from error

    async def start(self) -> None:
        """Accept connections; say that it is not ready until `ready` is called."""
        await self.ready(ready=False)
        if self._health_server is not None:
            await self._health_server.start()
        await self._server.start()

    async def ready(self, *, ready: bool) -> None:
        """Say whether calls are worth making."""
        status = (
            health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for service in ("", *SERVICES):
            await self._health.set(service, status)

    async def stop(self, *, grace: timedelta, drains: Sequence[Callable[[], Awaitable[object]]]) -> None:
        """Refuse what is new, end streams, let calls under way finish within `grace`, then what they left behind."""
        self._gate.stopping.set()
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace.total_seconds())
        for drain in drains:
            try:
                await asyncio.wait_for(drain(), grace.total_seconds())
            except TimeoutError:
                logger.warning("stopping before everything under way was done; the next start takes it up")
        if self._health_server is not None:
            await self._health_server.stop(0)
