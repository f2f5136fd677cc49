"""From nothing to the schema that the code expects, and never over a newer one."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, inspect
from sqlalchemy.pool import NullPool

from broker.adapters.store.migrating import SchemaVersionError
from broker.adapters.store.quarantine import StoredQuarantine
from broker.adapters.store.schema import metadata
from broker.adapters.store.sqlite import SqliteStore
from tests.fakes.samples import OTHER, OWNER
from tests.unit.store.files import raw, url


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "broker.db"


async def opened(path: Path) -> None:
    """Open the store, which migrates it, and close it again."""
    store = SqliteStore.open(url(path))
    assert await store.audit_head() is None
    await store.close()


def content(path: Path) -> bytes:
    return path.read_bytes()


async def test_an_empty_database_gets_the_schema_that_the_code_expects(path: Path) -> None:
    await opened(path)
    engine = create_engine(url(path), poolclass=NullPool)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        unique = {
            index["name"]
            for table in metadata.tables
            for index in inspect(connection).get_indexes(table)
            if index["unique"]
        }
    assert unique == {"tasks_one_per_key", "leases_one_per_key"}


async def test_a_database_that_is_up_to_date_is_left_as_it_is(path: Path) -> None:
    await opened(path)
    before = content(path)
    await opened(path)
    assert content(path) == before


async def test_a_migration_that_stops_half_way_leaves_nothing_of_it(path: Path) -> None:
    with raw(path) as connection:
        connection.execute("CREATE TABLE task_tokens (something TEXT)")  # in the way of the last table
    with pytest.raises(Exception, match="task_tokens"):
        SqliteStore.open(url(path))
    with raw(path) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
        assert tables == [("task_tokens",)]
        connection.execute("DROP TABLE task_tokens")
    await opened(path)


async def test_a_database_of_a_newer_version_is_refused_and_left_as_it_is(path: Path) -> None:
    await opened(path)
    with raw(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    before = content(path)
    for _ in range(2):  # and the file is not kept locked
        with pytest.raises(SchemaVersionError, match="9999"):
            SqliteStore.open(url(path))
    assert content(path) == before
    with raw(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    await opened(path)


def test_no_column_is_made_for_a_secret() -> None:
    names = {column.name for table in metadata.tables.values() for column in table.columns}
    for word in ("secret", "password", "credential", "token", "username", "value"):
        assert not {name for name in names if word in name}


async def test_who_is_quarantined_is_known_after_a_refresh(path: Path) -> None:
    store = SqliteStore.open(url(path))
    quarantine = StoredQuarantine(store)
    with raw(path) as connection:
        connection.execute("INSERT INTO quarantined_instances VALUES (?, 0, 'tests')", (str(OWNER),))
    assert not quarantine.holds(OWNER)
    await quarantine.refresh()
    assert quarantine.holds(OWNER)
    assert not quarantine.holds(OTHER)
    await store.close()
