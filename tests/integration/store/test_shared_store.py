"""Two replicas on one real PostgreSQL: turns, claims, broken connections, what they tell each other."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from broker.adapters.store import postgresql, postgresql_session
from broker.adapters.store.following import AuditFollower
from broker.adapters.store.migrating import SchemaVersionError
from broker.adapters.store.opening import open_store
from broker.adapters.store.postgresql import PostgresStore
from broker.adapters.store.postgresql_session import PostgresSession
from broker.adapters.store.schema import metadata
from broker.adapters.store.sql_store import StoreUnusableError
from broker.devstack import postgres
from broker.domain import changes as c
from broker.domain.audit import AuditKind, AuditRecord, verify_chain
from broker.domain.errors import StoreUnavailableError
from broker.domain.findings import Hold
from broker.domain.identifiers import LeaseId, TaskId
from broker.domain.lease import LeaseState
from broker.ports.store import CLAIM, Conflict
from tests.contract.finding import a_finding
from tests.contract.storing import MANY, add_lease, add_task, end, finish, issue, refused, revoke
from tests.fakes.samples import TASK, a_lease, a_task, an_action, an_event
from tests.fakes.system import NOON
from tests.integration.store.conftest import Database

SECOND = timedelta(seconds=1)
ENDED = AuditKind.TASK_ENDED
LATER = NOON + timedelta(minutes=1)


@pytest_asyncio.fixture
async def one(database: Database) -> AsyncIterator[PostgresStore]:
    store = database.open()
    yield store
    await store.close()


@pytest_asyncio.fixture
async def other(database: Database) -> AsyncIterator[PostgresStore]:
    store = database.open()
    yield store
    await store.close()


def ids(found: Sequence[object]) -> list[str]:
    return sorted(str(getattr(item, "lease_id", None) or getattr(item, "task_id", "")) for item in found)


async def append(
    store: PostgresStore, count: int, name: str = "n", kind: str = AuditKind.TASK_DECLARED
) -> None:
    await asyncio.gather(
        *(
            store.commit([c.Append(event=an_event(kind=kind, facts={name: number}))])
            for number in range(count)
        )
    )


# Turns ---------------------------------------------------------------------------------------------------------


async def test_two_that_write_as_fast_as_they_can_make_one_chain(
    one: PostgresStore, other: PostgresStore
) -> None:
    await asyncio.gather(append(one, 200, "one"), append(other, 200, "other"))
    records = await one.audit_records(0, MANY)
    assert [record.sequence for record in records] == list(range(1, 401))
    assert verify_chain(records) == await other.audit_head()
    names = [next(iter(record.event.facts)) for record in records]
    assert "one" in names[:399]
    assert names != sorted(names, reverse=True), "they took turns"


async def test_a_precondition_holds_against_the_other_replica(
    one: PostgresStore, other: PostgresStore
) -> None:
    await add_task(one, a_task())
    results = await asyncio.gather(
        *(
            store.commit([c.CreateLease(lease=a_lease(f"lease-{number}"), max_live=5)])
            for number in range(10)
            for store in (one, other)
        ),
        return_exceptions=True,
    )
    assert sum(result is None for result in results) == 5
    assert len(await one.leases_of(TASK)) == 5


async def test_a_replica_that_hangs_in_its_turn_is_thrown_out(one: PostgresStore, database: Database) -> None:
    hanging = one._open_session()  # with the bounds that every replica sets
    hanging.begin()
    await append(one, 1)
    with pytest.raises(psycopg.Error):
        hanging.script("SELECT 1")
    hanging.close()


# Claims --------------------------------------------------------------------------------------------------------


async def test_what_one_took_the_other_does_not_get_until_the_claim_lapses(
    one: PostgresStore, other: PostgresStore
) -> None:
    await add_task(one, a_task())
    for name in ("lease-a", "lease-b", "lease-c"):
        await add_lease(one, a_lease(name), LeaseState.LIVE)
        await one.commit([revoke(name)])
    assert ids(await other.take_leases_to_revoke(LATER, MANY)) == [], "who makes work does it first"
    assert ids(await one.take_leases_to_revoke(LATER, MANY)) == ["lease-a", "lease-b", "lease-c"]
    assert ids(await one.take_leases_to_revoke(LATER, MANY, besides={LeaseId("lease-b")})) == [
        "lease-a",
        "lease-c",
    ]
    await asyncio.sleep(CLAIM.total_seconds() / 2)
    assert await one.hold([LeaseId("lease-a")]) == {"lease-a"}
    assert await other.hold([LeaseId("lease-a"), LeaseId("lease-b")]) == frozenset()
    await asyncio.sleep(CLAIM.total_seconds() / 2 + 0.1)
    assert ids(await other.take_leases_to_revoke(LATER, MANY)) == ["lease-b", "lease-c"]
    assert ids(await one.take_leases_to_revoke(LATER, MANY)) == ["lease-a"]


async def test_every_kind_of_work_is_taken_by_one_of_them(one: PostgresStore, other: PostgresStore) -> None:
    await add_task(one, a_task("task-lapsed", deadline=NOON, heartbeat_due=NOON))
    await add_task(one, a_task(deadline=LATER + SECOND, heartbeat_due=LATER + SECOND))
    await add_lease(one, a_lease("lease-live"))
    await one.commit([issue("lease-live", expires_at=NOON)])
    await add_task(one, a_task("task-ending"))
    await one.commit([end("task-ending")])
    assert ids(await other.take_ending_tasks(MANY)) == []
    assert ids(await one.take_ending_tasks(MANY)) == ["task-ending"]
    await add_lease(one, a_lease("lease-intended"))
    assert ids(await other.take_intended_leases(LATER, MANY)) == []
    assert ids(await one.take_intended_leases(LATER, MANY)) == ["lease-intended"]
    await asyncio.sleep(CLAIM.total_seconds() + 0.1)
    lapsed = [await store.take_lapsed_tasks(LATER, MANY) for store in (one, other, one)]
    assert [len(found) for found in lapsed] == [1, 0, 1]
    due = [await store.take_leases_due_for_renewal(LATER, MANY) for store in (other, one, other)]
    assert [len(found) for found in due] == [1, 0, 1]
    expired = [await store.take_expired_leases(LATER, MANY) for store in (one, other)]
    assert [len(found) for found in expired] == [0, 1], "the other has taken it for renewal"


async def test_a_lease_that_another_is_making_stays_its_own_when_the_task_ends(
    one: PostgresStore, other: PostgresStore
) -> None:
    await add_task(one, a_task())
    await add_lease(one, a_lease("lease-making"))
    await other.commit([end(TASK)])
    assert await other.hold([LeaseId("lease-making")]) == frozenset()
    assert await one.hold([LeaseId("lease-making")]) == {"lease-making"}


async def test_rows_that_somebody_is_changing_are_passed_over_and_not_waited_for(
    one: PostgresStore, database: Database
) -> None:
    await add_task(one, a_task())
    for name in ("lease-a", "lease-b"):
        await add_lease(one, a_lease(name), LeaseState.LIVE)
        await one.commit([revoke(name)])
    with psycopg.connect(database.admin_dsn) as changing:
        changing.execute("UPDATE leases SET attempts = attempts WHERE lease_id = 'lease-a'")
        assert ids(await asyncio.wait_for(one.take_leases_to_revoke(LATER, MANY), 2)) == ["lease-b"]
        changing.rollback()
    assert ids(await one.take_leases_to_revoke(LATER, MANY)) == ["lease-a", "lease-b"]


async def test_a_turn_is_one_replicas_until_it_lapses(one: PostgresStore, other: PostgresStore) -> None:
    assert await one.take_turn("reconcile", lasting=SECOND)
    assert await one.take_turn("reconcile", lasting=SECOND)
    assert not await other.take_turn("reconcile", lasting=SECOND)
    assert await other.take_turn("something-else", lasting=SECOND)
    await asyncio.sleep(1.1)
    assert await other.take_turn("reconcile", lasting=SECOND)
    assert not await one.take_turn("reconcile", lasting=SECOND)


# Connections that break ----------------------------------------------------------------------------------------


async def test_a_connection_that_was_ended_while_nobody_used_it_costs_nobody_a_call(
    one: PostgresStore, database: Database
) -> None:
    await append(one, 1)
    await asyncio.gather(*(one.audit_head() for _ in range(8)))
    with database.as_admin() as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = %s AND pid <> pg_backend_pid()",
            [database.name],
        )
    await append(one, 1)
    assert len(await one.audit_records(0, MANY)) == 2


@pytest.mark.parametrize("happened", [True, False])
async def test_a_connection_that_breaks_in_a_commit_is_asked_after(
    one: PostgresStore, database: Database, monkeypatch: pytest.MonkeyPatch, *, happened: bool
) -> None:
    """The answer to COMMIT is lost: what `commit` says is what did happen."""
    commit = PostgresSession.commit

    def broken(session: PostgresSession) -> None:
        execute = session._connection.execute

        def executing(sql: str, *arguments: Any) -> object:
            if sql == "COMMIT" and happened:
                execute("COMMIT")
            if sql == "COMMIT":
                session._connection.close()
            return execute(sql, *arguments)

        monkeypatch.setattr(session._connection, "execute", executing)
        commit(session)

    await append(one, 1)
    with monkeypatch.context() as once:
        once.setattr(PostgresSession, "commit", broken)
        if happened:
            await append(one, 1, "lost")
        else:
            with pytest.raises(StoreUnavailableError):
                await append(one, 1, "lost")
    await append(one, 1)
    records = await one.audit_records(0, MANY)
    assert len(records) == 2 + happened
    assert verify_chain(records) == await one.audit_head()


async def test_it_is_unavailable_while_the_server_is_away_and_works_again_after(
    one: PostgresStore, database: Database
) -> None:
    await append(one, 1)
    server = database.server
    server.stop_part(postgres.NAME)
    try:
        with pytest.raises(StoreUnavailableError):
            await append(one, 1)
        with pytest.raises(StoreUnavailableError):
            await one.audit_head()
        assert not await one.try_again()
    finally:
        server.start_part(postgres.NAME)
    assert await one.try_again()
    await append(one, 1)
    assert len(await one.audit_records(0, MANY)) == 2


async def test_a_server_that_does_not_answer_is_unavailable(
    one: PostgresStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "_PATIENCE", 0.5)
    with database.as_admin() as admin:
        admin.execute("BEGIN")
        admin.execute("SELECT pg_advisory_xact_lock(%s)", [postgresql_session.WRITERS])
        with pytest.raises(StoreUnavailableError):
            await append(one, 1)
        admin.execute("ROLLBACK")


async def test_a_value_that_cannot_be_stored_fails_its_own_commit_and_no_neighbours(
    one: PostgresStore,
) -> None:
    bad = c.CreateTask(task=a_task("task-bad", intent="nul\0"), max_live=MANY)
    results = await asyncio.gather(
        *(one.commit([c.Append(event=an_event(facts={"n": number}))]) for number in range(5)),
        one.commit([bad]),
        *(one.commit([c.Append(event=an_event(facts={"n": number}))]) for number in range(5)),
        return_exceptions=True,
    )
    assert [type(result) for result in results if result is not None] == [StoreUnavailableError]
    assert len(await one.audit_records(0, MANY)) == 10
    assert await one.task(TaskId("task-bad")) is None


# What they tell each other -------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def following(
    store: PostgresStore, extended: list[TaskId] | None = None
) -> AsyncIterator[list[AuditRecord]]:
    heard: list[AuditRecord] = []
    extended = [] if extended is None else extended

    async def follow() -> None:
        async for news in AuditFollower(store).news():
            heard.extend(news.records)
            extended.extend(news.extended)

    work = asyncio.create_task(follow())
    await asyncio.sleep(0.5)
    try:
        yield heard
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def until(heard: list[AuditRecord], count: int) -> None:
    end_of_patience = time.monotonic() + 10
    while len(heard) < count and time.monotonic() < end_of_patience:  # noqa: ASYNC110 - another list would do no better
        await asyncio.sleep(0.02)


async def test_what_others_append_is_heard_in_order_and_ones_own_is_not(
    one: PostgresStore, other: PostgresStore
) -> None:
    await append(other, 3, "before", ENDED)
    async with following(one) as heard:
        await asyncio.gather(append(one, 50, "own", ENDED), append(other, 50, "others", ENDED))
        await until(heard, 50)
        await append(one, 1, "own", ENDED)
        await append(other, 5, "not told", AuditKind.TASK_DENIED)
        await append(other, 1, "last", ENDED)
        await until(heard, 51)
    names = [next(iter(record.event.facts)) for record in heard]
    assert names == ["others"] * 50 + ["last"]
    assert [record.sequence for record in heard] == sorted(record.sequence for record in heard)


async def test_what_was_appended_while_nobody_could_hear_it_is_heard_later(
    one: PostgresStore, other: PostgresStore, database: Database
) -> None:
    async with following(one) as heard:
        await append(other, 1, "a", ENDED)
        await until(heard, 1)
        with database.as_admin() as admin:
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
        await append(other, 1200, "b", ENDED)
        await until(heard, 1201)
    assert [record.sequence for record in heard] == list(range(1, 1202))


async def test_whose_leases_were_extended_is_heard(one: PostgresStore, other: PostgresStore) -> None:
    await add_task(one, a_task())
    for name in ("lease-a", "lease-b"):
        await add_lease(one, a_lease(name), LeaseState.LIVE)
    extended: list[TaskId] = []
    async with following(one, extended) as heard:
        changes = [c.ExtendLease(lease_id=LeaseId(name), expires_at=LATER) for name in ("lease-a", "lease-b")]
        await one.commit(changes)
        await other.commit(changes)
        await append(other, 1, "after", ENDED)
        await until(heard, 1)
    assert extended == [TASK]


async def test_the_time_is_the_databases(one: PostgresStore) -> None:
    assert abs(await one.now() - datetime.now(UTC)) < SECOND


# Opening -------------------------------------------------------------------------------------------------------


def test_replicas_that_start_at_once_on_an_empty_database_make_one_schema(template: Database) -> None:
    name = "started_at_once"
    with psycopg.connect(template.server.postgres.admin_dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} OWNER broker")
    database = Database(template.server, name, template.password_file)

    async def open_and_close() -> str:
        store = await asyncio.to_thread(database.open)
        identity = await store.identity()
        await store.close()
        return identity

    with ThreadPoolExecutor(4) as pool:
        found = {future.result() for future in [pool.submit(asyncio.run, open_and_close()) for _ in range(4)]}
    assert len(found) == 1
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(database.admin_dsn), poolclass=NullPool
    )
    with engine.connect() as checked:
        assert compare_metadata(MigrationContext.configure(checked), metadata) == []
    with database.as_admin() as admin:
        texts = "SELECT DISTINCT collation_name FROM information_schema.columns WHERE table_schema = 'public'"
        kinds = f"{texts} AND data_type IN ('text', 'character varying') AND table_name <> 'alembic_version'"
        found_collations = {collation for (collation,) in admin.execute(kinds)}
    assert found_collations <= {"C"}


async def test_a_newer_schema_that_does_not_say_it_can_be_used_is_refused(
    one: PostgresStore, database: Database
) -> None:
    with database.as_admin() as admin:
        admin.execute("UPDATE alembic_version SET version_num = '9999'")
        admin.execute("UPDATE store_facts SET fact = '9998' WHERE name = 'oldest-version'")
    with pytest.raises(SchemaVersionError):
        database.open()
    await append(one, 1)


async def test_who_only_reads_changes_nothing(one: PostgresStore, database: Database) -> None:
    await append(one, 1)
    reader = database.open(read_only=True)
    assert len(await reader.audit_records(0, MANY)) == 1
    with pytest.raises(StoreUnavailableError):
        await reader.commit([c.Append(event=an_event())])
    with pytest.raises(StoreUnavailableError):
        await reader.take_turn("reconcile", lasting=SECOND)
    await reader.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://broker:word@127.0.0.1/x", "store.url: leave the password out"),
        ("postgresql://broker@db.example.org/x", "store.url: say sslmode=verify-full"),
        ("postgresql://broker@db.example.org/x?sslmode=require", "store.url: say sslmode=verify-full"),
        ("postgresql://broker@127.0.0.1,db.example.org/x", "store.url: say sslmode=verify-full"),
        ("postgresql://broker@127.0.0.1/x?sslmood=none", "store.url: give a database"),
    ],
)
def test_a_url_that_will_not_do_is_refused_with_what_to_do(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        open_store(url)


def test_what_cannot_be_reached_or_entered_is_said_without_the_password(
    database: Database, tmp_path: Path
) -> None:
    wrong = tmp_path / "password"
    wrong.write_text("another-secret")
    with pytest.raises(StoreUnusableError, match="password authentication failed") as caught:
        PostgresStore.open(database.url, password_file=wrong)
    assert "another-secret" not in str(caught.value)
    with pytest.raises(StoreUnusableError, match=r"127\.0\.0\.1:1/x cannot be used"):
        PostgresStore.open("postgresql://broker@127.0.0.1:1/x")
    with pytest.raises(StoreUnusableError, match=r"password_file: .*missing cannot be read"):
        PostgresStore.open(database.url, password_file=tmp_path / "missing")


async def test_no_thread_is_left_when_it_is_closed(database: Database) -> None:
    store = database.open()
    await append(store, 1)
    await store.audit_head()
    await store.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("store-")]


async def test_a_task_that_both_end_is_ended_once(one: PostgresStore, other: PostgresStore) -> None:
    await add_task(one, a_task())
    results = await asyncio.gather(one.commit([end(TASK)]), other.commit([end(TASK)]), return_exceptions=True)
    assert sum(result is None for result in results) == 1
    results = await asyncio.gather(
        one.commit([finish(TASK)]), other.commit([finish(TASK)]), return_exceptions=True
    )
    assert sum(result is None for result in results) == 1


# Findings and messages -----------------------------------------------------------------------------------------


async def test_findings_of_two_replicas_get_a_number_each(one: PostgresStore, other: PostgresStore) -> None:
    await asyncio.gather(
        *(
            store.commit([c.RecordFinding(finding=a_finding(f"{name}-{number}"))])
            for number in range(20)
            for name, store in (("one", one), ("other", other))
        )
    )
    assert [found.number for found in await one.findings_after(0, MANY)] == list(range(1, 41))


async def test_what_both_find_is_recorded_once(one: PostgresStore, other: PostgresStore) -> None:
    results = await asyncio.gather(
        *(store.commit([c.RecordFinding(finding=a_finding())]) for store in (one, other)),
        return_exceptions=True,
    )
    assert sorted(map(str, results)) == ["None", str(Conflict.FINDING_KNOWN.value)]


async def test_a_hold_by_one_replica_holds_at_the_other(one: PostgresStore, other: PostgresStore) -> None:
    await add_task(one, a_task())
    await one.commit([c.HoldTask(task_id=TASK, hold=Hold.FROZEN)])
    assert await refused(other, c.RecordAction(action=an_action(1))) is Conflict.TASK_ON_HOLD
