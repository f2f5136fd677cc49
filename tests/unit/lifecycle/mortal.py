"""A broker that can die between any two steps, over a real store that outlives it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from broker.adapters.store.sqlite import SqliteStore
from broker.domain.audit import ChainHead, verify_chain
from broker.domain.errors import StoreUnavailableError
from broker.ports.issuing import CredentialIssuer
from broker.ports.store import Store
from tests.fakes.issuer import FakeIssuer
from tests.fakes.samples import a_catalog
from tests.fakes.store import FakeStore
from tests.fakes.system import CountingIds, FakeClock
from tests.unit.usecases.wiring import Broker


class Crash(BaseException):
    """The process is killed."""


class Wire:
    """A port as one process has it: what is dead asks nothing any more, so that no clean-up makes a crash harmless."""

    def __init__(self, port: object, trouble: Callable[[], BaseException | None]) -> None:
        self._port = port
        self._trouble = trouble

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._port, name)
        if not inspect.iscoroutinefunction(method):
            return method

        async def call(*arguments: object, **named: object) -> object:
            if trouble := self._trouble():
                raise trouble
            answer = await method(*arguments, **named)
            if isinstance(trouble := self._trouble(), Crash):  # it died meanwhile: nobody hears the answer
                raise trouble
            return answer

        return call


class Mortal:
    """What survives: the store's file, the backend, the time. What does not: `broker`."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder / 'broker.db'}"
        self.issuer = FakeIssuer()
        self.clock = FakeClock()
        self.ids = CountingIds()
        self.store_away = False
        self.crashes = 0
        self.store = SqliteStore.open(self.url)
        self._dead = [False]
        self._identity = ""
        self.broker = self._new()

    @classmethod
    async def born(cls, folder: Path) -> Mortal:
        """The first process."""
        mortal = cls(folder)
        mortal.broker.view.store = mortal._identity = await mortal.store.identity()
        return mortal

    def _new(self) -> Broker:
        self._dead = dead = [False]

        def trouble() -> BaseException | None:
            return Crash() if dead[0] else None

        def trouble_of_store() -> BaseException | None:
            return trouble() or (StoreUnavailableError() if self.store_away else None)

        store: Store = Wire(self.store, trouble_of_store)
        issuer: CredentialIssuer = Wire(self.issuer, trouble)
        catalog = a_catalog(max_tasks=4, max_leases=4)
        broker = Broker(cast("FakeStore", store), cast("FakeIssuer", issuer), self.clock, self.ids, catalog)
        broker.view.store = self._identity
        return broker

    def die(self) -> None:
        """From now on this process does nothing."""
        self._dead[0] = True

    async def restart(self) -> None:
        """Kill what is left of the process, and start the next one, as bootstrap does."""
        self.crashes += 1
        self.die()
        here = asyncio.current_task()
        left = [task for task in asyncio.all_tasks() if task is not here]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self.store.close()
        self.store = SqliteStore.open(self.url)
        self.broker = self._new()
        if not self.store_away:
            await self.broker.quarantine.refresh()
            await self.broker.watch.reclaim()
            await self.broker.end_quarantined()

    async def broker_records_are_whole(self) -> None:
        """The audit chain has no gap, and every record of a state is there."""
        records = await self.store.audit_records(0, 1_000_000)
        assert isinstance(verify_chain(records), ChainHead | None)

    async def close(self) -> None:
        """The end of the test."""
        self.die()
        here = asyncio.current_task()
        left = [task for task in asyncio.all_tasks() if task is not here]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self.store.close()
