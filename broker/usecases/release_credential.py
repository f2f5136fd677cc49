"""Give a credential back before its task ends."""

from __future__ import annotations

from contextlib import suppress

from broker.domain.audit import AuditEvent, AuditKind
from broker.domain.changes import Append
from broker.domain.changes import RevokeLease as RevokeLeaseChange
from broker.domain.identifiers import LeaseId
from broker.domain.lease import Lease, RevokeCause
from broker.ports.store import ConflictError, Store
from broker.ports.system import Clock
from broker.usecases.caller import Caller
from broker.usecases.ownership import own_lease
from broker.usecases.revoke_leases import RevokeLeases


class ReleaseCredential:
    """See the module."""

    def __init__(self, *, store: Store, revoke_leases: RevokeLeases, clock: Clock) -> None:
        self._store = store
        self._revoke_leases = revoke_leases
        self._clock = clock

    async def __call__(self, caller: Caller, lease_id: LeaseId) -> Lease:
        """Return the lease: revoked, or revoking while the backend is away. Twice is harmless.

        Raises:
            LeaseNotFoundError: not a lease of the caller's.
            StoreUnavailableError: nothing changed.
        """
        lease, _task = await own_lease(self._store, caller.peer, lease_id)
        now = self._clock.now()
        event = AuditEvent(
            kind=AuditKind.LEASE_REVOKING,
            at=now,
            actor=str(caller.peer.spiffe_id),
            task_id=lease.task_id,
            lease_id=lease_id,
            request_id=caller.request_id,
            facts={"role": lease.role, "cause": RevokeCause.RELEASED.value, **caller.peer.as_facts()},
        )
        change = RevokeLeaseChange(lease_id=lease_id, cause=RevokeCause.RELEASED, at=now)
        with suppress(ConflictError):  # being revoked, or final
            await self._store.commit([change, Append(event=event)])
        lease, _task = await own_lease(self._store, caller.peer, lease_id)
        if not lease.state.is_final:
            await self._revoke_leases.attempt(lease)
            lease, _task = await own_lease(self._store, caller.peer, lease_id)
        return lease
