"""The fake of the secrets backend keeps the contract; Vault itself is asked in tests/integration/contract."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from broker.adapters.observe.issuer import WatchedIssuer
from broker.adapters.observe.metrics import PrometheusMetrics
from broker.adapters.observe.together import Observers
from broker.domain.identifiers import TokenAccessor
from broker.ports.issuing import IssuedCredential
from tests.contract.issuing import IssuerCases
from tests.contract.reconciling import ViewCases
from tests.fakes.issuer import FakeIssuer
from tests.fakes.samples import a_role
from tests.fakes.view import FakeView


class FakeBackend:
    """Implements tests.contract.issuing.Backend."""

    def __init__(self) -> None:
        self.issuer = FakeIssuer()
        self.view = FakeView(self.issuer)
        self.store = self.view.store
        self.role = a_role("orders")
        self.unknown_role = a_role("unknown")
        self.issuer.refuses.add("unknown")

    async def accepts(self, credential: IssuedCredential) -> bool:
        return credential.vault_lease_id in self.issuer.leases

    async def accepted(self) -> int:
        return len(self.issuer.leases)

    async def lose_token(self, accessor: TokenAccessor) -> None:
        self.issuer.lose_token(accessor)

    @contextmanager
    def silent(self) -> Iterator[None]:
        self.issuer.away = True
        yield
        self.issuer.away = False

    @contextmanager
    def losing_answers(self) -> Iterator[None]:
        self.issuer.loses_answers = True
        yield
        self.issuer.loses_answers = False


class WatchedBackend(FakeBackend):
    """The same behind what watches it."""

    def __init__(self) -> None:
        super().__init__()
        self._fake = self.issuer
        self.issuer = WatchedIssuer(self._fake, Observers(PrometheusMetrics()))  # type: ignore[assignment]

    async def accepts(self, credential: IssuedCredential) -> bool:
        return credential.vault_lease_id in self._fake.leases

    async def accepted(self) -> int:
        return len(self._fake.leases)

    async def lose_token(self, accessor: TokenAccessor) -> None:
        self._fake.lose_token(accessor)

    @contextmanager
    def silent(self) -> Iterator[None]:
        self._fake.away = True
        yield
        self._fake.away = False

    @contextmanager
    def losing_answers(self) -> Iterator[None]:
        self._fake.loses_answers = True
        yield
        self._fake.loses_answers = False


class TestWatchedIssuer(IssuerCases):
    @pytest.fixture
    def backend(self) -> FakeBackend:
        return WatchedBackend()


class TestFakeIssuer(IssuerCases, ViewCases):
    @pytest.fixture
    def backend(self) -> FakeBackend:
        return FakeBackend()
