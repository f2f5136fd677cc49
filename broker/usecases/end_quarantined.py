"""End what the quarantined still have (step Q3 of a quarantine; usecases.quarantine).

A round of the broker, and run by whoever imposes or releases a quarantine. What it works from is the store alone, so
it takes up what a crash left, and what another replica quarantined. First every active task is made ending, durably
(E1, which costs no backend anything), then what they hold is revoked, some at a time; what is left of that is the
sweep's (`WatchOverTasks.retry`).

What always holds: when `__call__` returns, no task is active whose owner was quarantined when it began; a backend that
is away delays no E1.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from broker.domain.errors import BrokerError
from broker.domain.identifiers import TaskId
from broker.domain.quarantine import QuarantineTarget
from broker.domain.spiffe import SpiffeId
from broker.domain.task import EndCause, Task, TaskEnd
from broker.ports.store import Store
from broker.ports.system import Clock
from broker.usecases.end_task import EndTask
from broker.usecases.revoke_leases import RevokeLeases

logger = logging.getLogger(__name__)

_BATCH: Final = 100
_DRIVEN_AT_ONCE: Final = 8
_MOST_DRIVEN: Final = 1000
"""Tasks that are driven on at once after their E1; the sweep takes the others, at its own pace."""


class EndQuarantined:
    """See the module."""

    def __init__(
        self, *, store: Store, end_task: EndTask, revoke_leases: RevokeLeases, clock: Clock, actor: SpiffeId
    ) -> None:
        self._store = store
        self._end_task = end_task
        self._revoke_leases = revoke_leases
        self._clock = clock
        self._actor = actor
        self._one_at_a_time = asyncio.Lock()
        self._driving: set[TaskId] = set()
        self._at_once = asyncio.Semaphore(_DRIVEN_AT_ONCE)
        self._background: set[asyncio.Task[None]] = set()

    async def __call__(self) -> int:
        """Make every active task of the quarantined ending; return how many. Revoking goes on in the background.

        Raises:
            StoreUnavailableError: some tasks may still be active.
        """
        ended = 0
        async with self._one_at_a_time:
            while tasks := await self._store.quarantined_tasks(_BATCH):
                reasons = {one.target: one.reason for one in await self._store.quarantines()}
                ended += sum(await asyncio.gather(*(self._begin(task, reasons) for task in tasks)))
        if ended:
            logger.warning("%d tasks of quarantined instances are ending", ended)
        return ended

    async def settled(self) -> None:
        """Wait until what is driven on now has been tried once."""
        await asyncio.gather(*self._background, return_exceptions=True)

    async def _begin(self, task: Task, reasons: dict[QuarantineTarget, str]) -> bool:
        reason = next((reasons[one] for one in QuarantineTarget.all_of(task.owner) if one in reasons), "")
        end = TaskEnd(cause=EndCause.QUARANTINED, at=self._clock.now(), reason=reason)
        begun = await self._end_task.begin(task.task_id, end, actor=str(self._actor))
        if begun and len(self._driving) < _MOST_DRIVEN:
            self._driving.add(task.task_id)
            work = asyncio.create_task(self._drive(task.task_id), name="end-quarantined")
            self._background.add(work)
            work.add_done_callback(self._background.discard)
        return begun

    async def _drive(self, task_id: TaskId) -> None:
        try:
            async with self._at_once:
                await self._revoke_leases.drive(task_id)
        except BrokerError as error:
            logger.error("task %s is left to the sweep: %s", task_id, error.reason)
        finally:
            self._driving.discard(task_id)
