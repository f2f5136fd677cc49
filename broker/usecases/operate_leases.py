"""What operators do about leases: look at everybody's, and revoke one."""

from __future__ import annotations

from contextlib import suppress

from broker.domain.audit import AuditEvent, AuditKind
from broker.domain.changes import Append
from broker.domain.changes import RevokeLease as RevokeLeaseChange
from broker.domain.errors import LeaseNotFoundError
from broker.domain.identifiers import LeaseId
from broker.domain.lease import Lease, RevokeCause
from broker.ports.store import ConflictError, LeaseFilter, LeasePage, OwnedLease, Store
from broker.ports.system import Clock
from broker.usecases.caller import OperatorCaller
from broker.usecases.revoke_leases import RevokeLeases


class OperateLeases:
    """See the module. Everything is in the audit trail before it is answered."""

    def __init__(self, *, store: Store, revoke_leases: RevokeLeases, clock: Clock) -> None:
        self._store = store
        self._revoke_leases = revoke_leases
        self._clock = clock

    async def page(
        self, caller: OperatorCaller, wanted: LeaseFilter, *, page_size: int, page_token: str
    ) -> LeasePage:
        """One page of everybody's leases.

        Raises:
            FieldInvalidError: the page token is not one of ours.
        """
        page = await self._store.lease_page(wanted, page_size=page_size, page_token=page_token)
        await self._looked(caller, task_id=wanted.task_id, owner=wanted.owner)
        return page

    async def one(self, caller: OperatorCaller, lease_id: LeaseId) -> OwnedLease:
        """One lease.

        Raises:
            LeaseNotFoundError: there is none.
        """
        found = await self._find(lease_id)
        await self._looked(caller, task_id=found.lease.task_id, lease_id=lease_id)
        return found

    async def revoke(self, caller: OperatorCaller, lease_id: LeaseId, reason: str) -> OwnedLease:
        """Return the lease: revoked, or revoking while the backend is away. Twice is harmless.

        Raises:
            LeaseNotFoundError: there is none.
            StoreUnavailableError: nothing changed.
        """
        lease = (await self._find(lease_id)).lease
        now = self._clock.now()
        event = self._event(
            AuditKind.LEASE_REVOKING, caller, lease, {"cause": RevokeCause.OPERATOR.value, "reason": reason}
        )
        change = RevokeLeaseChange(lease_id=lease_id, cause=RevokeCause.OPERATOR, at=now)
        with suppress(ConflictError):  # being revoked, or final
            await self._store.commit([change, Append(event=event)])
        found = await self._find(lease_id)
        if not found.lease.state.is_final:
            await self._revoke_leases.attempt(found.lease)
            found = await self._find(lease_id)
        return found

    async def _find(self, lease_id: LeaseId) -> OwnedLease:
        lease = await self._store.lease(lease_id)
        task = None if lease is None else await self._store.task(lease.task_id)
        if lease is None or task is None:
            raise LeaseNotFoundError
        return OwnedLease(lease=lease, owner=task.owner)

    async def _looked(
        self, caller: OperatorCaller, *, task_id: str = "", lease_id: str = "", owner: str = ""
    ) -> None:
        event = AuditEvent(
            kind=AuditKind.LEASE_LISTED,
            at=self._clock.now(),
            actor=str(caller.operator.spiffe_id),
            task_id=task_id,
            lease_id=lease_id,
            request_id=caller.request_id,
            facts={"owner": owner, "roles": sorted(role.value for role in caller.operator.roles)},
        )
        await self._store.commit([Append(event=event)])

    def _event(self, kind: str, caller: OperatorCaller, lease: Lease, facts: dict[str, object]) -> AuditEvent:
        return AuditEvent(
            kind=kind,
            at=self._clock.now(),
            actor=str(caller.operator.spiffe_id),
            task_id=lease.task_id,
            lease_id=lease.lease_id,
            request_id=caller.request_id,
            facts={
                "role": lease.role,
                "roles": sorted(role.value for role in caller.operator.roles),
                **facts,
            },
        )
