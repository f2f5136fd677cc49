"""Looks at the fake backend as the broker looks at Vault."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

from broker.domain.errors import CredentialBackendUnavailableError
from broker.domain.identifiers import TokenAccessor, VaultLeaseId
from broker.ports.reconciling import BackendToken, MayNotLookError
from tests.fakes.issuer import FakeIssuer
from tests.fakes.system import NOON


class FakeView:
    """Implements ports.reconciling.BackendView. Tokens are as old as NOON unless a test says otherwise."""

    def __init__(self, issuer: FakeIssuer, *, store: str = "fake-store") -> None:
        self._issuer = issuer
        self.store = store
        self.made_at: dict[TokenAccessor, datetime] = {}
        self.made_for: dict[TokenAccessor, str] = {}
        """Tokens of other stores."""
        self.given_up: list[VaultLeaseId] = []
        self.forbidden = False

    async def knows(self, vault_lease_id: VaultLeaseId, *, timeout: timedelta) -> bool:  # noqa: ARG002
        self._answer()
        return vault_lease_id in self._issuer.leases

    async def task_tokens(self, *, timeout: timedelta) -> AsyncIterator[BackendToken]:  # noqa: ARG002
        self._answer(listing=True)
        for accessor, token in list(self._issuer.tokens.items()):
            yield BackendToken(
                accessor=accessor,
                task_id=token.task_id,
                store=self.made_for.get(accessor, self.store),
                made_at=self.made_at.get(accessor, NOON),
            )

    async def stranded(self, *, timeout: timedelta) -> tuple[VaultLeaseId, ...]:  # noqa: ARG002
        self._answer(listing=True)
        return tuple(one for one in self.given_up if one in self._issuer.leases)

    def _answer(self, *, listing: bool = False) -> None:
        if self._issuer.away:
            raise CredentialBackendUnavailableError
        if listing and self.forbidden:
            message = "not allowed"
            raise MayNotLookError(message)
