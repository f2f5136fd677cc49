"""What every implementation of ports.issuing.CredentialIssuer does. A suite a backend: give the fixture `backend`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Protocol

import pytest

from broker.domain.catalog import CredentialRole
from broker.domain.errors import CredentialBackendUnavailableError, LeaseNotRenewableError
from broker.domain.identifiers import TokenAccessor, VaultLeaseId
from broker.ports.issuing import (
    CredentialIssuer,
    IssuedCredential,
    IssueInDoubtError,
    IssueRefusedError,
    TokenGoneError,
    TokenGrant,
)
from tests.fakes.samples import TASK

HOUR = timedelta(hours=1)
PATIENCE = timedelta(seconds=10)
SOON = timedelta(seconds=0.3)
NO_LEASE = VaultLeaseId("database/creds/orders-readonly/never")
NO_TOKEN = TokenAccessor("neverneverneverneverneve")


class Backend(Protocol):
    """A secrets backend, and what a test does to it."""

    @property
    def issuer(self) -> CredentialIssuer: ...

    @property
    def role(self) -> CredentialRole: ...

    @property
    def unknown_role(self) -> CredentialRole:
        """One that the backend has never heard of, though a token may be made for it."""
        ...

    async def accepts(self, credential: IssuedCredential) -> bool:
        """Whether the credential can be used."""
        ...

    async def accepted(self) -> int:
        """How many credentials can be used."""
        ...

    async def lose_token(self, accessor: TokenAccessor) -> None:
        """Have the backend forget a token."""
        ...

    def silent(self) -> AbstractContextManager[None]:
        """Meanwhile nothing that is asked arrives, and there is no answer."""
        ...

    def losing_answers(self) -> AbstractContextManager[None]:
        """Meanwhile what is asked is done, but no answer comes back."""
        ...


async def opened(backend: Backend, *roles: CredentialRole) -> TokenGrant:
    return await backend.issuer.open_task(TASK, roles or (backend.role,), HOUR, timeout=PATIENCE)


async def issued(backend: Backend, grant: TokenGrant) -> IssuedCredential:
    return await backend.issuer.issue(grant, TASK, backend.role, timeout=PATIENCE)


async def until(what: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await what():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)


class IssuerCases:
    async def test_an_issued_credential_can_be_used_and_has_a_lease(self, backend: Backend) -> None:
        credential = await issued(backend, await opened(backend))
        assert await backend.accepts(credential)
        assert set(credential.secret) == {"username", "password"}
        assert timedelta() < credential.ttl <= backend.role.ttl
        assert credential.renewable
        assert credential.vault_lease_id.startswith(backend.role.vault_path)

    async def test_every_issue_makes_another_credential(self, backend: Backend) -> None:
        grant = await opened(backend)
        first, second = await asyncio.gather(issued(backend, grant), issued(backend, grant))
        assert first.vault_lease_id != second.vault_lease_id
        assert first.secret["username"] != second.secret["username"]
        await backend.issuer.revoke(first.vault_lease_id, timeout=PATIENCE)
        assert not await backend.accepts(first)
        assert await backend.accepts(second)

    async def test_every_task_gets_another_token(self, backend: Backend) -> None:
        first, second = await opened(backend), await opened(backend)
        assert first.accessor != second.accessor
        assert first.token != second.token

    async def test_nothing_that_is_handed_over_shows_a_secret(self, backend: Backend) -> None:
        grant = await opened(backend)
        credential = await issued(backend, grant)
        shown = repr(grant) + str(grant) + repr(credential)
        for secret in (grant.token, *credential.secret.values()):
            assert secret.reveal() not in shown

    async def test_a_token_without_roles_is_never_made(self, backend: Backend) -> None:
        with pytest.raises(ValueError, match="token"):
            await backend.issuer.open_task(TASK, (), HOUR, timeout=PATIENCE)

    async def test_a_token_is_good_for_its_own_roles_alone(self, backend: Backend) -> None:
        grant = await opened(backend, backend.unknown_role)
        with pytest.raises(TokenGoneError):
            await issued(backend, grant)
        assert await backend.accepted() == 0

    async def test_a_token_is_good_for_each_of_its_roles(self, backend: Backend) -> None:
        grant = await opened(backend, backend.unknown_role, backend.role)
        assert await backend.accepts(await issued(backend, grant))

    async def test_a_role_that_the_backend_does_not_know_is_refused_and_nothing_is_made(
        self, backend: Backend
    ) -> None:
        grant = await opened(backend, backend.unknown_role)
        with pytest.raises(IssueRefusedError):
            await backend.issuer.issue(grant, TASK, backend.unknown_role, timeout=PATIENCE)
        assert await backend.accepted() == 0

    async def test_a_token_that_the_backend_lost_is_gone_and_its_credentials_with_it(
        self, backend: Backend
    ) -> None:
        grant = await opened(backend)
        credential = await issued(backend, grant)
        await backend.lose_token(grant.accessor)
        with pytest.raises(TokenGoneError):
            await issued(backend, grant)

        async def gone() -> bool:
            return not await backend.accepts(credential)

        await until(gone)

    async def test_a_renewal_answers_with_the_time_that_there_is(self, backend: Backend) -> None:
        credential = await issued(backend, await opened(backend))
        for increment in (timedelta(seconds=30), timedelta(minutes=10)):
            ttl = await backend.issuer.renew(credential.vault_lease_id, increment, timeout=PATIENCE)
            assert timedelta() < ttl <= increment
        assert await backend.accepts(credential)

    async def test_no_renewal_goes_beyond_the_backends_maximum(self, backend: Backend) -> None:
        credential = await issued(backend, await opened(backend))
        ttl = await backend.issuer.renew(credential.vault_lease_id, timedelta(days=30), timeout=PATIENCE)
        assert ttl <= timedelta(hours=25)

    async def test_a_lease_that_the_backend_does_not_know_is_not_renewed(self, backend: Backend) -> None:
        credential = await issued(backend, await opened(backend))
        await backend.issuer.revoke(credential.vault_lease_id, timeout=PATIENCE)
        for lease_id in (credential.vault_lease_id, NO_LEASE):
            with pytest.raises(LeaseNotRenewableError):
                await backend.issuer.renew(lease_id, HOUR, timeout=PATIENCE)

    async def test_a_revoked_credential_is_refused_when_the_call_returns(self, backend: Backend) -> None:
        credential = await issued(backend, await opened(backend))
        await backend.issuer.revoke(credential.vault_lease_id, timeout=PATIENCE)
        assert not await backend.accepts(credential)

    async def test_whether_a_lease_is_gone_is_looked_up(self, backend: Backend) -> None:
        credential = await issued(backend, await opened(backend))
        with pytest.raises(CredentialBackendUnavailableError):
            await backend.issuer.see_that_it_is_gone(credential.vault_lease_id, timeout=PATIENCE)
        await backend.issuer.revoke(credential.vault_lease_id, timeout=PATIENCE)
        for lease_id in (credential.vault_lease_id, NO_LEASE):
            await backend.issuer.see_that_it_is_gone(lease_id, timeout=PATIENCE)

    async def test_revoking_what_is_unknown_or_revoked_is_a_success(self, backend: Backend) -> None:
        grant = await opened(backend)
        credential = await issued(backend, grant)
        for _ in range(2):
            await backend.issuer.revoke(credential.vault_lease_id, timeout=PATIENCE)
            await backend.issuer.revoke(NO_LEASE, timeout=PATIENCE)
        for _ in range(2):
            await backend.issuer.revoke_token(grant.accessor, timeout=PATIENCE)
            await backend.issuer.revoke_token(NO_TOKEN, timeout=PATIENCE)

    async def test_a_revoked_token_makes_nothing_and_takes_what_it_made_with_it(
        self, backend: Backend
    ) -> None:
        grant, other = await opened(backend), await opened(backend)
        credentials = [await issued(backend, grant) for _ in range(2)]
        kept = await issued(backend, other)
        await backend.issuer.revoke_token(grant.accessor, timeout=PATIENCE)
        with pytest.raises(TokenGoneError):
            await issued(backend, grant)

        async def one_left() -> bool:
            return await backend.accepted() == 1

        await until(one_left)
        assert not any([await backend.accepts(credential) for credential in credentials])
        assert await backend.accepts(kept)

    async def test_a_revocation_whose_answer_is_lost_is_not_called_done_and_can_be_repeated(
        self, backend: Backend
    ) -> None:
        credential = await issued(backend, await opened(backend))
        with backend.losing_answers(), pytest.raises(CredentialBackendUnavailableError):
            await backend.issuer.revoke(credential.vault_lease_id, timeout=PATIENCE)
        await backend.issuer.revoke(credential.vault_lease_id, timeout=PATIENCE)
        assert not await backend.accepts(credential)

    async def test_an_issue_whose_answer_is_lost_is_in_doubt_and_its_token_takes_it_back(
        self, backend: Backend
    ) -> None:
        grant = await opened(backend)
        with backend.losing_answers(), pytest.raises(IssueInDoubtError):
            await issued(backend, grant)
        assert await backend.accepted() == 1
        await backend.issuer.revoke_token(grant.accessor, timeout=PATIENCE)

        async def none_left() -> bool:
            return await backend.accepted() == 0

        await until(none_left)

    async def test_a_backend_that_is_silent_is_not_waited_for_longer_than_asked(
        self, backend: Backend
    ) -> None:
        grant = await opened(backend)
        credential = await issued(backend, grant)
        issuer = backend.issuer
        away = CredentialBackendUnavailableError
        calls: list[tuple[type[Exception], Callable[[], Awaitable[object]]]] = [
            (away, lambda: issuer.open_task(TASK, (backend.role,), HOUR, timeout=SOON)),
            (IssueInDoubtError, lambda: issuer.issue(grant, TASK, backend.role, timeout=SOON)),
            (away, lambda: issuer.renew(credential.vault_lease_id, HOUR, timeout=SOON)),
            (away, lambda: issuer.revoke(credential.vault_lease_id, timeout=SOON)),
            (away, lambda: issuer.revoke_token(grant.accessor, timeout=SOON)),
        ]
        with backend.silent():
            for error, call in calls:
                began = time.monotonic()
                with pytest.raises(error):
                    await call()
                assert time.monotonic() - began < SOON.total_seconds() + 2
        assert await backend.accepted() == 1
        assert await backend.accepts(credential)
        await issuer.revoke_token(grant.accessor, timeout=PATIENCE)
