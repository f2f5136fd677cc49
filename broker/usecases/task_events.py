"""What happens to tasks, told to whoever is attached to them.

In memory and best effort: the store is the truth, an event is a hint to look. A slow listener loses its oldest
events, never the last.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from broker.domain.identifiers import TaskId
from broker.domain.lease import Lease
from broker.domain.task import EndCause

_BACKLOG: Final = 256


class EventKind(StrEnum):
    """What happened."""

    LEASE_RENEWED = "lease-renewed"
    LEASE_REVOKED = "lease-revoked"
    TASK_ENDING = "task-ending"
    TASK_ENDED = "task-ended"
    WARNING = "warning"
    """Something was found, and the task goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent:
    """Something that happened to a task, or to one of its leases."""

    kind: EventKind
    at: datetime
    lease: Lease | None = None
    cause: EndCause | None = None
    """Of TASK_ENDING."""
    text: str = ""
    """Of WARNING: what was found, in words without an argument's value."""


class TaskEvents:
    """Hands events to the attached streams of this process."""

    def __init__(self) -> None:
        self._listeners: defaultdict[TaskId, set[asyncio.Queue[TaskEvent | None]]] = defaultdict(set)
        self.heard: Callable[[TaskEvent], None] = lambda _event: None
        """Is told of every event, of whatever task; set by the wiring."""

    @contextmanager
    def listening(self, task_id: TaskId) -> Iterator[asyncio.Queue[TaskEvent | None]]:
        """Yield a queue that receives the task's events while the block lasts, and None from `wake`."""
        queue: asyncio.Queue[TaskEvent | None] = asyncio.Queue(_BACKLOG)
        self._listeners[task_id].add(queue)
        try:
            yield queue
        finally:
            listeners = self._listeners[task_id]
            listeners.discard(queue)
            if not listeners:
                del self._listeners[task_id]

    def is_heard(self, task_id: TaskId) -> bool:
        """Whether a stream is attached here."""
        return task_id in self._listeners

    def publish(self, task_id: TaskId, event: TaskEvent) -> None:
        """Tell every listener; never waits."""
        self.heard(event)
        self.pass_on(task_id, event)

    def pass_on(self, task_id: TaskId, event: TaskEvent) -> None:
        """Tell every listener of what another replica did; never waits."""
        for queue in self._listeners.get(task_id, ()):
            _put(queue, event)

    def wake(self) -> None:
        """Have every listener ask again whether it is still welcome; never waits."""
        for queues in self._listeners.values():
            for queue in queues:
                _put(queue, None)


def _put(queue: asyncio.Queue[TaskEvent | None], event: TaskEvent | None) -> None:
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(event)
