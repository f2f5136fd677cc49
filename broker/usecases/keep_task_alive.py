"""Signs of life: a heartbeat, or a stream that is attached (step 4 of a credential's life)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from datetime import datetime, timedelta

from broker.domain.changes import DetachTask, TouchTask
from broker.domain.errors import BrokerError, TaskNotActiveError
from broker.domain.identifiers import TaskId
from broker.domain.task import STREAM_GRACE, SignOfLife, Task, TaskState
from broker.ports.store import ConflictError, Store
from broker.ports.system import Clock
from broker.usecases.caller import Caller
from broker.usecases.ownership import own_task
from broker.usecases.task_events import EventKind, TaskEvent, TaskEvents

logger = logging.getLogger(__name__)


class KeepTaskAlive:
    """See the module."""

    def __init__(self, *, store: Store, events: TaskEvents, clock: Clock) -> None:
        self._store = store
        self._events = events
        self._clock = clock
        self._background: set[asyncio.Task[None]] = set()

    async def beat(self, caller: Caller, task_id: TaskId) -> datetime:
        """Take a sign of life; return when the next one is due.

        Raises:
            TaskNotFoundError: not a task of the caller's.
            TaskNotActiveError: the task is ending or has ended.
        """
        task = await own_task(self._store, caller.peer, task_id)
        return await self._touch(caller, task)

    def detached(self, caller: Caller, task_id: TaskId) -> None:
        """The stream of a task has closed, and not because this broker stops: unless there is another one here, the
        next sign of life is wanted sooner. Never waits; what comes of it is not needed to go on."""
        if not self._events.is_heard(task_id):
            work = asyncio.create_task(self._detach(caller, task_id), name="detach")
            self._background.add(work)
            work.add_done_callback(self._background.discard)

    async def drain(self) -> None:
        """Wait for what `detached` began."""
        await asyncio.gather(*self._background, return_exceptions=True)

    async def _detach(self, caller: Caller, task_id: TaskId) -> None:
        try:
            task = await own_task(self._store, caller.peer, task_id)
            due = self._clock.now() + task.heartbeat_interval * STREAM_GRACE
            await self._store.commit([DetachTask(task_id=task_id, heartbeat_due=due)])
        except (ConflictError, BrokerError):
            return  # it ends, or its heartbeat will be missing as well
        except Exception as error:  # noqa: BLE001 - nobody waits for this; its text may be anybody's
            logger.error("stream of task %s has closed: not recorded: %s", task_id, type(error).__name__)

    async def attach(
        self, caller: Caller, task_id: TaskId, still_welcome: Callable[[], None]
    ) -> AsyncGenerator[tuple[TaskEvent | None, Task]]:
        """Yield the task's events with the task as it is then; None for an event is a keep-alive.

        The first item is a keep-alive and says that the stream is attached. `still_welcome` is asked before each
        sign of life and raises when the caller's SVID has expired or is quarantined (rule R4): an attached stream
        keeps nothing alive that its owner could not call for.

        Raises:
            TaskNotFoundError: not a task of the caller's.
            TaskNotActiveError: the task is ending or has ended.
        """
        task = await own_task(self._store, caller.peer, task_id)
        with self._events.listening(task_id) as queue:
            await self._touch(caller, task)
            touch_at = self._clock.now() + task.heartbeat_interval
            yield None, task
            while True:
                event, woken = await self._next(queue, touch_at - self._clock.now())
                still_welcome()
                if woken:
                    continue
                task = await own_task(self._store, caller.peer, task_id)
                if task.state is TaskState.ACTIVE and self._clock.now() >= touch_at:
                    await self._touch_if_active(caller, task)
                    touch_at = self._clock.now() + task.heartbeat_interval
                if event is None and task.state is TaskState.ENDED:  # the event was lost
                    event = TaskEvent(kind=EventKind.TASK_ENDED, at=task.ended_at or self._clock.now())
                if event is None and task.state is not TaskState.ACTIVE:
                    touch_at = self._clock.now() + task.heartbeat_interval
                yield event, task
                if event is not None and event.kind is EventKind.TASK_ENDED:
                    return

    async def _touch(self, caller: Caller, task: Task) -> datetime:
        sign = SignOfLife.given(
            at=self._clock.now(),
            interval=task.heartbeat_interval,
            svid_expires_at=caller.peer.svid_expires_at,
        )
        change = TouchTask(task_id=task.task_id, heartbeat_due=sign.heartbeat_due, svid_due=sign.svid_due)
        try:
            await self._store.commit([change])
        except ConflictError as error:
            raise TaskNotActiveError from error
        return sign.heartbeat_due

    async def _touch_if_active(self, caller: Caller, task: Task) -> None:
        try:
            await self._touch(caller, task)
        except TaskNotActiveError:
            return  # the next event says so

    async def _next(
        self, queue: asyncio.Queue[TaskEvent | None], patience: timedelta
    ) -> tuple[TaskEvent | None, bool]:
        """The next event, or None when patience ran out; and whether it was only `TaskEvents.wake`."""
        try:
            event = await asyncio.wait_for(queue.get(), max(patience.total_seconds(), 0.0))
        except TimeoutError:
            return None, False
        return event, event is None
