"""The broker's own Vault token: got with its JWT-SVID, renewed, and got again whenever it stops working.

There is no secret to start from: the JWT-SVID comes from SPIRE's Workload API, and Vault checks it against
SPIRE's keys. What always holds: the token lives in memory only; being away from Vault for any time needs no
restart.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final

from broker.adapters.vault.connection import VaultCallError, VaultConnection
from broker.domain.errors import CredentialBackendUnavailableError
from broker.domain.secret import Secret
from broker.ports.system import Clock

logger = logging.getLogger(__name__)

JwtSvidFetcher = Callable[[str], Awaitable[Secret]]
"""Fetches the broker's JWT-SVID for an audience."""

_TIMEOUT: Final = timedelta(seconds=5)
_FIRST_PAUSE: Final = timedelta(seconds=0.5)
_LONGEST_PAUSE: Final = timedelta(seconds=10)


class VaultLogin:
    """Holds the broker's Vault token and keeps it alive."""

    def __init__(  # noqa: PLR0913 - one login's parts
        self,
        *,
        connection: VaultConnection,
        fetch_jwt_svid: JwtSvidFetcher,
        auth_mount: str,
        auth_role: str,
        audience: str,
        clock: Clock,
    ) -> None:
        self._connection = connection
        self._fetch_jwt_svid = fetch_jwt_svid
        self._auth_mount = auth_mount
        self._auth_role = auth_role
        self._audience = audience
        self._clock = clock
        self._token: Secret | None = None
        self._ttl = timedelta()
        self._lock = asyncio.Lock()
        self._refused = asyncio.Event()

    @property
    def healthy(self) -> bool:
        """Whether there is a token that was good when it was last used."""
        return self._token is not None

    async def token(self) -> Secret:
        """Return the token, logging in first when there is none.

        Raises:
            CredentialBackendUnavailableError: Vault or SPIRE does not let us in just now.
        """
        token = self._token
        if token is not None:
            return token
        async with self._lock:
            if self._token is None:
                await self._log_in()
            token = self._token
        if token is None:
            raise CredentialBackendUnavailableError
        return token

    def reject(self, token: Secret) -> None:
        """Say that Vault refused `token`; the next `token` logs in again."""
        if self._token is token:
            logger.warning("Vault refused the broker's token; logging in again")
            self._token = None
            self._refused.set()

    async def keep(self) -> None:
        """Log in, renew at half of the token's life, log in again when that fails; until cancelled."""
        pause = _FIRST_PAUSE
        while True:
            try:
                await self.token()
            except CredentialBackendUnavailableError:
                await self._clock.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            pause = _FIRST_PAUSE
            self._refused.clear()
            try:
                await asyncio.wait_for(self._refused.wait(), self._ttl.total_seconds() / 2)
            except TimeoutError:
                await self._renew()

    async def _log_in(self) -> None:
        try:
            jwt_svid = await self._fetch_jwt_svid(self._audience)
        except Exception as error:
            logger.error("no JWT-SVID to log in to Vault with: %s", type(error).__name__)
            raise CredentialBackendUnavailableError from error
        try:
            answer = await self._connection.call(
                "post",
                f"auth/{self._auth_mount}/login",
                token=None,
                body={"role": self._auth_role, "jwt": jwt_svid.reveal()},
                timeout=_TIMEOUT,
            )
        except VaultCallError as error:
            logger.error("Vault log-in as role %s failed: %s", self._auth_role, error)
            raise CredentialBackendUnavailableError from error
        self._take(answer)
        logger.info("logged in to Vault as role %s for %s", self._auth_role, self._ttl)

    async def _renew(self) -> None:
        token = self._token
        if token is None:
            return
        try:
            answer = await self._connection.call(
                "post", "auth/token/renew-self", token=token, body={}, timeout=_TIMEOUT
            )
        except VaultCallError as error:
            logger.warning("Vault token is not renewed: %s", error)
            self._token = None
            return
        before = self._ttl
        ttl = _ttl_of(answer)
        if ttl < before / 2:  # its maximum is near: a new log-in, while the old one still works
            self._token = None
            return
        self._ttl = ttl

    def _take(self, answer: object) -> None:
        match answer:
            case {"auth": {"client_token": str(token), "lease_duration": int(seconds)}}:
                self._token = Secret(token)
                self._ttl = timedelta(seconds=max(seconds, 1))
            case _:
                logger.error("Vault log-in answered something else than a token")
                raise CredentialBackendUnavailableError


def _ttl_of(answer: object) -> timedelta:
    match answer:
        case {"auth": {"lease_duration": int(seconds)}}:
            return timedelta(seconds=seconds)
        case _:
            return timedelta()
