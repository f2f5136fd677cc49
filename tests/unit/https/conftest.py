"""A running door a test."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.unit.https.doors import Door, Limits
from tests.unit.server.served import Authority

Build = Callable[[Limits], Door]


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose name is short enough for a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="tl-") as name:
        yield Path(name)


@pytest_asyncio.fixture
async def build(folder: Path, authority: Authority) -> AsyncIterator[Build]:
    """Makes a door with limits of its own; the test opens it."""
    made: list[Door] = []

    def make(limits: Limits) -> Door:
        made.append(Door(folder, authority, limits))
        return made[-1]

    yield make
    for door in made:
        await door.stop()


@pytest_asyncio.fixture
async def door(build: Build) -> Door:
    door = build(Limits())
    await door.start()
    return door
