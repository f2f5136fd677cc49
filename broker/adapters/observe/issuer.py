"""A credential issuer that is watched."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from broker.domain.catalog import CredentialRole
from broker.domain.identifiers import TaskId, TokenAccessor, VaultLeaseId
from broker.ports.issuing import CredentialIssuer, IssuedCredential, TokenGrant
from broker.ports.observing import Kind, Observer


class WatchedIssuer:
    """Implements ports.issuing.CredentialIssuer by another one."""

    def __init__(self, issuer: CredentialIssuer, observer: Observer) -> None:
        self._issuer = issuer
        self._observer = observer

    async def open_task(
        self, task_id: TaskId, roles: Sequence[CredentialRole], ttl: timedelta, *, timeout: timedelta
    ) -> TokenGrant:
        """See ports.issuing."""
        with self._observer.watch(Kind.VAULT, "open_task", task_id=task_id):
            return await self._issuer.open_task(task_id, roles, ttl, timeout=timeout)

    async def issue(
        self, grant: TokenGrant, task_id: TaskId, role: CredentialRole, *, timeout: timedelta
    ) -> IssuedCredential:
        """See ports.issuing."""
        with self._observer.watch(Kind.VAULT, "issue", task_id=task_id):
            return await self._issuer.issue(grant, task_id, role, timeout=timeout)

    async def renew(
        self, vault_lease_id: VaultLeaseId, increment: timedelta, *, timeout: timedelta
    ) -> timedelta:
        """See ports.issuing."""
        with self._observer.watch(Kind.VAULT, "renew"):
            return await self._issuer.renew(vault_lease_id, increment, timeout=timeout)

    async def revoke(self, vault_lease_id: VaultLeaseId, *, timeout: timedelta) -> None:
        """See ports.issuing."""
        with self._observer.watch(Kind.VAULT, "revoke"):
            await self._issuer.revoke(vault_lease_id, timeout=timeout)

    async def see_that_it_is_gone(self, vault_lease_id: VaultLeaseId, *, timeout: timedelta) -> None:
        """See ports.issuing."""
        with self._observer.watch(Kind.VAULT, "look"):
            await self._issuer.see_that_it_is_gone(vault_lease_id, timeout=timeout)

    async def revoke_token(self, accessor: TokenAccessor, *, timeout: timedelta) -> None:
        """See ports.issuing."""
        with self._observer.watch(Kind.VAULT, "revoke_token"):
            await self._issuer.revoke_token(accessor, timeout=timeout)
