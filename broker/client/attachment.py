"""Keeps a task alive and hears what happens to it, in the background.

An attached stream is the sign of life. When it breaks, or nothing comes over it for longer than the broker's own
keepalives would take, a heartbeat goes out and the stream is opened again, with backoff. With a newer SVID the stream
moves to the new channel at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from broker.api.v1 import credentials_pb2, tasks_pb2
from broker.client.connection import Connection, StreamEnd
from broker.client.credential import LeasedCredential
from broker.client.errors import BrokerError, Denied, NotFound, TaskEnded

logger = logging.getLogger(__name__)

_Kind = tasks_pb2.AttachTaskResponse.Kind
_BACKLOG: Final = 256
_SILENT_INTERVALS: Final = 1.5
"""The broker says something once a heartbeat interval; it ends a task after several."""
_LEAST_SILENCE: Final = timedelta(seconds=1)
_LOOK_TIMEOUT: Final = timedelta(seconds=10)
_QUARANTINED: Final = "INSTANCE_QUARANTINED"
_NOTHING_MORE: Final = frozenset({_QUARANTINED, "AGENT_CLASS_UNKNOWN"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent:
    """Something that happened to a task, or to one of its credentials."""

    kind: str
    """LEASE_RENEWED, LEASE_REVOKED, WARNING, TASK_ENDING or TASK_ENDED; others may come."""
    at: datetime
    lease_id: str | None
    text: str = ""
    """Of WARNING: what was found about the task, in words."""


class Attachment:
    """See the module. `on_end` is called when the task is found ending or ended."""

    def __init__(self, connection: Connection, message: tasks_pb2.Task, on_end: Callable[[], None]) -> None:
        self.message = message
        self.held: dict[str, LeasedCredential] = {}
        self._connection = connection
        self._on_end = on_end
        self._over = False
        self._alive: asyncio.Task[None] | None = None
        self._listeners: set[asyncio.Queue[TaskEvent | None]] = set()
        self._attached_before = False
        self._looks: set[asyncio.Task[None]] = set()

    @property
    def state(self) -> str:
        """ACTIVE, ENDING or ENDED, as last heard."""
        return tasks_pb2.TaskState.Name(self.message.state).removeprefix("TASK_STATE_")

    @property
    def end_cause(self) -> str:
        """Why the task ended; empty while it lives, or not known."""
        name = tasks_pb2.TaskEndCause.Name(self.message.end_cause).removeprefix("TASK_END_CAUSE_")
        return "" if name == "UNSPECIFIED" else name

    @property
    def hold(self) -> str:
        """Why the task gets nothing new for now: APPROVAL or FROZEN; empty when it is not on hold, as last heard."""
        name = tasks_pb2.TaskHold.Name(self.message.hold).removeprefix("TASK_HOLD_")
        return "" if name == "UNSPECIFIED" else name

    def start(self) -> None:
        """Begin to keep the task alive."""
        self._alive = asyncio.create_task(self._keep_alive(), name=f"keep-{self.message.task_id}")

    async def stop(self) -> None:
        """Stop keeping it alive; whoever listens hears no more."""
        works = [work for work in (self._alive, *self._looks) if work is not None]
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)
        for listener in self._listeners:
            _put(listener, None)

    def events(self) -> AsyncIterator[TaskEvent]:
        """What happens from now on."""
        queue: asyncio.Queue[TaskEvent | None] = asyncio.Queue(_BACKLOG)
        self._listeners.add(queue)
        if self._alive is None or self._alive.done():
            _put(queue, None)
        return self._listen(queue)

    async def _listen(self, queue: asyncio.Queue[TaskEvent | None]) -> AsyncIterator[TaskEvent]:
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self._listeners.discard(queue)

    def heard(self, message: tasks_pb2.Task) -> None:
        """Take over what the broker says of the task."""
        self.message = message
        for lease in message.leases:
            self.heard_of(lease)
        if message.state == tasks_pb2.TASK_STATE_ENDED:
            for credential in self.held.values():
                credential.revoked = True

    def heard_of(self, lease: credentials_pb2.Lease) -> None:
        """Take over what the broker says of a lease."""
        credential = self.held.get(lease.lease_id)
        if credential is None:
            return
        credential._heard(lease)  # noqa: SLF001 - its other half
        if credential.revoked:
            del self.held[lease.lease_id]

    async def _keep_alive(self) -> None:
        interval = self.message.heartbeat_interval.ToTimedelta().total_seconds()
        silence = max(timedelta(seconds=interval * _SILENT_INTERVALS), _LEAST_SILENCE)
        longest = max(interval / 3, 0.2)
        pause = first = min(0.1, longest)
        request = tasks_pb2.AttachTaskRequest(task_id=self.message.task_id)
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                how = await self._connection.follow(
                    lambda line: line.attach, request, self._take, silence=silence
                )
                if how is StreamEnd.MOVED:
                    continue
                logger.info("the stream of task %s ended (%s)", self.message.task_id, how.name.lower())
            except BrokerError as error:
                if self._is_the_end(error):
                    return
                logger.info("detached from task %s: %s", self.message.task_id, error)
            if self._over:
                return
            if loop.time() - began > interval:
                pause = first  # it held for a while
            await self._beat(within=timedelta(seconds=longest))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            pause = min(pause * 2, longest)

    async def _beat(self, *, within: timedelta) -> None:
        request = tasks_pb2.HeartbeatRequest(task_id=self.message.task_id)
        try:
            await self._connection.call(lambda line: line.heartbeat, request, within=within)
        except BrokerError as error:
            if not self._is_the_end(error):
                logger.warning(
                    "no sign of life of task %s reaches the broker: %s", self.message.task_id, error
                )

    def _is_the_end(self, error: BrokerError) -> bool:
        """Whether the answer means that the task is over, or that nothing more is taken from this instance."""
        over = isinstance(error, TaskEnded | NotFound) or (
            isinstance(error, Denied) and error.reason in _NOTHING_MORE
        )
        if over:
            logger.info("task %s is over: %s", self.message.task_id, error)
            if error.reason == _QUARANTINED:  # nobody tells more: looking at the task is refused as well
                self.message.end_cause = tasks_pb2.TASK_END_CAUSE_QUARANTINED
            self._end()
        return over

    def _take(self, event: tasks_pb2.AttachTaskResponse) -> None:
        if event.HasField("task"):
            self.heard(event.task)
        if event.HasField("lease"):
            self.heard_of(event.lease)
        if event.kind == _Kind.KIND_ATTACHED:
            if self._attached_before:
                self._look_again()
            self._attached_before = True
        elif event.kind not in {_Kind.KIND_UNSPECIFIED, _Kind.KIND_KEEPALIVE}:
            self._tell(event)
        if self.message.state in {tasks_pb2.TASK_STATE_ENDING, tasks_pb2.TASK_STATE_ENDED} or event.kind in {
            _Kind.KIND_TASK_ENDING,
            _Kind.KIND_TASK_ENDED,
        }:
            self._end(over=event.kind == _Kind.KIND_TASK_ENDED)

    def _tell(self, event: tasks_pb2.AttachTaskResponse) -> None:
        try:
            kind = _Kind.Name(event.kind).removeprefix("KIND_")
        except ValueError:
            return  # of a newer broker: ignored, as the wire says
        told = TaskEvent(
            kind=kind,
            at=event.at.ToDatetime(tzinfo=UTC),
            lease_id=event.lease.lease_id or None,
            text=event.text,
        )
        for listener in self._listeners:
            _put(listener, told)
            if event.kind == _Kind.KIND_TASK_ENDED:
                _put(listener, None)

    def _look_again(self) -> None:
        """After a gap: what happened to the leases meanwhile was told to nobody."""

        async def look() -> None:
            request = tasks_pb2.GetTaskRequest(task_id=self.message.task_id)
            try:
                answer = await self._connection.call(lambda line: line.get, request, within=_LOOK_TIMEOUT)
            except BrokerError as error:
                logger.info("could not look at task %s: %s", self.message.task_id, error)
            else:
                self.heard(answer.task)

        work = asyncio.create_task(look())
        self._looks.add(work)
        work.add_done_callback(self._looks.discard)

    def _end(self, *, over: bool = True) -> None:
        """The task is ending. Not `over`: the stream goes on until it has ended, for what it tells of leases."""
        self._over = self._over or over
        self._on_end()


def _put(queue: asyncio.Queue[TaskEvent | None], event: TaskEvent | None) -> None:
    """Put without waiting; a slow listener loses its oldest."""
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(event)
