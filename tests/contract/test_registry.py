"""The fake of the registry keeps the contract; SPIRE itself is asked in tests/integration/contract."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from broker.domain.workload import WorkloadEntry
from tests.contract.registering import RegistryCases
from tests.fakes.registry import FakeRegistry


class FakeBackend:
    """Implements tests.contract.registering.Backend."""

    def __init__(self) -> None:
        self.registry = FakeRegistry()
        self.trust_domain = "example.test"

    async def plant(self, entry: WorkloadEntry) -> None:
        self.registry.entries[entry.entry_id] = entry

    @contextmanager
    def silent(self) -> Iterator[None]:
        self.registry.away = True
        yield
        self.registry.away = False


class TestFakeRegistry(RegistryCases):
    @pytest.fixture
    def backend(self) -> FakeBackend:
        return FakeBackend()
