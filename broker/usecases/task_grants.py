"""The Vault tokens of live tasks, in memory only.

A task has one token at a time, with exactly the policies of its scope. When an issue under it stays in doubt, or the
broker was restarted, the next acquire gets a new one: the old one is kept for the leases that live under it, and is
revoked when the last of them is gone, which takes the doubtful one with it (docs/adr/0002).

What always holds: a token's value is never stored (rule R6); its accessor is durable before it is used.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

from broker.domain.catalog import Catalog, CredentialRole
from broker.domain.changes import AddTaskToken
from broker.domain.errors import BrokerError, CredentialBackendUnavailableError
from broker.domain.identifiers import TaskId, TokenAccessor
from broker.domain.task import Task
from broker.ports.issuing import CredentialIssuer, TokenGrant
from broker.ports.store import ConflictError, Store
from broker.ports.system import Clock

OUTLIVES_DEADLINE_BY: Final = timedelta(minutes=1)
"""Tokens die by themselves this long after the task's deadline, whatever happens to the broker."""


class TaskGrants:
    """Knows the token under which a task's next credential is issued."""

    def __init__(self, *, issuer: CredentialIssuer, store: Store, clock: Clock, timeout: timedelta) -> None:
        self._issuer = issuer
        self._store = store
        self._clock = clock
        self._timeout = timeout
        self._grants: dict[TaskId, TokenGrant] = {}
        self._opening: dict[TaskId, asyncio.Lock] = {}

    async def open(self, task: Task, catalog: Catalog) -> TokenGrant | None:
        """Make a token for `task`; None when its scope is empty. Nothing is remembered until `remember`.

        Raises:
            CredentialBackendUnavailableError: Vault did not make it.
        """
        roles = _roles_in_scope(task, catalog)
        if not roles:
            return None
        lifetime = max(task.deadline - self._clock.now(), timedelta()) + OUTLIVES_DEADLINE_BY
        return await self._issuer.open_task(task.task_id, roles, lifetime, timeout=self._timeout)

    def remember(self, task_id: TaskId, grant: TokenGrant) -> None:
        """Keep the token of a task, now that its accessor is durable."""
        self._grants[task_id] = grant

    def forget(self, task_id: TaskId) -> None:
        """Drop the token of a task that is ending."""
        self._grants.pop(task_id, None)
        self._opening.pop(task_id, None)

    def retire(self, task_id: TaskId, accessor: TokenAccessor) -> None:
        """Issue nothing more under this token: something under it is in doubt, or Vault no longer knows it."""
        grant = self._grants.get(task_id)
        if grant is not None and grant.accessor == accessor:
            del self._grants[task_id]

    async def current(self, task: Task, catalog: Catalog) -> TokenGrant:
        """Return the task's token, making another one when there is none.

        Raises:
            CredentialBackendUnavailableError: Vault did not make it.
            StoreUnavailableError: it could not be recorded.
            ConflictError: the task ended meanwhile.
        """
        grant = self._grants.get(task.task_id)
        if grant is not None:
            return grant
        async with self._opening.setdefault(task.task_id, asyncio.Lock()):
            grant = self._grants.get(task.task_id)
            if grant is None:
                grant = await self.open(task, catalog)
                if grant is None:
                    raise CredentialBackendUnavailableError
                change = AddTaskToken(task_id=task.task_id, accessor=grant.accessor, at=self._clock.now())
                try:
                    await self._store.commit([change])
                except (BrokerError, ConflictError):
                    await self._issuer.revoke_token(grant.accessor, timeout=self._timeout)
                    raise
                self._grants[task.task_id] = grant
        return grant


def _roles_in_scope(task: Task, catalog: Catalog) -> list[CredentialRole]:
    """The roles of the declared scope that the catalog still lists (it may have been narrowed since)."""
    return [
        catalog.credential_roles[name]
        for name in sorted(task.scope.roles)
        if name in catalog.credential_roles
    ]
