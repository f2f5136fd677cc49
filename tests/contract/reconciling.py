"""What every implementation of ports.reconciling.BackendView does. A suite a backend: give the fixture `backend`."""

from __future__ import annotations

from typing import Protocol

import pytest

from broker.domain.errors import CredentialBackendUnavailableError
from broker.domain.identifiers import TokenAccessor
from broker.ports.reconciling import BackendToken, BackendView
from tests.contract.issuing import NO_LEASE, PATIENCE, SOON, Backend, issued, opened
from tests.fakes.samples import TASK


class ViewedBackend(Backend, Protocol):
    """A backend that can be looked at."""

    @property
    def view(self) -> BackendView: ...

    @property
    def store(self) -> str:
        """For which store the issuer makes tokens."""
        ...


async def tokens(backend: ViewedBackend) -> dict[TokenAccessor, BackendToken]:
    return {one.accessor: one async for one in backend.view.task_tokens(timeout=PATIENCE)}


class ViewCases:
    async def test_a_lease_is_known_until_it_is_revoked(self, backend: ViewedBackend) -> None:
        grant = await opened(backend)
        lease_id = (await issued(backend, grant)).vault_lease_id
        assert await backend.view.knows(lease_id, timeout=PATIENCE)
        await backend.issuer.revoke(lease_id, timeout=PATIENCE)
        assert not await backend.view.knows(lease_id, timeout=PATIENCE)
        assert not await backend.view.knows(NO_LEASE, timeout=PATIENCE)

    async def test_a_tasks_token_is_seen_until_it_is_revoked_and_says_whose_it_is(
        self, backend: ViewedBackend
    ) -> None:
        before = await tokens(backend)
        grant = await opened(backend)
        (one,) = [found for accessor, found in (await tokens(backend)).items() if accessor not in before]
        assert (one.accessor, one.task_id, one.store) == (grant.accessor, TASK, backend.store)
        await backend.issuer.revoke_token(grant.accessor, timeout=PATIENCE)
        assert grant.accessor not in await tokens(backend)

    async def test_nothing_is_stranded_unless_the_backend_says_so(self, backend: ViewedBackend) -> None:
        assert await backend.view.stranded(timeout=PATIENCE) == ()

    async def test_without_an_answer_nothing_is_said_to_be_unknown(self, backend: ViewedBackend) -> None:
        grant = await opened(backend)
        lease_id = (await issued(backend, grant)).vault_lease_id
        with backend.silent():
            with pytest.raises(CredentialBackendUnavailableError):
                await backend.view.knows(lease_id, timeout=SOON)
            with pytest.raises(CredentialBackendUnavailableError):
                await backend.view.stranded(timeout=SOON)
            with pytest.raises(CredentialBackendUnavailableError):
                await anext(aiter(backend.view.task_tokens(timeout=SOON)))
        assert await backend.view.knows(lease_id, timeout=PATIENCE)
