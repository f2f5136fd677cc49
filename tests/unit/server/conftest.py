"""A running server a test."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.unit.server.served import Authority, Limits, Served

Serve = Callable[[Limits], Awaitable[Served]]


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose name is short enough for a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="tl-") as name:
        yield Path(name)


@pytest_asyncio.fixture
async def serve(folder: Path, authority: Authority) -> AsyncIterator[Serve]:
    """Starts a server with limits of its own."""
    started: list[Served] = []

    async def start(limits: Limits) -> Served:
        served = Served(folder, authority, limits)
        started.append(served)
        await served.start()
        return served

    yield start
    for served in started:
        await served.close()


@pytest_asyncio.fixture
async def served(serve: Serve) -> Served:
    return await serve(Limits())
