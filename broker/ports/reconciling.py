"""Looking at what the secrets backend holds, to compare it with what the store says. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from broker.domain.identifiers import TaskId, TokenAccessor, VaultLeaseId


class MayNotLookError(Exception):
    """The backend does not let the broker look. The text says at what, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendToken:
    """A token that was made for a task."""

    accessor: TokenAccessor
    task_id: TaskId
    store: str
    """The identity of the store that it was made for; empty where it was made by a version that did not say."""
    made_at: datetime
    """By the backend's clock."""


class BackendView(Protocol):
    """What the backend holds. Each call may raise CredentialBackendUnavailableError."""

    async def knows(self, vault_lease_id: VaultLeaseId, *, timeout: timedelta) -> bool:
        """Whether the backend knows the lease."""
        ...

    def task_tokens(self, *, timeout: timedelta) -> AsyncIterator[BackendToken]:
        """Every token that was made for a task of some store.

        Raises:
            MayNotLookError: the broker has no right to list them.
        """
        ...

    async def stranded(self, *, timeout: timedelta) -> tuple[VaultLeaseId, ...]:
        """Leases that the backend gave up to revoke by itself.

        Raises:
            MayNotLookError: the broker has no right to list them.
        """
        ...
