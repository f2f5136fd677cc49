"""Makes, renews and revokes dynamic credentials in Vault. Implements ports.issuing.CredentialIssuer.

What always holds: a task's token holds exactly its roles' policies, cannot be renewed, and dies by itself. Revoking
is synchronous, and said to be done only when Vault no longer knows the lease (rule R3).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from broker.adapters.vault.as_broker import AsBroker
from broker.adapters.vault.connection import VaultCallError
from broker.adapters.vault.view import STORE, TASK
from broker.domain.catalog import CredentialRole, IssueMethod
from broker.domain.errors import CredentialBackendUnavailableError, LeaseNotRenewableError
from broker.domain.identifiers import TaskId, TokenAccessor, VaultLeaseId
from broker.domain.secret import Secret
from broker.ports.issuing import (
    IssuedCredential,
    IssueInDoubtError,
    IssueRefusedError,
    TokenGoneError,
    TokenGrant,
)

logger = logging.getLogger(__name__)

_FORBIDDEN: Final = 403
_BAD_REQUEST: Final = 400


class VaultCredentialIssuer:
    """See the module."""

    def __init__(self, *, as_broker: AsBroker, token_role: str, store: str) -> None:
        self._connection = as_broker.connection
        self._as_broker = as_broker.call
        self._token_role = token_role
        self._store = store

    async def open_task(
        self, task_id: TaskId, roles: Sequence[CredentialRole], ttl: timedelta, *, timeout: timedelta
    ) -> TokenGrant:
        """Make the task's orphan token through the token role, with the broker's own token."""
        if not roles:
            message = "a token without policies would be given all that the token role allows"
            raise ValueError(message)
        body = _token_body(task_id, [role.vault_policy for role in roles], ttl, self._store)
        try:
            answer = await self._as_broker(
                "post", f"auth/token/create/{self._token_role}", body, correlation=task_id, timeout=timeout
            )
        except VaultCallError as error:
            logger.error("no token for task %s: %s", task_id, error)
            raise CredentialBackendUnavailableError from error
        return _grant(answer)

    async def issue(
        self, grant: TokenGrant, task_id: TaskId, role: CredentialRole, *, timeout: timedelta
    ) -> IssuedCredential:
        """Read or update the role's path, with the task's token."""
        method, body = ("get", None) if role.method is IssueMethod.READ else ("post", dict(role.parameters))
        try:
            answer = await self._connection.call(
                method, role.vault_path, token=grant.token, body=body, correlation=task_id, timeout=timeout
            )
        except VaultCallError as error:
            if error.status == _FORBIDDEN:
                raise TokenGoneError from error
            if error.refused:
                raise IssueRefusedError(str(error)) from error
            raise IssueInDoubtError(str(error)) from error
        return _credential(answer)

    async def fetch_for_broker(self, role: CredentialRole, timeout: timedelta) -> Mapping[str, Secret]:
        """Have a credential made for the broker itself, under its own token; it ends with that at the latest.

        Raises:
            CredentialBackendUnavailableError: there is none to be had.
        """
        try:
            answer = await self._as_broker("get", role.vault_path, None, timeout=timeout)
            return _credential(answer).secret
        except (VaultCallError, IssueInDoubtError) as error:
            logger.error("no credential to look at a backend with, of role %s: %s", role.name, error)
            raise CredentialBackendUnavailableError from error

    async def renew(
        self, vault_lease_id: VaultLeaseId, increment: timedelta, *, timeout: timedelta
    ) -> timedelta:
        """Renew with the broker's own token."""
        body = {"lease_id": vault_lease_id, "increment": max(int(increment.total_seconds()), 1)}
        try:
            answer = await self._as_broker(
                "put", "sys/leases/renew", body, timeout=timeout, pool=self._connection.renewing
            )
        except VaultCallError as error:
            if error.status == _BAD_REQUEST:
                raise LeaseNotRenewableError from error
            raise CredentialBackendUnavailableError from error
        seconds = answer.get("lease_duration")
        if not isinstance(seconds, int):
            raise CredentialBackendUnavailableError
        return timedelta(seconds=seconds)

    async def revoke(self, vault_lease_id: VaultLeaseId, *, timeout: timedelta) -> None:
        """Revoke with `sync`."""
        await self._knows("revoke", {"lease_id": vault_lease_id, "sync": True}, timeout)

    async def see_that_it_is_gone(self, vault_lease_id: VaultLeaseId, *, timeout: timedelta) -> None:
        """Look the lease up: Vault must say that there is none."""
        if await self._knows("lookup", {"lease_id": vault_lease_id}, timeout):
            logger.error("Vault says that it revoked a lease which it still knows")
            raise CredentialBackendUnavailableError

    async def _knows(self, what: str, body: Mapping[str, Any], timeout: timedelta) -> bool:
        """Ask for it to be done with a lease; whether Vault knew the lease."""
        try:
            await self._as_broker(
                "put", f"sys/leases/{what}", body, timeout=timeout, pool=self._connection.revoking
            )
        except VaultCallError as error:
            if error.status == _BAD_REQUEST and error.says("invalid lease"):
                return False
            logger.error("lease is not revoked: %s", error)
            raise CredentialBackendUnavailableError from error
        return True

    async def revoke_token(self, accessor: TokenAccessor, *, timeout: timedelta) -> None:
        """Revoke by accessor; one that Vault does not know is done."""
        try:
            await self._as_broker(
                "post",
                "auth/token/revoke-accessor",
                {"accessor": accessor},
                timeout=timeout,
                pool=self._connection.revoking,
            )
        except VaultCallError as error:
            if error.refused and error.says("invalid accessor"):
                return
            logger.error("token is not revoked: %s", error)
            raise CredentialBackendUnavailableError from error


def _token_body(task_id: TaskId, policies: Sequence[str], ttl: timedelta, store: str) -> dict[str, Any]:
    seconds = f"{max(int(ttl.total_seconds()), 1)}s"
    return {
        "policies": list(policies),
        "no_default_policy": True,
        "meta": {TASK: task_id, STORE: store},
        "display_name": task_id,
        "ttl": seconds,
        "explicit_max_ttl": seconds,
        "renewable": False,
        "type": "service",
    }


def _grant(answer: Mapping[str, Any]) -> TokenGrant:
    match answer:
        case {"auth": {"client_token": str(token), "accessor": str(accessor)}} if token and accessor:
            return TokenGrant(accessor=TokenAccessor(accessor), token=Secret(token))
        case _:
            raise CredentialBackendUnavailableError


def _credential(answer: Mapping[str, Any]) -> IssuedCredential:
    match answer:
        case {
            "lease_id": str(lease_id),
            "lease_duration": int(seconds),
            "renewable": bool(renewable),
            "data": dict(data),
        } if lease_id:
            return IssuedCredential(
                vault_lease_id=VaultLeaseId(lease_id),
                ttl=timedelta(seconds=seconds),
                renewable=renewable,
                secret={
                    str(name): Secret(value if isinstance(value, str) else json.dumps(value))
                    for name, value in data.items()
                },
            )
        case _:
            message = "the answer has no lease: the role's path does not make lease-bound credentials"
            raise IssueInDoubtError(message)
