"""Take part in what other replicas do: their audit records, as they come, are what this process did not do itself.

A task that another replica ends is told to whoever is attached here, and its secrets in memory are dropped; a quarantine
that another imposed is held here before the next call; the watch over an instance that did something elsewhere is made again. All
of it is a hint: who misses it finds the same in the store, at the next sign of life or the next round.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from broker.domain.audit import AuditEvent, AuditKind, AuditRecord
from broker.domain.identifiers import LeaseId, TaskId
from broker.domain.lease import LeaseState
from broker.domain.spiffe import InvalidSpiffeIdError, SpiffeId
from broker.domain.task import EndCause
from broker.ports.following import WORK, ChangeFeed
from broker.ports.store import Store
from broker.ports.system import Clock
from broker.usecases.acquire_credential import AcquireCredential
from broker.usecases.quarantine import QuarantineInstances
from broker.usecases.task_events import EventKind, TaskEvent, TaskEvents
from broker.usecases.task_grants import TaskGrants
from broker.usecases.watch_instances import WatchInstances

logger = logging.getLogger(__name__)

_OF_QUARANTINE: Final = frozenset({AuditKind.QUARANTINE_IMPOSED, AuditKind.QUARANTINE_RELEASED})


class FollowChanges:
    """See the module."""

    def __init__(  # noqa: PLR0913 - whoever has something in memory
        self,
        *,
        feed: ChangeFeed,
        store: Store,
        events: TaskEvents,
        grants: TaskGrants,
        acquire: AcquireCredential,
        quarantine: QuarantineInstances,
        clock: Clock,
        watches: WatchInstances | None = None,
    ) -> None:
        self._feed = feed
        self._store = store
        self._events = events
        self._grants = grants
        self._acquire = acquire
        self._quarantine = quarantine
        self._clock = clock
        self._watches = watches

    async def __call__(self) -> None:
        """Listen until cancelled.

        Raises:
            StoreUnavailableError: the store; called again, it goes on where it was.
        """
        async for news in self._feed.news():
            await self._hear(news.records)
            for task_id in news.extended:
                await self._tell_of_extended(task_id)

    async def _tell_of_extended(self, task_id: TaskId) -> None:
        if not self._events.is_heard(task_id):
            return
        for lease in await self._store.leases_of(task_id):
            if lease.state is LeaseState.LIVE:
                at = self._clock.now()
                self._events.pass_on(task_id, TaskEvent(kind=EventKind.LEASE_RENEWED, at=at, lease=lease))

    async def _hear(self, records: Sequence[AuditRecord]) -> None:
        if any(record.event.kind in _OF_QUARANTINE for record in records):
            await self._quarantine.follow()
        for record in records:
            event = record.event
            task_id = TaskId(event.task_id)
            if event.kind in WORK and self._watches is not None:
                _note(event, self._watches)
            if event.kind == AuditKind.TASK_ENDING:
                self._grants.forget(task_id)
                self._acquire.forget_task(task_id)
            if not self._events.is_heard(task_id):
                continue
            if event.kind == AuditKind.TASK_ENDING:
                cause = EndCause(str(event.facts.get("cause")))
                told = TaskEvent(kind=EventKind.TASK_ENDING, at=event.at, cause=cause)
            elif event.kind == AuditKind.TASK_ENDED:
                told = TaskEvent(kind=EventKind.TASK_ENDED, at=event.at)
            elif event.kind == AuditKind.LEASE_REVOKED:
                lease = await self._store.lease(LeaseId(event.lease_id))
                told = TaskEvent(kind=EventKind.LEASE_REVOKED, at=event.at, lease=lease)
            else:
                continue
            self._events.pass_on(task_id, told)


def _note(event: AuditEvent, watches: WatchInstances) -> None:
    """Whose watch has not seen it."""
    whose = event.facts.get("instance") or event.facts.get("subject") or event.actor
    with suppress(InvalidSpiffeIdError):
        watches.stale(SpiffeId.parse(str(whose)))
    if event.kind == AuditKind.TASK_ENDING:
        watches.stale_by_task(TaskId(event.task_id))  # whoever ended it
