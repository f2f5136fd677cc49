"""End a task (step 5 of a credential's life), for whatever cause.

    E1  the task is ending and its leases are revoking, with the audit record, durable
    E2  everything it holds is revoked, checked and recorded (usecases.revoke_leases)
    E3  the task's tokens are revoked, and the task has ended

Ending twice is harmless: the first cause and outcome stay, and what is left to revoke is tried again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType

from broker.domain.audit import AuditEvent, AuditKind
from broker.domain.changes import Append, Change
from broker.domain.changes import EndTask as EndTaskChange
from broker.domain.errors import BrokerError
from broker.domain.identifiers import TaskId
from broker.domain.task import EndCause, Task, TaskEnd
from broker.ports.store import ConflictError, Store
from broker.ports.system import Steps
from broker.usecases.acquire_credential import AcquireCredential
from broker.usecases.noticing import NothingNoticed, Notices
from broker.usecases.revoke_leases import RevokeLeases
from broker.usecases.task_events import EventKind, TaskEvent, TaskEvents
from broker.usecases.task_grants import TaskGrants
from broker.usecases.task_work import ended_event

logger = logging.getLogger(__name__)


class EndTask:
    """See the module."""

    def __init__(  # noqa: PLR0913 - the ports of one path
        self,
        *,
        store: Store,
        grants: TaskGrants,
        acquire: AcquireCredential,
        revoke_leases: RevokeLeases,
        events: TaskEvents,
        steps: Steps,
    ) -> None:
        self._store = store
        self._grants = grants
        self._acquire = acquire
        acquire.end_task = self
        self._revoke_leases = revoke_leases
        self._events = events
        self._steps = steps
        self.notice: Notices = NothingNoticed()
        """Sees that tasks end; set by the wiring, as it needs what answers findings, which needs this."""
        self.learned: Callable[[TaskId], None] = lambda _task_id: None
        """Is told of tasks that were completed; set by the wiring."""

    async def begin(
        self,
        task_id: TaskId,
        end: TaskEnd,
        *,
        actor: str,
        request_id: str = "",
        verified: Mapping[str, object] = MappingProxyType({}),
    ) -> bool:
        """E1. Returns False when the task was ending or had ended before.

        Args:
            task_id: which.
            end: why.
            actor: whose doing it is.
            request_id: the call in which they did it.
            verified: for the audit record: how they were verified.

        Raises:
            StoreUnavailableError: not durable; the task goes on as it was.
        """
        try:
            await self._store.commit(ending(task_id, end, actor, request_id, verified))
        except ConflictError:
            return False
        await self.begun(task_id, end)
        return True

    async def begun(self, task_id: TaskId, end: TaskEnd) -> None:
        """What follows from E1 in this process, for whoever committed `ending` together with something else."""
        self._steps.reached("end.durable")
        self._grants.forget(task_id)
        self._acquire.forget_task(task_id)
        self._events.publish(task_id, TaskEvent(kind=EventKind.TASK_ENDING, at=end.at, cause=end.cause))
        if end.cause is EndCause.COMPLETED:
            self.learned(task_id)
        with suppress(BrokerError):  # a round looks at it again
            task = await self._store.task(task_id)
            if task is not None:
                await self.notice.quietly(ended_event(task))

    async def __call__(
        self,
        task_id: TaskId,
        end: TaskEnd,
        *,
        actor: str,
        request_id: str = "",
        verified: Mapping[str, object] = MappingProxyType({}),
    ) -> Task | None:
        """E1 to E3, tried once. Returns the task as it is then: ended, or ending while a backend is away.

        Raises:
            StoreUnavailableError: the store.
        """
        await self.begin(task_id, end, actor=actor, request_id=request_id, verified=verified)
        return await self._revoke_leases.drive(task_id)


def ending(
    task_id: TaskId,
    end: TaskEnd,
    actor: str,
    request_id: str = "",
    verified: Mapping[str, object] = MappingProxyType({}),
) -> tuple[Change, ...]:
    """E1 and its audit record: what is committed."""
    event = AuditEvent(
        kind=AuditKind.TASK_ENDING,
        at=end.at,
        actor=actor,
        task_id=task_id,
        request_id=request_id,
        facts={
            "cause": end.cause.value,
            "outcome": end.outcome.value if end.outcome else "",
            "reason": end.reason,
            **verified,
        },
    )
    return EndTaskChange(task_id=task_id, end=end), Append(event=event)
