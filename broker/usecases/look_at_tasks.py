"""Look at tasks and their leases: the caller's own, and no other (rule R7)."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from broker.domain.identifiers import TaskId
from broker.domain.lease import Lease
from broker.domain.task import Task, TaskState
from broker.ports.store import Store, TaskPage
from broker.usecases.caller import Caller
from broker.usecases.ownership import own_task


class LookAtTasks:
    """See the module."""

    def __init__(self, *, store: Store) -> None:
        self._store = store

    async def one(self, caller: Caller, task_id: TaskId) -> tuple[Task, tuple[Lease, ...]]:
        """Return a task and its leases.

        Raises:
            TaskNotFoundError: not a task of the caller's.
        """
        task = await own_task(self._store, caller.peer, task_id)
        return task, await self._store.leases_of(task_id)

    async def page(
        self, caller: Caller, *, states: AbstractSet[TaskState], page_size: int, page_token: str
    ) -> TaskPage:
        """Return one page of the caller's tasks, newest first.

        Raises:
            FieldInvalidError: the page token is not one of ours, or another caller's.
        """
        return await self._store.tasks_of(
            caller.peer.spiffe_id, states=states, page_size=page_size, page_token=page_token
        )
