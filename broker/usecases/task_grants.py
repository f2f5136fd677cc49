"""The Vault tokens of live tasks, in memory only.

Each task has one token; each lease gets a child of it that may issue its role and nothing else, so that a lease
whose id was lost can still be revoked by its accessor (docs/adr/0002). A child is made ahead of need, in the
background, which takes its round trip out of an acquire.

What always holds: a token's value is never stored (rule R6); after a restart a task gets a new token, whose
accessor is durable before it is used.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Final

from broker.domain.catalog import Catalog, CredentialRole
from broker.domain.changes import AddTaskToken
from broker.domain.errors import BrokerError, CredentialBackendUnavailableError
from broker.domain.identifiers import TaskId
from broker.domain.task import Task
from broker.ports.issuing import CredentialIssuer, TokenGoneError, TokenGrant
from broker.ports.store import ConflictError, Store
from broker.ports.system import Clock

logger = logging.getLogger(__name__)

OUTLIVES_DEADLINE_BY: Final = timedelta(minutes=1)
"""Tokens die by themselves this long after the task's deadline, whatever happens to the broker."""
_SPARES_AT_DECLARATION: Final = 4


class TaskGrants:
    """Hands out the token under which one lease is issued."""

    def __init__(self, *, issuer: CredentialIssuer, store: Store, clock: Clock, timeout: timedelta) -> None:
        self._issuer = issuer
        self._store = store
        self._clock = clock
        self._timeout = timeout
        self._tasks: dict[TaskId, TokenGrant] = {}
        self._spares: dict[TaskId, dict[str, TokenGrant]] = {}
        self._opening: dict[TaskId, asyncio.Lock] = {}
        self._background: set[asyncio.Task[None]] = set()

    async def open_task(self, task: Task, catalog: Catalog) -> TokenGrant:
        """Make a token for `task`; nothing is remembered until `remember`.

        Raises:
            CredentialBackendUnavailableError: Vault did not make it.
        """
        return await self._issuer.open_task(
            task.task_id,
            _roles_in_scope(task, catalog),
            self._lifetime(task),
            timeout=self._timeout,
        )

    def remember(self, task: Task, grant: TokenGrant, catalog: Catalog) -> None:
        """Keep the durable task's token, and make spare children for its first roles in the background."""
        self._tasks[task.task_id] = grant
        for role in _roles_in_scope(task, catalog)[:_SPARES_AT_DECLARATION]:
            self.make_spare(task, role)

    def forget(self, task_id: TaskId) -> None:
        """Drop the tokens of a task that is ending."""
        self._tasks.pop(task_id, None)
        self._spares.pop(task_id, None)
        self._opening.pop(task_id, None)

    async def for_lease(self, task: Task, role: CredentialRole, catalog: Catalog) -> TokenGrant:
        """Return a token that was made for one lease of `role` and used by nobody.

        Raises:
            CredentialBackendUnavailableError: Vault did not make it.
            StoreUnavailableError: a new task token could not be recorded.
            ConflictError: the task ended meanwhile.
        """
        spare = self._spares.get(task.task_id, {}).pop(role.name, None)
        if spare is not None:
            return spare
        return await self._open_lease(task, role, catalog)

    def make_spare(self, task: Task, role: CredentialRole) -> None:
        """Make one spare child for the next lease of `role`, in the background, if the task's token is here."""
        grant = self._tasks.get(task.task_id)
        if grant is None or role.name in self._spares.get(task.task_id, {}):
            return
        work = asyncio.create_task(self._make_spare(task, role, grant), name="make-spare")
        self._background.add(work)
        work.add_done_callback(self._background.discard)

    async def drain(self) -> None:
        """Wait for spares that are being made."""
        await asyncio.gather(*self._background, return_exceptions=True)

    async def _make_spare(self, task: Task, role: CredentialRole, grant: TokenGrant) -> None:
        try:
            spare = await self._issuer.open_lease(
                grant, task.task_id, role, self._lifetime(task), timeout=self._timeout
            )
        except (BrokerError, TokenGoneError) as error:
            logger.info("no spare token for role %s: %s", role.name, type(error).__name__)
            return
        if task.task_id in self._tasks:
            self._spares.setdefault(task.task_id, {})[role.name] = spare

    async def _open_lease(self, task: Task, role: CredentialRole, catalog: Catalog) -> TokenGrant:
        grant = await self._task_grant(task, catalog)
        try:
            return await self._issuer.open_lease(
                grant, task.task_id, role, self._lifetime(task), timeout=self._timeout
            )
        except TokenGoneError:
            logger.warning("Vault no longer knows the token of %s; making another", task.task_id)
            if self._tasks.get(task.task_id) is grant:
                self._tasks.pop(task.task_id)
                self._spares.pop(task.task_id, None)
        try:
            grant = await self._task_grant(task, catalog)
            return await self._issuer.open_lease(
                grant, task.task_id, role, self._lifetime(task), timeout=self._timeout
            )
        except TokenGoneError as error:
            raise CredentialBackendUnavailableError from error

    async def _task_grant(self, task: Task, catalog: Catalog) -> TokenGrant:
        grant = self._tasks.get(task.task_id)
        if grant is not None:
            return grant
        async with self._opening.setdefault(task.task_id, asyncio.Lock()):
            grant = self._tasks.get(task.task_id)
            if grant is None:
                grant = await self.open_task(task, catalog)
                try:
                    await self._store.commit(
                        [AddTaskToken(task_id=task.task_id, accessor=grant.accessor, at=self._clock.now())]
                    )
                except (BrokerError, ConflictError):
                    await self._issuer.revoke_token(grant.accessor, timeout=self._timeout)
                    raise
                self._tasks[task.task_id] = grant
        return grant

    def discard_spares(self, task_id: TaskId) -> None:
        """Drop spares that turned out not to work (Vault was restored, or lost them)."""
        self._spares.pop(task_id, None)

    def _lifetime(self, task: Task) -> timedelta:
        return max(task.deadline - self._clock.now(), timedelta()) + OUTLIVES_DEADLINE_BY


def _roles_in_scope(task: Task, catalog: Catalog) -> list[CredentialRole]:
    """The roles of the declared scope that the catalog still lists (it may have been narrowed since)."""
    return [
        catalog.credential_roles[name]
        for name in sorted(task.scope.roles)
        if name in catalog.credential_roles
    ]
