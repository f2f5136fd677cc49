"""Calls to Vault with the broker's own token."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from datetime import timedelta
from typing import Any, Final

from broker.adapters.vault.connection import VaultCallError, VaultConnection
from broker.adapters.vault.login import VaultLogin

_FORBIDDEN: Final = 403


class AsBroker:
    """See the module."""

    def __init__(self, *, connection: VaultConnection, login: VaultLogin) -> None:
        self.connection = connection
        self._login = login

    async def call(  # noqa: PLR0913 - one call's parts
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        *,
        correlation: str = "",
        timeout: timedelta,
        pool: Executor | None = None,
    ) -> Mapping[str, Any]:
        """Call; when Vault refuses the token itself, log in once more and repeat.

        Raises:
            VaultCallError: anything but success.
            CredentialBackendUnavailableError: there is no token to call with.
        """
        pool = pool or self.connection.issuing
        token = await self._login.token()
        try:
            return await self.connection.call(
                method, path, token=token, body=body, correlation=correlation, timeout=timeout, pool=pool
            )
        except VaultCallError as error:
            if error.status != _FORBIDDEN or error.says("invalid accessor"):
                raise
        self._login.reject(token)
        token = await self._login.token()
        return await self.connection.call(
            method, path, token=token, body=body, correlation=correlation, timeout=timeout, pool=pool
        )
