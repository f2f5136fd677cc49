"""What every verifier of revocations keeps to."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Protocol

import pytest

from broker.domain.catalog import CredentialRole
from broker.domain.errors import CredentialBackendUnavailableError
from broker.ports.verifying import RevocationVerifier

PATIENCE = timedelta(seconds=5)


class Backend(Protocol):
    """A backend, and its verifier."""

    role: CredentialRole

    @property
    def verifier(self) -> RevocationVerifier: ...

    def let_in(self, account: str) -> None: ...

    def refuse(self, account: str) -> None: ...

    def away(self) -> AbstractContextManager[None]: ...


class VerifierCases:
    """Needs a fixture `backend`."""

    async def ask(self, backend: Backend, account: str) -> bool:
        return await backend.verifier.refuses(backend.role, account, timeout=PATIENCE)

    async def test_who_is_let_in_is_not_refused_and_who_is_no_more_is(self, backend: Backend) -> None:
        backend.let_in("account-one")
        backend.let_in("account-two")
        assert not await self.ask(backend, "account-one")
        backend.refuse("account-one")
        assert await self.ask(backend, "account-one")
        assert not await self.ask(backend, "account-two")

    async def test_who_was_never_there_is_refused(self, backend: Backend) -> None:
        for account in ("account-never", "it's; DROP ROLE nobody --", "a/b?c=d", "%2e%2e"):
            assert await self.ask(backend, account)

    async def test_a_backend_that_does_not_answer_is_not_believed_to_refuse(self, backend: Backend) -> None:
        backend.let_in("account-one")
        assert not await self.ask(backend, "account-one")
        with backend.away(), pytest.raises(CredentialBackendUnavailableError):
            await self.ask(backend, "account-one")
        assert not await self.ask(backend, "account-one"), "asked on a new connection"
