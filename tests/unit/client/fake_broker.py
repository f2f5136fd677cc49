"""A broker that does as it is told: the wire's services in this process, over mTLS on a Unix socket."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from broker.api.v1 import (
    credentials_pb2,
    credentials_pb2_grpc,
    tasks_pb2,
    tasks_pb2_grpc,
    tools_pb2,
    tools_pb2_grpc,
)
from broker.client import Svid
from tests.unit.client.authority import Authority

Context = grpc.aio.ServicerContext[Any, Any]
Event = tasks_pb2.AttachTaskResponse
Step = Callable[[Context], Awaitable[None]]

TASK_ID = "task-1"
PASSWORD = "s3cr3t-p4ssw0rd"


def refusal(
    code: grpc.StatusCode,
    reason: str = "",
    *,
    metadata: dict[str, str] | None = None,
    retry_after: timedelta | None = None,
    fields: dict[str, str] | None = None,
) -> Step:
    """A step that answers with an error, as the real broker would."""
    details: list[AnyMessage] = []

    def add(message: Any) -> None:
        packed = AnyMessage()
        packed.Pack(message)
        details.append(packed)

    if reason:
        add(
            error_details_pb2.ErrorInfo(
                reason=reason,
                domain="tasklease.broker",
                metadata={"request_id": "req-1", **(metadata or {})},
            )
        )
    if retry_after is not None:
        delay = Duration()
        delay.FromTimedelta(retry_after)
        add(error_details_pb2.RetryInfo(retry_delay=delay))
    if fields:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=name, description=text)
            for name, text in fields.items()
        ]
        add(error_details_pb2.BadRequest(field_violations=violations))
    number = code_pb2.Code.Value(code.name)
    status = rpc_status.to_status(status_pb2.Status(code=number, message="refused", details=details))

    async def step(context: Context) -> None:
        await context.abort_with_status(status)

    return step


def hang(release: asyncio.Event | None = None) -> Step:
    """A step that does not answer until it is released."""

    async def step(_context: Context) -> None:
        await (release or asyncio.Event()).wait()

    return step


class FakeBroker(
    tasks_pb2_grpc.TaskServiceServicer,
    credentials_pb2_grpc.CredentialServiceServicer,
    tools_pb2_grpc.ToolServiceServicer,
):
    """Its steps are taken, one a call, before it answers as a well-meaning broker would."""

    def __init__(self, authority: Authority, socket: Path) -> None:
        self._authority = authority
        self.socket = socket
        self.calls: defaultdict[str, list[Any]] = defaultdict(list)
        self.peers: defaultdict[str, list[bytes]] = defaultdict(list)
        self.steps: defaultdict[str, deque[Step]] = defaultdict(deque)
        self.task = tasks_pb2.Task(task_id=TASK_ID, task_type="reconcile", state=tasks_pb2.TASK_STATE_ACTIVE)
        self.task.deadline.FromDatetime(datetime.now(UTC) + timedelta(minutes=30))
        self.task.heartbeat_interval.FromTimedelta(timedelta(seconds=2))
        self.streams: list[asyncio.Queue[Event | None]] = []
        self.attached = 0
        self._changed = asyncio.Condition()
        self._leases = 0
        self.warnings: tuple[str, ...] = ()
        """Come with each credential."""
        self.denies: tools_pb2.Authorization | None = None
        """The answer to every call, instead of leave."""
        self._server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        return f"unix:{self.socket}"

    async def start(self, svid: Svid | None = None) -> None:
        svid = svid or self._authority.broker_svid()
        server = grpc.aio.server()
        tasks_pb2_grpc.add_TaskServiceServicer_to_server(self, server)  # type: ignore[no-untyped-call]
        credentials_pb2_grpc.add_CredentialServiceServicer_to_server(self, server)  # type: ignore[no-untyped-call]
        tools_pb2_grpc.add_ToolServiceServicer_to_server(self, server)  # type: ignore[no-untyped-call]
        tls = grpc.ssl_server_credentials(
            [(svid.key, svid.chain)], self._authority.pem, require_client_auth=True
        )
        server.add_secure_port(self.address, tls)
        await server.start()
        self._server = server

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
            self._server = None
            self.socket.unlink(missing_ok=True)

    async def until(self, what: Callable[[], bool]) -> None:
        """Wait until something is so of this broker."""
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(what)

    async def tell(self, kind: str, **fields: Any) -> None:
        """Send an event over every attached stream."""
        event = Event(kind=getattr(Event, f"KIND_{kind}"), task=self._without_leases(), **fields)
        event.at.FromDatetime(datetime.now(UTC))
        for stream in self.streams:
            stream.put_nowait(event)

    def _without_leases(self) -> tasks_pb2.Task:
        """As events carry it."""
        task = tasks_pb2.Task()
        task.CopyFrom(self.task)
        del task.leases[:]
        return task

    async def end_task(self, cause: int = tasks_pb2.TASK_END_CAUSE_DEADLINE) -> None:
        self.task.state = tasks_pb2.TASK_STATE_ENDING
        self.task.end_cause = cause  # type: ignore[assignment]
        await self.tell("TASK_ENDING")

    async def _called(self, name: str, request: Any, context: Context) -> None:
        async with self._changed:
            self.calls[name].append(request)
            self.peers[name].append(next(iter(context.auth_context()["x509_pem_cert"])))
            self._changed.notify_all()
        if self.steps[name]:
            await self.steps[name].popleft()(context)

    async def DeclareTask(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._called("declare", request, context)
        return tasks_pb2.DeclareTaskResponse(task=self.task)

    async def GetTask(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._called("get", request, context)
        return tasks_pb2.GetTaskResponse(task=self.task)

    async def ListTasks(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._called("list", request, context)
        if not request.page_token:
            return tasks_pb2.ListTasksResponse(tasks=[self.task], next_page_token="more")
        return tasks_pb2.ListTasksResponse(tasks=[self.task])

    async def Heartbeat(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._called("heartbeat", request, context)
        return tasks_pb2.HeartbeatResponse()

    async def AttachTask(self, request: Any, context: Any) -> AsyncIterator[Event]:  # noqa: N802
        await self._called("attach", request, context)
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self.streams.append(queue)
        await self._count(+1)
        try:
            yield Event(kind=Event.KIND_ATTACHED, task=self._without_leases())
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self.streams.remove(queue)
            await self._count(-1)

    async def _count(self, by: int) -> None:
        async with self._changed:
            self.attached += by
            self._changed.notify_all()

    async def CompleteTask(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._called("complete", request, context)
        self.task.state = tasks_pb2.TASK_STATE_ENDED
        self.task.end_cause = tasks_pb2.TASK_END_CAUSE_COMPLETED
        await self.tell("TASK_ENDING")
        return tasks_pb2.CompleteTaskResponse(task=self.task)

    def lease(self, number: int, **fields: Any) -> credentials_pb2.Lease:
        lease = credentials_pb2.Lease(lease_id=f"lease-{number}", task_id=TASK_ID, role="orders", **fields)
        lease.expires_at.FromDatetime(datetime(2030, 1, 1, tzinfo=UTC))
        return lease

    async def AcquireCredential(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._called("acquire", request, context)
        self._leases += 1
        return credentials_pb2.AcquireCredentialResponse(
            lease=self.lease(self._leases, state=credentials_pb2.LEASE_STATE_LIVE),
            secret={"username": "v-user", "password": PASSWORD},
            destination=credentials_pb2.Destination(host="db.test", port=5432, scheme="postgresql"),
            warnings=self.warnings,
        )

    async def RenewCredential(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._called("renew", request, context)
        lease = credentials_pb2.Lease(lease_id=request.lease_id, state=credentials_pb2.LEASE_STATE_LIVE)
        lease.expires_at.FromDatetime(datetime(2031, 1, 1, tzinfo=UTC))
        return credentials_pb2.RenewCredentialResponse(lease=lease)

    async def ReleaseCredential(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._called("release", request, context)
        lease = credentials_pb2.Lease(lease_id=request.lease_id, state=credentials_pb2.LEASE_STATE_REVOKED)
        return credentials_pb2.ReleaseCredentialResponse(lease=lease)

    async def ListTools(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._called("list_tools", request, context)
        schema = '{"type": "object", "additionalProperties": false}'
        tool = tools_pb2.Tool(name="browse", description="Look around", arguments_schema=schema)
        return tools_pb2.ListToolsResponse(tools=[tool])

    def _authorization(self, number: int) -> tools_pb2.Authorization:
        if self.denies is not None:
            return self.denies
        obligations = tools_pb2.Obligations(redact=["iban"], limit_rows=10, credential_role="orders")
        return tools_pb2.Authorization(action_id=f"action-{number}", allowed=True, obligations=obligations)

    async def AuthorizeAction(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._called("authorize", request, context)
        return tools_pb2.AuthorizeActionResponse(authorization=self._authorization(1))

    async def AuthorizeActions(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._called("authorize_all", request, context)
        found = [self._authorization(number) for number, _ in enumerate(request.calls, 1)]
        return tools_pb2.AuthorizeActionsResponse(authorizations=found[:1] if self.denies else found)

    async def ReportOutcome(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._called("report", request, context)
        return tools_pb2.ReportOutcomeResponse(outcome=request.outcome)
