"""PostgreSQL itself is asked whether it refuses what was revoked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import psycopg
import pytest
import pytest_asyncio

from broker.adapters.backends.observing import BackendVerifier
from broker.devstack import postgres
from broker.devstack.stack import DevStack
from broker.domain.catalog import CredentialRole, Destination
from broker.domain.secret import Secret
from tests.contract.verifying import PATIENCE, VerifierCases
from tests.fakes.samples import a_role
from tests.integration.postgres_alone import postgres_alone


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    with postgres_alone(tmp_path_factory.mktemp("asked") / "dev") as stack:
        with psycopg.connect(stack.postgres.admin_dsn, autocommit=True) as admin:
            admin.execute("CREATE ROLE observer LOGIN PASSWORD 'looks-only'")
        yield stack


class Postgres:
    def __init__(self, server: DevStack) -> None:
        self.server = server
        self.fetched = 0
        self.password = "looks-only"
        self.verifier = BackendVerifier(self.fetch)
        destination = Destination(host="127.0.0.1", port=server.postgres.port, scheme="postgresql")
        self.role = a_role("observer", destination=destination)
        self._made: set[str] = set()

    async def fetch(self, _role: CredentialRole, _timeout: timedelta) -> Mapping[str, Secret]:
        self.fetched += 1
        return {"username": Secret("observer"), "password": Secret(self.password)}

    def execute(self, sql: str) -> None:
        with psycopg.connect(self.server.postgres.admin_dsn, autocommit=True) as admin:
            admin.execute(sql)

    def let_in(self, account: str) -> None:
        self._made.add(account)
        self.execute(f"CREATE ROLE \"{account}\" LOGIN PASSWORD 'word'")

    def refuse(self, account: str) -> None:
        self._made.discard(account)
        self.execute(f'DROP ROLE "{account}"')

    @contextmanager
    def away(self) -> Iterator[None]:
        self.server.stop_part(postgres.NAME)
        try:
            yield
        finally:
            self.server.start_part(postgres.NAME)

    async def clean(self) -> None:
        await self.verifier.close()
        for account in list(self._made):
            self.refuse(account)


@pytest_asyncio.fixture
async def backend(server: DevStack) -> AsyncIterator[Postgres]:
    postgres_ = Postgres(server)
    yield postgres_
    await postgres_.clean()


class TestPostgresVerifier(VerifierCases):
    pass


async def test_a_session_that_outlives_its_role_is_somebody_who_is_in(backend: Postgres) -> None:
    backend.let_in("account-one")
    session = psycopg.connect(backend.server.postgres.dsn("account-one", "word"))
    backend.execute('ALTER ROLE "account-one" NOLOGIN')
    assert not await backend.verifier.refuses(backend.role, "account-one", timeout=PATIENCE)
    session.close()
    await asyncio.sleep(0.2)
    assert await backend.verifier.refuses(backend.role, "account-one", timeout=PATIENCE)


async def test_one_connection_serves_many_questions(backend: Postgres) -> None:
    answers = await asyncio.gather(
        *(backend.verifier.refuses(backend.role, f"account-{n}", timeout=PATIENCE) for n in range(50))
    )
    assert all(answers)
    assert backend.fetched == 1


async def test_when_its_credential_has_run_out_it_gets_another(backend: Postgres) -> None:
    assert await backend.verifier.refuses(backend.role, "account-one", timeout=PATIENCE)
    backend.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'observer'")
    assert await backend.verifier.refuses(backend.role, "account-one", timeout=PATIENCE)
    assert backend.fetched == 2
