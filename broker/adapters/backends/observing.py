"""Who may look at a backend. Implements ports.verifying.RevocationVerifier, engine by engine.

A credential to look with is had from Vault, for the broker itself, and kept with its connection until the backend no longer
takes it. One look at a time for each of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Final, Protocol

from broker.adapters.backends.errors import CannotLookError
from broker.adapters.backends.postgresql import PostgresObserver
from broker.adapters.backends.rabbitmq import RabbitObserver
from broker.domain.catalog import CredentialRole
from broker.domain.engines import Engine
from broker.domain.errors import CredentialBackendUnavailableError
from broker.domain.secret import Secret

logger = logging.getLogger(__name__)

Fetch = Callable[[CredentialRole, timedelta], Awaitable[Mapping[str, Secret]]]
"""Has the role's credential made for the broker itself, within that time."""


class Observer(Protocol):
    """One way in to one backend."""

    async def refuses(self, account: str) -> bool:
        """Whether nobody is let in, or is in, as `account`."""
        ...

    async def close(self) -> None:
        """Let go of it."""
        ...


_OPEN: Final[Mapping[Engine, Callable[[CredentialRole, Mapping[str, Secret]], Awaitable[Observer]]]] = {
    Engine.POSTGRESQL: PostgresObserver.open,
    Engine.RABBITMQ: RabbitObserver.open,
}
FAILURES: Final[tuple[type[Exception], ...]] = (
    CannotLookError,
    OSError,
    ValueError,
    KeyError,
    *PostgresObserver.FAILURES,
    *RabbitObserver.FAILURES,
)


class BackendVerifier:
    """See the module."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._observers: dict[str, tuple[CredentialRole, Observer]] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def refuses(self, verifier: CredentialRole, account: str, *, timeout: timedelta) -> bool:
        """See ports.verifying."""
        try:
            async with (
                asyncio.timeout(timeout.total_seconds()),
                self._locks.setdefault(verifier.name, asyncio.Lock()),
            ):
                return await self._ask(verifier, account, timeout)
        except FAILURES as error:  # an OSError is also what a time that ran out is
            why = str(error) if isinstance(error, CannotLookError) else type(error).__name__
            logger.error("%s cannot be asked what it refuses: %s", verifier.name, why)
            await self._drop(verifier.name)
            raise CredentialBackendUnavailableError from None

    async def close(self) -> None:
        """Let go of every connection."""
        for name in list(self._observers):
            await self._drop(name)

    async def _ask(self, verifier: CredentialRole, account: str, timeout: timedelta) -> bool:
        kept = self._observers.get(verifier.name)
        if kept is not None and kept[0] == verifier:
            try:
                return await kept[1].refuses(account)
            except FAILURES:
                logger.info("%s is asked with a new credential", verifier.name)
        await self._drop(verifier.name)
        observer = await _OPEN[verifier.engine](verifier, await self._fetch(verifier, timeout))
        self._observers[verifier.name] = (verifier, observer)
        return await observer.refuses(account)

    async def _drop(self, name: str) -> None:
        kept = self._observers.pop(name, None)
        if kept is not None:
            try:
                await kept[1].close()
            except FAILURES:
                logger.info("the old connection of %s could not be closed", name)
