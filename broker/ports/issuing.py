"""Making, renewing and revoking credentials at their backend.

Every call may take as long as its `timeout` and no longer. Revoking and issuing never wait for each other inside
an implementation (rule R10).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

from broker.domain.catalog import CredentialRole
from broker.domain.engines import ENGINES, Engine
from broker.domain.identifiers import TaskId, TokenAccessor, VaultLeaseId
from broker.domain.secret import Secret

_LONGEST_ACCOUNT: Final = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenGrant:
    """A Vault token in memory: its accessor may be stored, its value never (rule R6)."""

    accessor: TokenAccessor
    token: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCredential:
    """What the backend made."""

    vault_lease_id: VaultLeaseId
    ttl: timedelta
    renewable: bool
    secret: Mapping[str, Secret]

    def account(self, engine: Engine) -> str | None:
        """As whom the backend knows whoever logs in with it; None where there is no such name, or none fit to be kept."""
        field = ENGINES[engine].account_field
        name = self.secret[field].reveal() if field in self.secret else ""
        return name if 0 < len(name) <= _LONGEST_ACCOUNT and name.isprintable() else None


class IssueRefusedError(Exception):
    """The backend made nothing: it said so, or was not reached. The text is safe to log, not to show."""


class IssueInDoubtError(Exception):
    """The backend may have made something: no answer, or one that cannot be understood."""


class TokenGoneError(Exception):
    """The backend no longer knows the token: a new one has to be made."""


class CredentialIssuer(Protocol):
    """The secrets backend."""

    async def open_task(
        self, task_id: TaskId, roles: Sequence[CredentialRole], ttl: timedelta, *, timeout: timedelta
    ) -> TokenGrant:
        """Make an orphan token for a task: exactly the roles' policies, gone after `ttl` whatever happens. There is
        at least one role.

        Raises:
            CredentialBackendUnavailableError: it could not be made.
        """
        ...

    async def issue(
        self, grant: TokenGrant, task_id: TaskId, role: CredentialRole, *, timeout: timedelta
    ) -> IssuedCredential:
        """Have the credential made, under the task's token.

        Raises:
            IssueRefusedError: nothing was made.
            TokenGoneError: nothing was made; the backend no longer knows the token, or refuses it.
            IssueInDoubtError: something may have been made.
        """
        ...

    async def renew(
        self, vault_lease_id: VaultLeaseId, increment: timedelta, *, timeout: timedelta
    ) -> timedelta:
        """Extend a lease; return the time to live that it has now.

        Raises:
            LeaseNotRenewableError: the backend knows no such lease or will not extend it.
            CredentialBackendUnavailableError: no answer.
        """
        ...

    async def revoke(self, vault_lease_id: VaultLeaseId, *, timeout: timedelta) -> None:
        """Revoke at the backend before returning. A lease that the backend does not know is a success.

        Raises:
            CredentialBackendUnavailableError: it is not known to be revoked.
        """
        ...

    async def see_that_it_is_gone(self, vault_lease_id: VaultLeaseId, *, timeout: timedelta) -> None:
        """Look whether the backend still knows a lease: part of every revocation, and not of the one call, because
        looking disturbs nobody and may be done for many at once.

        Raises:
            CredentialBackendUnavailableError: it does, or does not say.
        """
        ...

    async def revoke_token(self, accessor: TokenAccessor, *, timeout: timedelta) -> None:
        """Revoke a token; the backend then revokes its leases by itself. An unknown accessor is a success.

        Raises:
            CredentialBackendUnavailableError: it is not known to be revoked.
        """
        ...
