"""A secrets backend in memory that can be away, refuse, forget, and do a thing without saying so."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum, auto

from broker.domain.catalog import CredentialRole
from broker.domain.errors import CredentialBackendUnavailableError, LeaseNotRenewableError
from broker.domain.identifiers import TaskId, TokenAccessor, VaultLeaseId
from broker.domain.secret import Secret
from broker.ports.issuing import (
    IssuedCredential,
    IssueInDoubtError,
    IssueRefusedError,
    TokenGoneError,
    TokenGrant,
)


class Trouble(Enum):
    """What can go wrong with one issue."""

    REFUSED = auto()
    TOKEN_GONE = auto()
    """Nothing is made: the backend no longer takes the token."""
    NOT_DONE_IN_DOUBT = auto()
    """No answer, and nothing was made."""
    DONE_IN_DOUBT = auto()
    """No answer, but the credential was made."""


@dataclass(slots=True, kw_only=True)
class Token:
    """A token as the backend knows it."""

    task_id: TaskId
    roles: frozenset[str]
    ttl: timedelta
    value: str


@dataclass(slots=True, kw_only=True)
class Hold:
    """An operation that stands still: `entered` once it was asked for, until `let_go` is set."""

    entered: asyncio.Event = field(default_factory=asyncio.Event)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What the broker asked the backend for."""

    operation: str
    about: str
    task_id: str = ""
    increment: timedelta | None = None
    timeout: timedelta


class FakeIssuer:
    """Implements ports.issuing.CredentialIssuer. While `away`, there is no answer, and nothing is done; while it
    `loses_answers`, there is none either, but everything is done."""

    def __init__(self) -> None:
        self.away = False
        self.loses_answers = False
        self.deaf_to: set[str] = set()
        """Operations that are answered with success and do nothing."""
        self.refuses: set[str] = set()
        """Roles that the backend does not know."""
        self.least_ttl = timedelta()
        self.most_ttl = timedelta(hours=25)
        self.troubles: deque[Trouble] = deque()
        """What goes wrong with the next issues, one each."""
        self.tokens: dict[TokenAccessor, Token] = {}
        """Those that are accepted now."""
        self.leases: dict[VaultLeaseId, TokenAccessor] = {}
        """Those that are accepted now."""
        self.made = 0
        self.calls: list[Call] = []
        self._holds: dict[str, Hold] = {}

    @contextmanager
    def holding(self, operation: str) -> Iterator[Hold]:
        """Let every `operation` (a method's name) stand still before it does anything."""
        self._holds[operation] = hold = Hold()
        try:
            yield hold
        finally:
            hold.let_go.set()
            del self._holds[operation]

    def count(self, operation: str) -> int:
        return sum(call.operation == operation for call in self.calls)

    def lose_token(self, accessor: TokenAccessor) -> None:
        """The backend forgets a token, and revokes what was made under it."""
        self.tokens.pop(accessor, None)
        for lease_id in [lease for lease, under in self.leases.items() if under == accessor]:
            del self.leases[lease_id]

    async def open_task(
        self, task_id: TaskId, roles: Sequence[CredentialRole], ttl: timedelta, *, timeout: timedelta
    ) -> TokenGrant:
        if not roles:
            message = "a token needs a role"
            raise ValueError(message)
        await self._answer(Call(operation="open_task", about="", task_id=task_id, timeout=timeout))
        self.made += 1
        accessor = TokenAccessor(f"accessor-{self.made}")
        token = Token(
            task_id=task_id,
            roles=frozenset(role.name for role in roles),
            ttl=ttl,
            value=f"token-value-{self.made}",
        )
        self.tokens[accessor] = token
        self._lose_answer()
        return TokenGrant(accessor=accessor, token=Secret(token.value))

    async def issue(
        self, grant: TokenGrant, task_id: TaskId, role: CredentialRole, *, timeout: timedelta
    ) -> IssuedCredential:
        try:
            await self._answer(Call(operation="issue", about=role.name, task_id=task_id, timeout=timeout))
        except CredentialBackendUnavailableError:
            message = "no answer"
            raise IssueInDoubtError(message) from None
        trouble = self.troubles.popleft() if self.troubles else None
        if trouble is Trouble.TOKEN_GONE:
            self.lose_token(grant.accessor)
        token = self.tokens.get(grant.accessor)
        if token is None or token.value != grant.token.reveal() or role.name not in token.roles:
            raise TokenGoneError
        if trouble is Trouble.REFUSED or role.name in self.refuses:
            message = "status 400"
            raise IssueRefusedError(message)
        if trouble is Trouble.NOT_DONE_IN_DOUBT:
            message = "no answer"
            raise IssueInDoubtError(message)
        self.made += 1
        lease_id = VaultLeaseId(f"{role.vault_path}/{self.made}")
        self.leases[lease_id] = grant.accessor
        if trouble is Trouble.DONE_IN_DOUBT or self.loses_answers:
            message = "no answer"
            raise IssueInDoubtError(message)
        return IssuedCredential(
            vault_lease_id=lease_id,
            ttl=role.ttl,
            renewable=True,
            secret={
                "username": Secret(f"user-{self.made}"),
                "password": Secret(f"secret-password-{self.made}"),
            },
        )

    async def renew(
        self, vault_lease_id: VaultLeaseId, increment: timedelta, *, timeout: timedelta
    ) -> timedelta:
        await self._answer(
            Call(operation="renew", about=vault_lease_id, increment=increment, timeout=timeout)
        )
        if vault_lease_id not in self.leases:
            raise LeaseNotRenewableError
        self._lose_answer()
        return max(min(increment, self.most_ttl), self.least_ttl)

    async def revoke(self, vault_lease_id: VaultLeaseId, *, timeout: timedelta) -> None:
        await self._answer(Call(operation="revoke", about=vault_lease_id, timeout=timeout))
        if "revoke" not in self.deaf_to:
            self.leases.pop(vault_lease_id, None)
        self._lose_answer()

    async def see_that_it_is_gone(self, vault_lease_id: VaultLeaseId, *, timeout: timedelta) -> None:
        await self._answer(Call(operation="look", about=vault_lease_id, timeout=timeout))
        if vault_lease_id in self.leases:
            raise CredentialBackendUnavailableError

    async def revoke_token(self, accessor: TokenAccessor, *, timeout: timedelta) -> None:
        await self._answer(Call(operation="revoke_token", about=accessor, timeout=timeout))
        self.lose_token(accessor)
        self._lose_answer()

    def _lose_answer(self) -> None:
        if self.loses_answers:
            raise CredentialBackendUnavailableError

    async def _answer(self, call: Call) -> None:
        self.calls.append(call)
        hold = self._holds.get(call.operation)
        if hold is not None:
            hold.entered.set()
            await hold.let_go.wait()
        await asyncio.sleep(0)  # as every call to a backend does, it gives way to others
        if self.away:
            raise CredentialBackendUnavailableError
