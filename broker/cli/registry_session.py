"""SPIRE's entries, for commands that are not asynchronous."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self, TypeVar

from broker.adapters.spire.registry import open_registry
from broker.cli.output import fail
from broker.config.settings import Settings, is_server_address
from broker.domain.workload import WorkloadEntry
from broker.ports.registry import RegistryRefusedError, RegistryUnavailableError, WorkloadRegistry

_T = TypeVar("_T")


class RegistrySession:
    """A registry that is open inside a `with`. Whatever is wrong with `server` ends the command, with code 2."""

    def __init__(self, settings: Settings, server: str = "") -> None:
        self._address = server or settings.registry.server or ""
        if not self._address:
            fail("say where SPIRE's server is: registry.server in the configuration, or --server", code=2)
        if not is_server_address(self._address):
            fail("--server: give unix:///PATH or HOST:PORT", code=2)
        self._settings = settings
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()

    def __enter__(self) -> Self:
        opening = open_registry(
            self._address,
            endpoint_socket=self._settings.endpoint_socket,
            trust_domain=self._settings.trust_domain,
        )
        try:
            self.registry: WorkloadRegistry = self.run(self._stack.enter_async_context(opening))
        except BaseException:
            self._runner.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.close()

    def entries(self) -> list[WorkloadEntry]:
        """All of them, ours or not."""

        async def every() -> list[WorkloadEntry]:
            return [entry async for page in self.registry.pages() for entry in page]

        return self.run(every())

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Wait for the work; what the registry refuses ends the command."""
        try:
            return self._runner.run(work)
        except (RegistryUnavailableError, RegistryRefusedError) as error:
            fail(str(error))
