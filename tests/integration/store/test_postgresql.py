"""The store that replicas share keeps the contract, on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from broker.ports.store import Store
from tests.contract.chaining import ChainCases
from tests.contract.finding import FindingCases
from tests.contract.quarantining import QuarantineCases
from tests.contract.storing import StoreCases
from tests.integration.store.conftest import Database


class TestPostgresStore(StoreCases, QuarantineCases, ChainCases, FindingCases):
    @pytest_asyncio.fixture
    async def store(self, database: Database) -> AsyncIterator[Store]:
        store = database.open()
        yield store
        await store.close()
