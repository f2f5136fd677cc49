"""The verifier that needs no server keeps the contract."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.contract.verifying import Backend, VerifierCases
from tests.fakes.samples import a_role
from tests.fakes.verifier import FakeVerifier


class _Fake:
    def __init__(self) -> None:
        self.verifier = FakeVerifier()
        self.role = a_role("observer")

    def let_in(self, account: str) -> None:
        self.verifier.accounts.add(account)

    def refuse(self, account: str) -> None:
        self.verifier.accounts.remove(account)

    @contextmanager
    def away(self) -> Iterator[None]:
        self.verifier.away = True
        yield
        self.verifier.away = False


class TestFakeVerifier(VerifierCases):
    @pytest.fixture
    def backend(self) -> Backend:
        return _Fake()
