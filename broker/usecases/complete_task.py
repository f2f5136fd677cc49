"""Complete a task: its own agent says that it is done."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

from broker.domain.errors import TaskNotFoundError
from broker.domain.identifiers import TaskId
from broker.domain.task import EndCause, Outcome, Task, TaskEnd
from broker.ports.store import Store
from broker.ports.system import Clock
from broker.usecases.caller import Caller
from broker.usecases.end_task import EndTask
from broker.usecases.ownership import own_task

PATIENCE: Final = timedelta(seconds=20)
"""How long an answer waits for the last refusal; after that it says `ending`, and the work goes on."""


class CompleteTask:
    """See the module."""

    def __init__(self, *, store: Store, end_task: EndTask, clock: Clock) -> None:
        self._store = store
        self._end_task = end_task
        self._clock = clock
        self._background: set[asyncio.Task[Task | None]] = set()

    async def __call__(self, caller: Caller, task_id: TaskId, outcome: Outcome, reason: str) -> Task:
        """Return the task: ended, or ending while a backend is away or the caller's patience is short.

        Raises:
            TaskNotFoundError: not a task of the caller's.
            StoreUnavailableError: nothing changed.
        """
        await own_task(self._store, caller.peer, task_id)
        end = TaskEnd(cause=EndCause.COMPLETED, at=self._clock.now(), outcome=outcome, reason=reason)
        work = asyncio.create_task(
            self._end_task(
                task_id,
                end,
                actor=str(caller.peer.spiffe_id),
                request_id=caller.request_id,
                verified=caller.peer.as_facts(),
            ),
            name="complete",
        )
        self._background.add(work)
        work.add_done_callback(self._background.discard)
        # Leave the answer itself time to travel.
        patience = caller.patience(PATIENCE) * 0.9
        await asyncio.wait({work}, timeout=patience.total_seconds())
        task = work.result() if work.done() else await self._store.task(task_id)
        if task is None:
            raise TaskNotFoundError
        return task

    async def drain(self) -> None:
        """Wait for endings under way."""
        await asyncio.gather(*self._background, return_exceptions=True)
