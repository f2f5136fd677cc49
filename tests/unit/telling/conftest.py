"""Receivers on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.unit.telling.places import Place


@pytest_asyncio.fixture
async def place(socket_enabled: None, tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(tmp_path)
    await place.start()
    yield place
    await place.stop()


@pytest_asyncio.fixture
async def elsewhere(socket_enabled: None, tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(tmp_path, "elsewhere.test")
    await place.start()
    yield place
    await place.stop()
