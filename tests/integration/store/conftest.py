"""One PostgreSQL server for the tests of this folder, and a database of its own for each."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from broker.adapters.store.postgresql import PostgresStore
from broker.devstack.stack import DevStack
from tests.integration.postgres_alone import postgres_alone

_NUMBERS = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Database:
    """An empty database, migrated, and its owner's way in."""

    server: DevStack
    name: str
    password_file: Path

    @property
    def url(self) -> str:
        return f"postgresql://broker@127.0.0.1:{self.server.postgres.port}/{self.name}"

    @property
    def admin_dsn(self) -> str:
        return f"{self.server.postgres.admin_dsn} dbname={self.name}"

    def open(self, *, read_only: bool = False) -> PostgresStore:
        return PostgresStore.open(self.url, password_file=self.password_file, read_only=read_only)

    def as_admin(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(self.admin_dsn, autocommit=True)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    with postgres_alone(tmp_path_factory.mktemp("database") / "dev") as stack:
        yield stack


@pytest.fixture(scope="session")
def template(server: DevStack, tmp_path_factory: pytest.TempPathFactory) -> Database:
    """A database that has been migrated once, to be copied; under a collation that is not ours."""
    password_file = tmp_path_factory.mktemp("password") / "password"
    password_file.write_text("not-so-secret\n")
    with psycopg.connect(server.postgres.admin_dsn, autocommit=True) as connection:
        connection.execute("CREATE ROLE broker LOGIN PASSWORD 'not-so-secret'")
        connection.execute(
            "CREATE DATABASE template_of_stores OWNER broker TEMPLATE template0 "
            "LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C'"
        )
    database = Database(server, "template_of_stores", password_file)
    asyncio.run(database.open().close())
    return database


@pytest.fixture
def database(template: Database) -> Iterator[Database]:
    name = f"store_{next(_NUMBERS)}"
    with psycopg.connect(template.server.postgres.admin_dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} OWNER broker TEMPLATE {template.name}")
    yield Database(template.server, name, template.password_file)
    with psycopg.connect(template.server.postgres.admin_dsn, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
