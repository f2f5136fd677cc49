"""What the broker does by itself, again and again (steps 4 to 6): each method is one round.

    end_lapsed      the dead man's switch: no sign of life, or the deadline passed
    renew_due       leases of living tasks that are half run out
    revoke_expired  live leases whose time ran out: checked and recorded, not forgotten
    reclaim         intents that never became leases: revoked as in doubt
    retry           revocations that failed, and tasks that could not be finished

No round raises for one bad item; a round that cannot reach the store raises StoreUnavailableError to its runner.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from datetime import timedelta
from typing import Final

from broker.domain.audit import AuditEvent, AuditKind
from broker.domain.changes import Append
from broker.domain.changes import RevokeLease as RevokeLeaseChange
from broker.domain.errors import BrokerError, StoreUnavailableError
from broker.domain.identifiers import TaskId
from broker.domain.lease import Lease, RevokeCause
from broker.domain.spiffe import SpiffeId
from broker.domain.task import TaskEnd
from broker.ports.policy import CatalogSource
from broker.ports.store import ConflictError, Store
from broker.ports.system import Clock
from broker.usecases.end_task import EndTask
from broker.usecases.renew_lease import RenewLease
from broker.usecases.revoke_leases import RevokeLeases

logger = logging.getLogger(__name__)

_BATCH: Final = 200
_AT_ONCE: Final = 4
_RENEW_FROM: Final = 0.6
_RENEW_UNTIL: Final = 0.5
"""What is left of its TTL when a lease is renewed."""

_ROUND_PATIENCE: Final = 1.0
"""Seconds of the process's own time."""


class WatchOverTasks:
    """See the module."""

    def __init__(  # noqa: PLR0913 - the ports of several rounds
        self,
        *,
        store: Store,
        catalogs: CatalogSource,
        end_task: EndTask,
        renew_lease: RenewLease,
        revoke_leases: RevokeLeases,
        clock: Clock,
        actor: SpiffeId,
    ) -> None:
        self._store = store
        self._catalogs = catalogs
        self._end_task = end_task
        self._renew_lease = renew_lease
        self._revoke_leases = revoke_leases
        self._clock = clock
        self._actor = actor
        self._finishing: dict[TaskId, asyncio.Task[None]] = {}
        self._finish_at_once = asyncio.Semaphore(_AT_ONCE)

    async def end_lapsed(self) -> int:
        """End active tasks whose deadline or sign of life is overdue; return how many."""
        now = self._clock.now()
        ended = 0
        for task in await self._store.take_lapsed_tasks(now, _BATCH):
            cause = task.lapsed(now)
            if cause is None:
                continue
            logger.warning("task %s lapsed: %s", task.task_id, cause.value)
            if await self._end_task.begin(task.task_id, TaskEnd(cause=cause, at=now), actor=str(self._actor)):
                ended += 1
        return ended

    async def renew_due(self) -> int:
        """Renew leases of which half their TTL is left, or up to a tenth more; return how many.

        Each lease has a point of its own in there, so that those that were issued together are not renewed together.
        """
        roles = self._catalogs.current().credential_roles
        longest = max((role.ttl for role in roles.values()), default=timedelta())
        now = self._clock.now()
        due = [
            lease
            for lease in await self._store.take_leases_due_for_renewal(now + longest * _RENEW_FROM, _BATCH)
            if lease.role in roles
            and lease.expires_at is not None
            and lease.expires_at - now <= roles[lease.role].ttl * _renew_at(lease)
            and lease.expires_at < lease.max_expires_at
        ]
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def renew(lease: Lease) -> bool:
            async with at_once:
                try:
                    await self._renew_lease.by_broker(lease)
                except StoreUnavailableError:
                    raise
                except BrokerError as error:
                    logger.warning("lease %s is not renewed: %s", lease.lease_id, error.reason)
                    return False
                return True

        return sum(await asyncio.gather(*(renew(lease) for lease in due)))

    async def revoke_expired(self) -> int:
        """Move live leases whose time ran out to revoking; return how many."""
        now = self._clock.now()
        return await self._revoke(await self._store.take_expired_leases(now, _BATCH), RevokeCause.EXPIRED)

    async def reclaim(self) -> int:
        """Move intents that never became leases, and that nobody is at work on, to revoking, as in doubt; return how many."""
        stale = await self._store.take_intended_leases(
            self._clock.now(), _BATCH, besides=self._revoke_leases.being_made()
        )
        return await self._revoke(stale, RevokeCause.IN_DOUBT)

    async def retry(self) -> int:
        """Try again what is due: leases to revoke, then tasks to finish; return how many leases were revoked.

        Waits only so long: what a backend that does not answer holds up goes on by itself, and the next round begins
        with what nobody works on yet.
        """
        due = await self._store.take_leases_to_revoke(
            self._clock.now(), _BATCH, besides=self._revoke_leases.under_way
        )
        begun = [self._revoke_leases.begin(lease) for lease in due]
        revoked = 0
        if begun:
            done, _ = await asyncio.wait(begun, timeout=_ROUND_PATIENCE)
            revoked = sum(one.result() for one in done)
        for task in await self._store.take_ending_tasks(_BATCH):
            if task.task_id not in self._finishing:
                self._finishing[task.task_id] = asyncio.create_task(self._finish(task.task_id))
        if self._finishing:
            await asyncio.wait(self._finishing.values(), timeout=_ROUND_PATIENCE)
        return revoked

    async def _finish(self, task_id: TaskId) -> None:
        try:
            async with self._finish_at_once:
                await self._revoke_leases.finish(task_id)
        except BrokerError as error:
            logger.warning("task %s is not finished: %s", task_id, error.reason)
        finally:
            del self._finishing[task_id]

    async def _revoke(self, leases: tuple[Lease, ...], cause: RevokeCause) -> int:
        moved = 0
        now = self._clock.now()
        for lease in leases:
            logger.warning("lease %s is to be revoked: %s", lease.lease_id, cause.value)
            event = AuditEvent(
                kind=AuditKind.LEASE_REVOKING,
                at=now,
                actor=str(self._actor),
                task_id=lease.task_id,
                lease_id=lease.lease_id,
                facts={"role": lease.role, "cause": cause.value},
            )
            try:
                await self._store.commit(
                    [RevokeLeaseChange(lease_id=lease.lease_id, cause=cause, at=now), Append(event=event)]
                )
            except ConflictError:
                continue  # it moved on by itself
            moved += 1
        return moved


def _renew_at(lease: Lease) -> float:
    """The same for a lease each time, and spread over all of them."""
    place = zlib.crc32(lease.lease_id.encode()) / 0xFFFFFFFF
    return _RENEW_UNTIL + (_RENEW_FROM - _RENEW_UNTIL) * place
