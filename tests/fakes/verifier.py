"""A backend that can be asked what it refuses."""

from __future__ import annotations

from datetime import timedelta

from broker.domain.catalog import CredentialRole
from broker.domain.errors import CredentialBackendUnavailableError


class FakeVerifier:
    """Implements ports.verifying.RevocationVerifier."""

    def __init__(self) -> None:
        self.accounts: set[str] = set()
        """Those that the backend lets in."""
        self.away = False
        self.asked: list[tuple[str, str]] = []

    async def refuses(self, verifier: CredentialRole, account: str, *, timeout: timedelta) -> bool:  # noqa: ARG002 - the port's
        self.asked.append((verifier.name, account))
        if self.away:
            raise CredentialBackendUnavailableError
        return account not in self.accounts
