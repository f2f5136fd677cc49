"""Renew a lease: by the broker while its task lives, or at its owner's wish (step 4).

What always holds: no renewal goes beyond the role's maximum or the task's deadline.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta

from broker.domain.audit import AuditEvent, AuditKind
from broker.domain.changes import Append, Change, ExtendLease
from broker.domain.errors import LeaseNotLiveError, LeaseNotRenewableError, TaskNotActiveError
from broker.domain.identifiers import LeaseId
from broker.domain.lease import Lease, LeaseState
from broker.domain.task import TaskState
from broker.ports.issuing import CredentialIssuer
from broker.ports.policy import CatalogSource
from broker.ports.store import ConflictError, Store
from broker.ports.system import Clock
from broker.usecases.caller import Caller
from broker.usecases.ownership import own_lease
from broker.usecases.task_events import EventKind, TaskEvent, TaskEvents

logger = logging.getLogger(__name__)


class RenewLease:
    """See the module."""

    def __init__(  # noqa: PLR0913 - the ports of one path
        self,
        *,
        store: Store,
        catalogs: CatalogSource,
        issuer: CredentialIssuer,
        events: TaskEvents,
        clock: Clock,
        timeout: timedelta,
    ) -> None:
        self._store = store
        self._catalogs = catalogs
        self._issuer = issuer
        self._events = events
        self._clock = clock
        self._timeout = timeout

    async def for_owner(self, caller: Caller, lease_id: LeaseId, increment: timedelta | None) -> Lease:
        """Extend a lease of the caller's; return it with its new expiry.

        Raises:
            LeaseNotFoundError: not a lease of the caller's.
            TaskNotActiveError: its task is ending or has ended.
            LeaseNotLiveError: it is being revoked or is revoked.
            LeaseNotRenewableError: it cannot be extended, or its role is no longer in the catalog.
            UnavailableError: store or Vault.
        """
        lease, task = await own_lease(self._store, caller.peer, lease_id)
        if task.state is not TaskState.ACTIVE:
            raise TaskNotActiveError
        now = self._clock.now()
        event = AuditEvent(
            kind=AuditKind.LEASE_RENEWED,
            at=now,
            actor=str(caller.peer.spiffe_id),
            task_id=lease.task_id,
            lease_id=lease.lease_id,
            request_id=caller.request_id,
            facts={"role": lease.role, **caller.peer.as_facts()},
        )
        return await self._renew(lease, increment, [Append(event=event)], caller.patience(self._timeout))

    async def by_broker(self, lease: Lease) -> Lease:
        """Extend a lease by its role's TTL, as the broker does while the task lives.

        Raises: as `for_owner`, less what concerns the owner.
        """
        return await self._renew(lease, None, [], self._timeout)

    async def _renew(
        self, lease: Lease, increment: timedelta | None, also: list[Change], timeout: timedelta
    ) -> Lease:
        if lease.state is not LeaseState.LIVE or lease.vault_lease_id is None:
            raise LeaseNotLiveError
        role = self._catalogs.current().credential_roles.get(lease.role)
        now = self._clock.now()
        room = lease.max_expires_at - now
        if role is None or not lease.renewable or room <= timedelta():
            raise LeaseNotRenewableError
        wanted = min(increment or role.ttl, role.max_ttl, room)
        ttl = await self._issuer.renew(lease.vault_lease_id, wanted, timeout=timeout)
        expires_at = min(now + ttl, lease.max_expires_at)
        try:
            await self._store.commit([ExtendLease(lease_id=lease.lease_id, expires_at=expires_at), *also])
        except ConflictError as error:
            raise LeaseNotLiveError from error
        renewed = replace(lease, expires_at=expires_at)
        self._events.publish(lease.task_id, TaskEvent(kind=EventKind.LEASE_RENEWED, at=now, lease=renewed))
        return renewed
