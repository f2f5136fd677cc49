"""The stores that need no server keep the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from broker.adapters.store.sqlite import SqliteStore
from broker.ports.store import Store
from tests.contract.chaining import ChainCases
from tests.contract.finding import FindingCases
from tests.contract.quarantining import QuarantineCases
from tests.contract.storing import StoreCases
from tests.fakes.store import FakeStore


class TestFakeStore(StoreCases, QuarantineCases, ChainCases, FindingCases):
    @pytest.fixture
    def store(self) -> Store:
        return FakeStore()


class TestSqliteStore(StoreCases, QuarantineCases, ChainCases, FindingCases):
    @pytest_asyncio.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        store = SqliteStore.open(f"sqlite:///{tmp_path / 'broker.db'}")
        yield store
        await store.close()
