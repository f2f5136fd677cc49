"""What RabbitMQ says of a user and its connections, over its management API."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import ClassVar, Final
from urllib.parse import quote

import urllib3

from broker.adapters.backends.errors import CannotLookError
from broker.domain.catalog import CredentialRole
from broker.domain.secret import Secret

_TIMEOUT: Final = urllib3.Timeout(connect=5, read=5)
_OK: Final = 200
_NOT_FOUND: Final = 404


class RabbitObserver:
    """Asks as a user with the tag `monitoring` or more."""

    FAILURES: ClassVar[tuple[type[Exception], ...]] = (urllib3.exceptions.HTTPError,)

    def __init__(self, base: str, headers: Mapping[str, str]) -> None:
        self._base = base
        self._headers = headers
        self._pool = urllib3.PoolManager(retries=False, timeout=_TIMEOUT)

    @classmethod
    async def open(cls, verifier: CredentialRole, secret: Mapping[str, Secret]) -> RabbitObserver:
        """The destination is the management API: `http` on loopback, else `https`."""
        where = verifier.destination
        name, password = secret["username"].reveal(), secret["password"].reveal()
        if ":" in name:
            message = "its user name has a colon, which HTTP cannot say: set username_template at the engine's connection"
            raise CannotLookError(message)
        headers = urllib3.make_headers(basic_auth=f"{name}:{password}")
        return cls(f"{where.scheme}://{where.host}:{where.port}/api", headers)

    async def refuses(self, account: str) -> bool:
        """There is no user of that name, and no connection of its."""
        if await self._status(f"/users/{quote(account, safe='')}") != _NOT_FOUND:
            return False
        answer = await self._get("/connections?columns=user")
        if answer.status != _OK:
            message = f"not allowed to look at connections ({answer.status})"
            raise CannotLookError(message)
        return all(connection.get("user") != account for connection in answer.json())

    async def close(self) -> None:
        """Disconnect."""
        self._pool.clear()

    async def _status(self, path: str) -> int:
        answer = await self._get(path)
        if answer.status not in {_OK, _NOT_FOUND}:
            message = f"not allowed to look at users ({answer.status})"
            raise CannotLookError(message)
        return answer.status

    async def _get(self, path: str) -> urllib3.BaseHTTPResponse:
        return await asyncio.to_thread(self._pool.request, "GET", self._base + path, headers=self._headers)
