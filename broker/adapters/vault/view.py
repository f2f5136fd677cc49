"""What Vault holds: leases by their ids, tasks' tokens by their accessors, and leases that it gave up to revoke.

Implements ports.reconciling.BackendView. Looks by the threads for renewals: nothing that is issued or revoked waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from broker.adapters.vault.as_broker import AsBroker
from broker.adapters.vault.connection import VaultCallError
from broker.domain.errors import CredentialBackendUnavailableError
from broker.domain.identifiers import TaskId, TokenAccessor, VaultLeaseId
from broker.ports.reconciling import BackendToken, MayNotLookError

TASK: Final = "tasklease_task"
STORE: Final = "tasklease_store"
_FORBIDDEN: Final = 403
_NOT_FOUND: Final = 404
_AT_ONCE: Final = 4


class _NotPermittedError(MayNotLookError):
    def __init__(self, what: str) -> None:
        super().__init__(
            f"Vault does not let the broker look at {what}: `tasklease catalog apply` gives it the right"
        )


class VaultView:
    """See the module."""

    def __init__(self, as_broker: AsBroker) -> None:
        self._as_broker = as_broker

    async def knows(self, vault_lease_id: VaultLeaseId, *, timeout: timedelta) -> bool:
        """See ports.reconciling."""
        try:
            await self._call("put", "sys/leases/lookup", {"lease_id": vault_lease_id}, timeout)
        except VaultCallError as error:
            if error.says("invalid lease"):
                return False
            raise CredentialBackendUnavailableError from error
        return True

    async def task_tokens(self, *, timeout: timedelta) -> AsyncIterator[BackendToken]:
        """See ports.reconciling."""
        listed = await self._listed("auth/token/accessors?list=true", "the accessors of tokens", timeout)
        accessors = [TokenAccessor(one) for one in listed.get("keys", ()) if isinstance(one, str)]
        for begin in range(0, len(accessors), _AT_ONCE):
            batch = accessors[begin : begin + _AT_ONCE]
            for found in await asyncio.gather(*(self._token(one, timeout) for one in batch)):
                if found is not None:
                    yield found

    async def stranded(self, *, timeout: timedelta) -> tuple[VaultLeaseId, ...]:
        """See ports.reconciling."""
        listed = await self._listed("sys/leases?type=irrevocable", "leases that it cannot revoke", timeout)
        leases = listed.get("leases") or ()
        return tuple(VaultLeaseId(one["lease_id"]) for one in leases if isinstance(one, Mapping))

    async def _token(self, accessor: TokenAccessor, timeout: timedelta) -> BackendToken | None:
        try:
            answer = await self._call("post", "auth/token/lookup-accessor", {"accessor": accessor}, timeout)
        except VaultCallError as error:
            if error.says("invalid accessor"):
                return None  # gone meanwhile
            if error.status == _FORBIDDEN:
                raise _NotPermittedError("tokens by their accessors") from error  # noqa: EM101, TRY003 - a part of it
            raise CredentialBackendUnavailableError from error
        match answer.get("data"):
            case {"meta": {**meta}, "creation_time": int(made)} if isinstance(task_id := meta.get(TASK), str):
                return BackendToken(
                    accessor=accessor,
                    task_id=TaskId(task_id),
                    store=str(meta.get(STORE, "")),
                    made_at=datetime.fromtimestamp(made, UTC),
                )
            case _:
                return None

    async def _listed(self, path: str, what: str, timeout: timedelta) -> Mapping[str, Any]:
        try:
            answer = await self._call("get", path, None, timeout)
        except VaultCallError as error:
            if error.status == _NOT_FOUND:
                return {}
            if error.status == _FORBIDDEN:
                raise _NotPermittedError(what) from error
            raise CredentialBackendUnavailableError from error
        data = answer.get("data")
        return data if isinstance(data, Mapping) else {}

    async def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None, timeout: timedelta
    ) -> Mapping[str, Any]:
        pool = self._as_broker.connection.renewing
        return await self._as_broker.call(method, path, body, timeout=timeout, pool=pool)
