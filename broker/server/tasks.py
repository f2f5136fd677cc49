"""TaskService: from messages to use cases and back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, TypeVar

import grpc

from broker.api.v1 import tasks_pb2, tasks_pb2_grpc
from broker.domain.errors import ShuttingDownError
from broker.domain.task import Task
from broker.ports.system import Clock
from broker.server import bounds, wire
from broker.server.gate import admitted
from broker.usecases.complete_task import CompleteTask
from broker.usecases.declare_task import DeclareTask
from broker.usecases.keep_task_alive import KeepTaskAlive
from broker.usecases.look_at_tasks import LookAtTasks
from broker.usecases.task_events import TaskEvent

Context = grpc.aio.ServicerContext[Any, Any]
Item = TypeVar("Item")


class TaskServicer(tasks_pb2_grpc.TaskServiceServicer):
    """Behind the gate: the caller is verified, the bytes are a message."""

    def __init__(  # noqa: PLR0913 - the use cases of one service
        self,
        *,
        declare: DeclareTask,
        look: LookAtTasks,
        keep_alive: KeepTaskAlive,
        complete: CompleteTask,
        stopping: asyncio.Event,
        clock: Clock,
    ) -> None:
        self._declare = declare
        self._look = look
        self._keep_alive = keep_alive
        self._complete = complete
        self._stopping = stopping
        self._clock = clock

    async def DeclareTask(  # noqa: N802 - the wire's name
        self, request: tasks_pb2.DeclareTaskRequest, _context: Context
    ) -> tasks_pb2.DeclareTaskResponse:
        """Declare."""
        task = await self._declare(admitted().caller, bounds.declaration(request))
        return tasks_pb2.DeclareTaskResponse(task=wire.task_message(task))

    async def GetTask(  # noqa: N802
        self, request: tasks_pb2.GetTaskRequest, _context: Context
    ) -> tasks_pb2.GetTaskResponse:
        """Look at one."""
        task, leases = await self._look.one(admitted().caller, bounds.task_id(request.task_id))
        return tasks_pb2.GetTaskResponse(task=wire.task_message(task, leases))

    async def ListTasks(  # noqa: N802
        self, request: tasks_pb2.ListTasksRequest, _context: Context
    ) -> tasks_pb2.ListTasksResponse:
        """Look at the caller's own."""
        states, page_size, page_token = bounds.listing(request)
        page = await self._look.page(
            admitted().caller, states=states, page_size=page_size, page_token=page_token
        )
        return tasks_pb2.ListTasksResponse(
            tasks=[wire.task_message(task) for task in page.tasks], next_page_token=page.next_token
        )

    async def Heartbeat(  # noqa: N802
        self, request: tasks_pb2.HeartbeatRequest, _context: Context
    ) -> tasks_pb2.HeartbeatResponse:
        """Take a sign of life."""
        due = await self._keep_alive.beat(admitted().caller, bounds.task_id(request.task_id))
        return tasks_pb2.HeartbeatResponse(heartbeat_due=wire.timestamp(due))

    async def AttachTask(  # noqa: N802
        self, request: tasks_pb2.AttachTaskRequest, _context: Context
    ) -> AsyncIterator[tasks_pb2.AttachTaskResponse]:
        """Attach: signs of life until the stream ends, and the task's events."""
        call, task_id = admitted(), bounds.task_id(request.task_id)
        items = self._keep_alive.attach(call.caller, task_id, call.verify_again)
        attached = False
        try:
            async with contextlib.aclosing(_until(self._stopping, items)) as living:
                async for message in self._messages(living):
                    attached = True
                    yield message
        finally:
            if attached and not self._stopping.is_set():
                self._keep_alive.detached(call.caller, task_id)

    async def _messages(
        self, items: AsyncIterator[tuple[TaskEvent | None, Task]]
    ) -> AsyncIterator[tasks_pb2.AttachTaskResponse]:
        first = True
        async for event, task in items:
            message = tasks_pb2.AttachTaskResponse(
                kind=(
                    wire.EVENT_KINDS[event.kind]
                    if event is not None
                    else tasks_pb2.AttachTaskResponse.KIND_ATTACHED
                    if first
                    else tasks_pb2.AttachTaskResponse.KIND_KEEPALIVE
                ),
                at=wire.timestamp(event.at if event is not None else self._clock.now()),
                task=wire.task_message(task),
                text=event.text if event is not None else "",
            )
            if event is not None and event.lease is not None:
                message.lease.CopyFrom(wire.lease_message(event.lease))
            if event is not None:
                message.text = event.text
            first = False
            yield message

    async def CompleteTask(  # noqa: N802
        self, request: tasks_pb2.CompleteTaskRequest, _context: Context
    ) -> tasks_pb2.CompleteTaskResponse:
        """Complete; answers when the backends refuse what the task held, or says that they do not yet."""
        caller = admitted().caller
        task_id, outcome, reason = bounds.completion(request)
        await self._complete(caller, task_id, outcome, reason)
        task, leases = await self._look.one(caller, task_id)
        return tasks_pb2.CompleteTaskResponse(task=wire.task_message(task, leases))


async def _until(stopping: asyncio.Event, items: AsyncGenerator[Item]) -> AsyncGenerator[Item]:
    """Pass `items` on until the broker stops.

    Raises:
        ShuttingDownError: the broker is stopping; the client attaches to another one, or again later.
    """
    stop = asyncio.ensure_future(stopping.wait())
    try:
        while True:
            step = asyncio.ensure_future(anext(items))
            try:
                await asyncio.wait({step, stop}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not step.done():
                    step.cancel()
                    await asyncio.wait({step})
            if step.cancelled():
                raise ShuttingDownError
            try:
                item = step.result()
            except StopAsyncIteration:
                return
            yield item
    finally:
        stop.cancel()
        await items.aclose()
