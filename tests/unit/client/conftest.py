"""One scripted broker a test, and an identity that rotates when it is told to."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from broker.client import Broker, Svid
from tests.unit.client.authority import AGENT_ID, Authority
from tests.unit.client.fake_broker import FakeBroker

PATIENCE = timedelta(seconds=5)


async def eventually(what: Callable[[], bool]) -> None:
    """Wait until something is so of which nobody tells."""
    async with asyncio.timeout(8):
        while not what():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.01)


class TurningIdentity:
    """An identity whose SVID is replaced by hand."""

    def __init__(self, svid: Svid) -> None:
        self._svid = svid
        self.version = 1
        self._news = asyncio.Condition()

    def svid(self) -> Svid:
        return self._svid

    async def start(self, patience: timedelta) -> None:  # noqa: ARG002 - the protocol's
        return None

    async def changed(self, version: int) -> None:
        async with self._news:
            await self._news.wait_for(lambda: self.version != version)

    async def turn(self, svid: Svid) -> None:
        async with self._news:
            self._svid = svid
            self.version += 1
            self._news.notify_all()

    async def close(self) -> None:
        return None


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose name is short enough for a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="tl-") as name:
        yield Path(name)


@pytest_asyncio.fixture
async def fake(authority: Authority, folder: Path) -> AsyncIterator[FakeBroker]:
    fake = FakeBroker(authority, folder / "broker.sock")
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
def identity(authority: Authority) -> TurningIdentity:
    return TurningIdentity(authority.svid(AGENT_ID))


@pytest_asyncio.fixture
async def broker(fake: FakeBroker, identity: TurningIdentity) -> AsyncIterator[Broker]:
    async with Broker.connect(fake.address, identity=identity, patience=PATIENCE) as broker:
        yield broker
