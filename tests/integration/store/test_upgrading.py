"""Replicas are upgraded one after another: the schema changes under those that work, and they go on."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from broker.adapters.store import migrating
from broker.adapters.store.migrating import SchemaVersionError
from broker.adapters.store.postgresql import PostgresStore
from broker.domain import changes as c
from broker.domain.audit import verify_chain
from broker.domain.identifiers import TaskId
from broker.domain.lease import LeaseState
from tests.contract.storing import MANY, add_lease, end
from tests.fakes.samples import a_lease, a_task, an_event
from tests.integration.store.conftest import Database

NEXT = '''
"""What the next version might bring."""

import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{head}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("leases", sa.Column("something", sa.Text(), nullable=True))
    op.add_column("tasks", sa.Column("counted", sa.Integer(), nullable=False, server_default="0"))
    op.create_table("inventions", sa.Column("name", sa.Text(), primary_key=True))
    op.create_index("leases_by_something", "leases", ["something"])
    {more}
'''
Upgrade = Callable[..., None]


@pytest.fixture
def upgrade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Database, str], None]:
    """The start of a replica of the next version, as far as the database can tell."""

    def do(database: Database, more: str = "pass") -> None:
        migrations = tmp_path / "migrations"
        shutil.copytree(migrating._MIGRATIONS, migrations)
        files = (migrations / "versions").glob("[0-9]*.py")
        head = max(file.name.partition("_")[0] for file in files)
        (migrations / "versions/9999_next.py").write_text(NEXT.format(head=head, more=more))
        with monkeypatch.context() as newer:
            newer.setattr(migrating, "_MIGRATIONS", migrations)
            asyncio.run(database.open().close())

    return do


async def work(store: PostgresStore, name: str, stop: asyncio.Event) -> int:
    """Tasks from their beginning to their end, until told to stop."""
    done = 0
    while not stop.is_set():
        task = TaskId(f"task-{name}-{done}")
        await store.commit([c.CreateTask(task=a_task(task), max_live=MANY), c.Append(event=an_event())])
        await add_lease(store, a_lease(f"lease-{name}-{done}", task_id=task), LeaseState.REVOKED)
        await store.commit([end(task), c.Append(event=an_event())])
        assert len(await store.leases_of(task)) == 1
        done += 1
    return done


async def test_those_that_work_go_on_while_the_schema_changes_and_may_be_started_again(
    database: Database, upgrade: Upgrade
) -> None:
    one, other = database.open(), database.open()
    stop = asyncio.Event()
    at_work = [
        asyncio.create_task(work(store, name, stop)) for store, name in ((one, "one"), (other, "other"))
    ]
    await asyncio.sleep(0.5)
    await asyncio.to_thread(upgrade, database)
    await asyncio.sleep(0.5)
    stop.set()
    assert all(done > 10 for done in await asyncio.gather(*at_work)), "without an error"
    await one.close()
    again = database.open()  # of this version: it crashed in the middle of the upgrade
    await again.commit([c.Append(event=an_event())])
    records = await again.audit_records(0, MANY)
    assert verify_chain(records) == await other.audit_head()
    await again.close()
    await other.close()


def test_a_version_that_has_to_leave_the_others_behind_says_so(database: Database, upgrade: Upgrade) -> None:
    upgrade(
        database,
        "from broker.adapters.store.migrating import leave_behind; leave_behind(op.get_bind(), revision)",
    )
    with pytest.raises(SchemaVersionError, match="9999"):
        database.open()


async def test_a_database_of_the_version_before_keeps_all_that_it_holds(template: Database) -> None:
    """0004 was the schema before replicas: its statements go on to work, and its rows are there."""
    name = "of_the_version_before"
    with psycopg.connect(template.server.postgres.admin_dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} OWNER broker")
    database = Database(template.server, name, template.password_file)
    config = Config()
    config.set_main_option("script_location", str(migrating._MIGRATIONS))
    dsn = f"{database.url.replace('postgresql://broker@', 'postgresql+psycopg://broker:not-so-secret@')}"
    engine = create_engine(dsn, poolclass=NullPool)
    with engine.begin() as connected:
        config.attributes["connection"] = connected
        command.upgrade(config, "0004")
        insert = (
            "INSERT INTO tasks (task_id, owner, agent_class, task_type, intent, roles, environment, created_at, "
            "deadline, heartbeat_interval_us, heartbeat_due, fingerprint, request_digest, state) VALUES "
            "('{}', 'spiffe://example.test/agent/x/1', 'x', 't', 'i', '[]', 'e', 1, 2, 3, 4, '', 'd', 'active')"
        )
        connected.exec_driver_sql(insert.format("task-before"))
    store = database.open()
    await store.commit([end("task-before"), c.Append(event=an_event())])
    assert await store.task(TaskId("task-before")) is not None
    with engine.begin() as connected:  # a replica of the version before is still at work
        connected.exec_driver_sql(insert.format("task-after"))
    await store.commit([end("task-after")])
    assert {task.task_id for task in await store.take_ending_tasks(MANY)} == {"task-before", "task-after"}
    await store.close()
    engine.dispose()
