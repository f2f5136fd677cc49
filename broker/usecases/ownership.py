"""Finding a task or a lease that belongs to the caller.

Rule R7: what belongs to somebody else is answered in the same words as what does not exist.
"""

from __future__ import annotations

from datetime import datetime

from broker.domain.errors import (
    LeaseNotFoundError,
    TaskFrozenError,
    TaskNotActiveError,
    TaskNotFoundError,
    TaskOnHoldError,
)
from broker.domain.findings import Hold
from broker.domain.identifiers import LeaseId, TaskId
from broker.domain.lease import Lease
from broker.domain.peer import VerifiedPeer
from broker.domain.spiffe import SpiffeId
from broker.domain.task import Task, TaskState
from broker.ports.store import ActionFacts, Store
from broker.usecases.ruling import MOST_DENIED


async def own_task(store: Store, peer: VerifiedPeer, task_id: TaskId) -> Task:
    """Return the caller's task.

    Raises:
        TaskNotFoundError: no such task, or not the caller's.
    """
    task = await store.task(task_id)
    if task is None or task.owner != peer.spiffe_id:
        raise TaskNotFoundError
    return task


async def own_lease(store: Store, peer: VerifiedPeer, lease_id: LeaseId) -> tuple[Lease, Task]:
    """Return the caller's lease and its task.

    Raises:
        LeaseNotFoundError: no such lease, or not the caller's.
    """
    lease = await store.lease(lease_id)
    if lease is None:
        raise LeaseNotFoundError
    task = await store.task(lease.task_id)
    if task is None or task.owner != peer.spiffe_id:
        raise LeaseNotFoundError
    return lease, task


async def own_active_task(
    store: Store, owner: SpiffeId, task_id: TaskId, now: datetime, *, key: str | None = None
) -> tuple[Task, ActionFacts]:
    """Return the active task of `owner`, who calls or is asked for, and what a decision about it needs; `key` as of `Store.action_facts`.

    Raises:
        TaskNotFoundError: no such task, or not the owner's.
        TaskNotActiveError: it is ending or has ended.
        TaskOnHoldError: because of a finding it gets nothing new.
    """
    facts = await store.action_facts(task_id, now, MOST_DENIED, key=key)
    task = facts.task
    if task is None or task.owner != owner:
        raise TaskNotFoundError
    demand_free(task)
    return task, facts


def demand_free(task: Task) -> None:
    """See that a task may get something new.

    Raises:
        TaskNotActiveError: it is ending or has ended.
        TaskOnHoldError: because of a finding it gets nothing new.
    """
    if task.state is not TaskState.ACTIVE:
        raise TaskNotActiveError
    if task.hold is not None:
        raise _on_hold(task.hold)


async def on_hold(store: Store, task_id: TaskId) -> TaskOnHoldError:
    """What a caller is told whose task was held since it was looked at.

    Raises:
        StoreUnavailableError: it cannot be said which hold it is.
    """
    task = await store.task(task_id)
    return _on_hold(None if task is None else task.hold)


def _on_hold(hold: Hold | None) -> TaskOnHoldError:
    return TaskFrozenError() if hold is Hold.FROZEN else TaskOnHoldError()
