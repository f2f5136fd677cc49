"""The issuer keeps its contract with a real Vault, PostgreSQL and SPIRE behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from urllib.parse import urlsplit

import psycopg
import pytest
import pytest_asyncio

from broker.adapters.system.clock import SystemClock
from broker.adapters.vault.as_broker import AsBroker
from broker.adapters.vault.connection import VaultConnection
from broker.adapters.vault.issuer import VaultCredentialIssuer
from broker.adapters.vault.login import VaultLogin
from broker.adapters.vault.view import VaultView
from broker.devstack.stack import DevStack
from broker.devstack.state import BROKER_GROUP
from broker.domain.identifiers import TokenAccessor
from broker.domain.secret import Secret
from broker.ports.issuing import IssuedCredential, TokenGoneError
from tests.contract.issuing import HOUR, PATIENCE, IssuerCases, issued, opened, until
from tests.contract.reconciling import ViewCases
from tests.fakes.samples import TASK, a_role
from tests.integration.contract.relay import Mode, Relay
from tests.integration.devstack.test_credentials import jwt_of

REFUSALS = ("authentication failed", "not permitted to log in", "does not exist")
CUT_OFF = ("server closed the connection", "terminating connection")
"""The user is being removed at this very moment: ask again."""


class VaultBackend:
    """Implements tests.contract.issuing.Backend."""

    def __init__(self, stack: DevStack, relay: Relay, login: VaultLogin, connection: VaultConnection) -> None:
        self.role = a_role("orders-readonly")
        self.unknown_role = a_role("unknown")
        self.login = login
        as_broker = AsBroker(connection=connection, login=login)
        self.store = "tests"
        self.issuer = VaultCredentialIssuer(
            as_broker=as_broker, token_role="tasklease-task", store=self.store
        )
        self.view = VaultView(as_broker)
        self.vault = stack.vault.admin()
        self._postgres = stack.postgres
        self._relay = relay

    async def accepts(self, credential: IssuedCredential) -> bool:
        return await asyncio.to_thread(self._lets_in, credential)

    async def accepted(self) -> int:
        return await asyncio.to_thread(self._count)

    async def lose_token(self, accessor: TokenAccessor) -> None:
        self.vault.auth.token.revoke_accessor(accessor)

    def silent(self) -> AbstractContextManager[None]:
        return self._relay.passing(Mode.NOTHING)

    def losing_answers(self) -> AbstractContextManager[None]:
        return self._relay.passing(Mode.QUESTIONS)

    def _lets_in(self, credential: IssuedCredential) -> bool:
        secret = credential.secret
        dsn = self._postgres.dsn(secret["username"].reveal(), secret["password"].reveal())
        while True:
            try:
                with psycopg.connect(dsn) as session:
                    return session.execute("SELECT count(*) FROM orders").fetchone() == (250,)
            except psycopg.OperationalError as error:
                if any(words in str(error) for words in REFUSALS):
                    return False
                if not any(words in str(error) for words in CUT_OFF):
                    raise

    def _count(self) -> int:
        with psycopg.connect(self._postgres.admin_dsn) as session:
            row = session.execute("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'").fetchone()
        assert row is not None
        return int(row[0])


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    stack = DevStack(tmp_path_factory.mktemp("issuer") / "dev", say=print)
    try:
        stack.up(with_broker=False)
        stack.spire.wait_for_identity(stack.spire.register_broker())
        # A role that Vault lets be asked for, and that its database engine does not know.
        rule = 'path "database/creds/unknown" { capabilities = ["read"] }'
        stack.vault.admin().sys.create_or_update_policy("tasklease-role-unknown", rule)
        yield stack
    finally:
        stack.down(purge=True)


class TestVaultIssuer(IssuerCases, ViewCases):
    @pytest_asyncio.fixture
    async def backend(self, stack: DevStack) -> AsyncIterator[VaultBackend]:
        port = urlsplit(stack.vault.address).port
        assert port is not None
        relay = Relay(port)
        await relay.start()
        connection = VaultConnection(address=relay.address)

        async def fetch_jwt_svid(audience: str) -> Secret:
            return Secret(await asyncio.to_thread(jwt_of, stack, BROKER_GROUP, audience))

        login = VaultLogin(
            connection=connection,
            fetch_jwt_svid=fetch_jwt_svid,
            auth_mount="jwt",
            auth_role="tasklease-broker",
            audience="vault",
            clock=SystemClock(),
        )
        backend = VaultBackend(stack, relay, login, connection)
        yield backend
        await asyncio.to_thread(backend.vault.sys.revoke_prefix, "database/creds")
        connection.close()
        await relay.stop()

    async def test_a_token_that_ends_by_itself_takes_its_credentials_with_it(
        self, backend: VaultBackend
    ) -> None:
        grant = await backend.issuer.open_task(TASK, (backend.role,), timedelta(seconds=2), timeout=PATIENCE)
        credential = await issued(backend, grant)
        assert await backend.accepts(credential)

        async def gone() -> bool:
            return not await backend.accepts(credential)

        await until(gone)
        with pytest.raises(TokenGoneError):
            await issued(backend, grant)

    async def test_a_tasks_token_cannot_be_renewed_and_says_whose_it_is(self, backend: VaultBackend) -> None:
        grant = await opened(backend)
        data = backend.vault.auth.token.lookup_accessor(grant.accessor)["data"]
        assert (data["orphan"], data["renewable"], data["type"]) == (True, False, "service")
        assert data["policies"] == ["tasklease-role-orders-readonly"]
        assert data["meta"] == {"tasklease_task": TASK, "tasklease_store": "tests"}
        assert TASK in data["display_name"]
        assert data["explicit_max_ttl"] == HOUR.total_seconds()

    async def test_what_the_brokers_own_token_made_outlives_it(self, backend: VaultBackend) -> None:
        grant = await opened(backend)
        credential = await issued(backend, grant)
        own = await backend.login.token()
        await asyncio.to_thread(backend.vault.write_data, "auth/token/revoke", data={"token": own.reveal()})
        assert await backend.accepts(credential)
        assert await backend.accepts(await issued(backend, grant))
        # The broker logs in again within the call.
        await backend.issuer.revoke(credential.vault_lease_id, timeout=PATIENCE)
        assert not await backend.accepts(credential)
        assert await backend.login.token() != own
