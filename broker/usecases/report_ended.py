"""End what an instance had that is gone: reported by whoever launched it.

    I1  the report is durable, with who reported it
    I2  every active task of the instance is ending, durably (E1)
    I3  what they hold is revoked (E2, E3), tried once; what is left is the sweep's

A crash after I1 leaves tasks that the dead man's switch ends: nobody gives a sign of life for them any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from broker.domain.audit import AuditEvent, AuditKind
from broker.domain.changes import Append
from broker.domain.errors import BrokerError
from broker.domain.identifiers import TaskId
from broker.domain.spiffe import SpiffeId
from broker.domain.task import EndCause, Task, TaskEnd, TaskState
from broker.ports.store import Store
from broker.ports.system import Clock
from broker.usecases.caller import OperatorCaller
from broker.usecases.end_task import EndTask
from broker.usecases.noticing import Notices
from broker.usecases.revoke_leases import RevokeLeases
from broker.usecases.task_work import instance_ended_event

PATIENCE: Final = timedelta(seconds=10)
_PAGE: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceEnded:
    """What came of a report by the time of the answer."""

    tasks_found: int
    unfinished_tasks: int


class ReportEnded:
    """See the module."""

    def __init__(  # noqa: PLR0913 - the ports of one path
        self,
        *,
        store: Store,
        end_task: EndTask,
        revoke_leases: RevokeLeases,
        clock: Clock,
        notice: Notices,
        forget: Callable[[SpiffeId], None] = lambda _instance: None,
    ) -> None:
        self._store = store
        self._end_task = end_task
        self._revoke_leases = revoke_leases
        self._clock = clock
        self._notice = notice
        self._forget = forget
        self._background: set[asyncio.Task[bool]] = set()

    async def __call__(self, caller: OperatorCaller, instance: SpiffeId) -> InstanceEnded:
        """End every active task of `instance`.

        Raises:
            StoreUnavailableError: some may still be active.
        """
        event = AuditEvent(
            kind=AuditKind.INSTANCE_ENDED,
            at=self._clock.now(),
            actor=str(caller.operator.spiffe_id),
            request_id=caller.request_id,
            facts={
                "instance": str(instance),
                "roles": sorted(role.value for role in caller.operator.roles),
                "svid_sha256": caller.operator.svid_sha256,
            },
        )
        await self._store.commit([Append(event=event)])  # I1
        self._forget(instance)
        work = []
        for task in await self._active(instance):
            end = TaskEnd(cause=EndCause.INSTANCE_GONE, at=self._clock.now())
            await self._end_task.begin(
                task.task_id,
                end,
                actor=str(caller.operator.spiffe_id),
                request_id=caller.request_id,
            )  # I2
            driving = asyncio.create_task(self._drive(task.task_id), name="report-ended")
            self._background.add(driving)
            driving.add_done_callback(self._background.discard)
            work.append(driving)
        # Its tasks are ending already: nobody waits for a backend because of what is noticed.
        gone = instance_ended_event(instance, event.at)
        await self._notice.quietly(gone, request_id=caller.request_id)
        if work:
            await asyncio.wait(work, timeout=caller.patience(PATIENCE).total_seconds() * 0.9)  # I3
        finished = sum(one.done() and one.result() for one in work)
        return InstanceEnded(tasks_found=len(work), unfinished_tasks=len(work) - finished)

    async def drain(self) -> None:
        """Wait for endings under way."""
        await asyncio.gather(*self._background, return_exceptions=True)

    async def _active(self, instance: SpiffeId) -> list[Task]:
        found: list[Task] = []
        token = ""
        while True:
            page = await self._store.tasks_of(
                instance, states={TaskState.ACTIVE}, page_size=_PAGE, page_token=token
            )
            found += page.tasks
            token = page.next_token
            if not token:
                return found

    async def _drive(self, task_id: TaskId) -> bool:
        try:
            task = await self._revoke_leases.drive(task_id)
        except BrokerError:
            return False  # the sweep goes on
        return task is not None and task.state is TaskState.ENDED
