"""From nothing to the schema that the code expects, and never over a newer one."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, inspect
from sqlalchemy.pool import NullPool

from broker.adapters.store import chain_sql, migrating
from broker.adapters.store.migrating import SchemaVersionError
from broker.adapters.store.schema import metadata
from broker.adapters.store.session import EPOCH
from broker.adapters.store.sqlite import SqliteStore
from broker.domain.audit import ChainHead
from broker.domain.changes import CreateTask, HoldTask, RecordFinding
from broker.domain.findings import Hold
from broker.domain.quarantine import Quarantine, QuarantineTarget, TargetKind
from tests.contract.finding import a_finding
from tests.fakes.samples import OWNER, TASK, a_task
from tests.unit.store.files import raw, url

COLUMNS = "SELECT m.type, m.name, c.name FROM sqlite_master AS m LEFT JOIN pragma_table_info(m.name) AS c ORDER BY 1, 2, 3"


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
    assert unique == {
        "findings_in_order",
        "tasks_one_per_key",
        "leases_one_per_key",
        "actions_in_order",
        "actions_one_per_key",
    }


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


async def test_a_database_that_left_this_version_behind_is_refused_and_left_as_it_is(path: Path) -> None:
    await opened(path)
    with raw(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.execute("UPDATE store_facts SET fact = '9998' WHERE name = 'oldest-version'")
        connection.commit()
    before = content(path)
    for _ in range(2):  # and the file is not kept locked
        with pytest.raises(SchemaVersionError, match="9999"):
            SqliteStore.open(url(path))
    assert content(path) == before
    with raw(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0009'")
    await opened(path)


async def test_a_newer_database_that_says_this_version_may_go_on_is_used_and_left_as_it_is(
    path: Path,
) -> None:
    await opened(path)
    with raw(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    before = content(path)
    await opened(path)
    assert content(path) == before


def test_no_column_is_made_for_a_secret() -> None:
    names = {column.name for table in metadata.tables.values() for column in table.columns}
    for word in ("secret", "password", "credential", "token", "username", "value"):
        assert not {name for name in names if word in name}


def moved(path: Path, move: Callable[[Config, str], None], revision: str) -> None:
    """Up or down to a schema."""
    config = Config()
    config.set_main_option("script_location", str(migrating._MIGRATIONS))
    engine = create_engine(url(path), poolclass=NullPool)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        move(config, revision)
    engine.dispose()


async def test_a_store_of_the_first_schema_keeps_who_is_quarantined(path: Path) -> None:
    moved(path, command.upgrade, "0001")
    with raw(path) as connection:
        connection.execute("INSERT INTO quarantined_instances VALUES (?, 7, 'tests')", (str(OWNER),))
        connection.execute("INSERT INTO audit_records VALUES (1, 'p', 'h', 'k', 0, 'a', '', '', '', '{}')")
    store = SqliteStore.open(url(path))
    target = QuarantineTarget(kind=TargetKind.INSTANCE, name=str(OWNER))
    since = EPOCH + timedelta(microseconds=7)
    assert await store.quarantines() == (Quarantine(target=target, by="", reason="tests", since=since),)
    assert await store.audit_head() == ChainHead(sequence=1, hash="h")
    await store.close()
    with raw(path) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    assert "quarantined_instances" not in names


async def test_the_schema_of_findings_is_taken_back_and_made_again_around_what_was_there(path: Path) -> None:
    moved(path, command.upgrade, "0007")
    with raw(path) as connection:
        before = connection.execute(COLUMNS).fetchall()
    moved(path, command.upgrade, "0008")
    store = SqliteStore.open(url(path))
    await store.commit([CreateTask(task=a_task(), max_live=1), RecordFinding(finding=a_finding())])
    await store.commit([HoldTask(task_id=TASK, hold=Hold.FROZEN)])
    await store.close()
    moved(path, command.downgrade, "0007")
    with raw(path) as connection:
        assert connection.execute(COLUMNS).fetchall() == before
    store = SqliteStore.open(url(path))
    assert await store.task(TASK) == a_task()
    assert await store.newest_finding() == 0
    await store.close()


async def test_no_broker_that_ignores_holds_begins_on_a_schema_that_has_them(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await opened(path)
    older = tmp_path / "migrations"
    shutil.copytree(migrating._MIGRATIONS, older)
    for file in (older / "versions").glob("[0-9]*.py"):
        if file.name >= "0008":
            file.unlink()
    with monkeypatch.context() as before:
        before.setattr(migrating, "_MIGRATIONS", older)
        with pytest.raises(SchemaVersionError, match="0009"):
            SqliteStore.open(url(path))
    await opened(path)


async def test_only_what_sticks_is_in_the_index_of_what_was_denied_and_it_is_used(path: Path) -> None:
    await opened(path)
    sql, _ = chain_sql._DENIED.for_sqlite()
    names = dict.fromkeys(re.findall(r":(\w+)", sql), 1)
    with raw(path) as connection:
        plan = str(connection.execute(f"EXPLAIN QUERY PLAN {sql}", names).fetchall())
        (index,) = connection.execute(
            "SELECT sql FROM sqlite_master WHERE name = 'actions_denied'"
        ).fetchone()
    assert "actions_denied" in plan
    assert "WHERE sticks_until IS NOT NULL" in index
