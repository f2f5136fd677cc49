"""What SQLite's store does beyond the contract: one writer, shared commits, disks that fail and come back."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from broker.adapters.store import reading
from broker.adapters.store import sqlite as sqlite_module
from broker.adapters.store.committing import Applied, Commit
from broker.adapters.store.session import WritingSession
from broker.adapters.store.sqlite import SqliteStore, StoreInUseError
from broker.adapters.store.sqlite_session import SqliteSession
from broker.domain.audit import ChainFault, verify_chain
from broker.domain.changes import Append, Change, CreateTask, TouchTask
from broker.domain.errors import StoreUnavailableError
from broker.domain.identifiers import TaskId
from broker.ports.store import Conflict, ConflictError
from tests.fakes.samples import TASK, a_task, an_event
from tests.fakes.system import NOON
from tests.unit.store.files import raw, records_of, url

APPEND: list[Change] = [Append(event=an_event())]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "broker.db"


@pytest_asyncio.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore.open(url(path))
    yield store
    await store.close()


class Pause:
    """Holds the writer up inside a transaction, so that commits gather behind it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered = threading.Event()
        self.go_on = threading.Event()
        commit = SqliteSession.commit

        def paused(session: SqliteSession) -> None:
            if not self.go_on.is_set():
                self.entered.set()
                assert self.go_on.wait(10)
            commit(session)

        monkeypatch.setattr(SqliteSession, "commit", paused)

    async def is_held(self) -> None:
        assert await asyncio.to_thread(self.entered.wait, 10), (
            "the writer never came to the end of a transaction"
        )


@pytest.fixture
def pause(monkeypatch: pytest.MonkeyPatch) -> Pause:
    return Pause(monkeypatch)


# Opening -------------------------------------------------------------------------------------------------------


async def test_a_file_has_one_writer(store: SqliteStore, path: Path) -> None:
    with pytest.raises(StoreInUseError, match="another process writes"):
        SqliteStore.open(url(path))
    await store.commit(APPEND)
    await store.close()
    second = SqliteStore.open(url(path))
    assert await second.audit_head() is not None
    await second.close()


async def test_any_number_read_beside_the_writer(store: SqliteStore, path: Path) -> None:
    readers = [SqliteStore.open(url(path), read_only=True) for _ in range(3)]
    await store.commit(APPEND)
    for reader in readers:
        assert await reader.audit_head() == await store.audit_head()
        with pytest.raises(StoreUnavailableError):
            await reader.commit(APPEND)
        await reader.close()


async def test_a_reader_makes_no_file(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        SqliteStore.open(url(path), read_only=True)
    assert not path.parent.exists()


@pytest.mark.parametrize("bad", ["sqlite://", "sqlite:///:memory:"])
def test_a_store_that_is_no_file_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match=r"store\.url"):
        SqliteStore.open(bad)


async def test_the_file_is_its_owners_alone(store: SqliteStore, path: Path) -> None:
    await store.commit(APPEND)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    for file in path.parent.iterdir():
        if file.suffix != ".lock":
            assert file.stat().st_mode & 0o077 == 0, file.name


async def test_every_commit_is_synced(store: SqliteStore) -> None:
    """Rule R1: WAL with less than FULL can lose the last commits when the power goes."""
    session = store._open_session()
    settings = [
        session._connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "foreign_keys")
    ]
    session.close()
    assert settings == ["wal", 2, 1]


# Committing ----------------------------------------------------------------------------------------------------


async def test_commits_that_wait_share_one_transaction_and_each_has_its_own_answer(
    store: SqliteStore, pause: Pause, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    apply = SqliteStore.apply

    def counted(self: SqliteStore, session: WritingSession, batch: Sequence[Commit]) -> Applied | None:
        sizes.append(len(batch))
        return apply(self, session, batch)

    monkeypatch.setattr(SqliteStore, "apply", counted)
    first = asyncio.create_task(store.commit([CreateTask(task=a_task(), max_live=9)]))
    await pause.is_held()
    touch = TouchTask(task_id=TASK, heartbeat_due=NOON)
    bad = TouchTask(task_id=TaskId("task-never"), heartbeat_due=NOON)
    work = [
        asyncio.create_task(store.commit([touch, Append(event=an_event(facts={"n": n}))])) for n in range(5)
    ]
    work.insert(2, asyncio.create_task(store.commit([Append(event=an_event(facts={"n": "no"})), bad])))
    await asyncio.sleep(0)
    pause.go_on.set()
    answers = await asyncio.gather(*work, return_exceptions=True)
    await first
    assert sizes == [1, 6]
    refusal = answers.pop(2)
    assert isinstance(refusal, ConflictError)
    assert refusal.conflict is Conflict.TASK_NOT_ACTIVE
    assert answers == [None] * 5
    records = await store.audit_records(0, 99)
    assert [record.event.facts["n"] for record in records] == [0, 1, 2, 3, 4]
    assert verify_chain(records) == await store.audit_head()


async def test_a_caller_that_goes_away_undoes_neither_its_commit_nor_its_neighbours(
    store: SqliteStore, pause: Pause
) -> None:
    first = asyncio.create_task(store.commit(APPEND))
    await pause.is_held()
    gone, neighbour = (asyncio.create_task(store.commit(APPEND)) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    pause.go_on.set()
    await asyncio.gather(first, neighbour)
    assert len(await store.audit_records(0, 99)) == 3


async def test_closing_finishes_what_was_committed(store: SqliteStore, pause: Pause, path: Path) -> None:
    work = [asyncio.create_task(store.commit(APPEND)) for _ in range(3)]
    await pause.is_held()
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    pause.go_on.set()
    await closing
    await asyncio.gather(*work)
    assert len(await records_of(path)) == 3


async def test_a_commit_that_comes_while_closing_is_refused_and_does_not_hang(
    store: SqliteStore, pause: Pause
) -> None:
    first = asyncio.create_task(store.commit(APPEND))
    await pause.is_held()
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    late = asyncio.create_task(store.commit(APPEND))
    await asyncio.sleep(0)
    pause.go_on.set()
    await asyncio.gather(first, closing)
    with pytest.raises(StoreUnavailableError):
        await asyncio.wait_for(late, 5)


async def test_a_closed_store_takes_nothing(store: SqliteStore) -> None:
    await store.close()
    with pytest.raises(StoreUnavailableError):
        await store.commit(APPEND)


async def test_a_new_store_can_be_read_and_written_by_all_its_threads_at_once(tmp_path: Path) -> None:
    for n in range(30):
        store = SqliteStore.open(url(tmp_path / f"{n}.db"))
        await asyncio.gather(store.commit(APPEND), *(store.audit_head() for _ in range(4)))
        await store.close()


# Disks that fail -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["begin", "change", "commit"])
async def test_a_write_that_fails_is_unavailable_applies_nothing_and_is_over_when_the_disk_is_back(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    await store.commit(APPEND)

    def failing(_session: SqliteSession, *_words: object, **_values: object) -> None:
        message = "disk I/O error"
        raise sqlite3.OperationalError(message)

    with monkeypatch.context() as broken:
        broken.setattr(SqliteSession, at, failing)
        for _ in range(3):
            with pytest.raises(StoreUnavailableError) as caught:
                await store.commit([CreateTask(task=a_task(), max_live=9), *APPEND])
            assert "disk" not in str(caught.value)
        assert await store.task(TASK) is None
        assert len(await store.audit_records(0, 99)) == 1
    await store.commit([CreateTask(task=a_task(), max_live=9), *APPEND])
    records = await store.audit_records(0, 99)
    assert len(records) == 2
    assert verify_chain(records) == await store.audit_head()


async def test_reads_that_fail_are_unavailable_and_leave_nothing_open(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_session: SqliteSession, _task_id: TaskId) -> None:
        message = "disk I/O error"
        raise sqlite3.OperationalError(message)

    assert await store.task(TASK) is None
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counts what is open
    with monkeypatch.context() as broken:
        broken.setattr(reading, "task", failing)
        for _ in range(50):
            with pytest.raises(StoreUnavailableError):
                await store.task(TASK)
    assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208
    await store.commit([CreateTask(task=a_task(), max_live=9)])
    assert await store.task(TASK) == a_task()


def overwrite(path: Path) -> None:
    path.write_bytes(b"x" * path.stat().st_size)


async def test_a_file_that_is_no_database_any_more_is_unavailable(path: Path) -> None:
    store = SqliteStore.open(url(path))
    await store.commit(APPEND)
    await store.close()
    reader = SqliteStore.open(url(path), read_only=True)
    overwrite(path)
    with pytest.raises(StoreUnavailableError):
        await reader.audit_head()
    await reader.close()


async def test_another_programs_lock_on_the_file_is_waited_for(store: SqliteStore, path: Path) -> None:
    await store.commit(APPEND)
    with raw(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        work = asyncio.create_task(store.commit(APPEND))
        await asyncio.wait({work}, timeout=0.1)
        assert not work.done()
        connection.rollback()
        await work
    assert len(await store.audit_records(0, 99)) == 2


async def test_it_knows_whether_it_can_be_written_and_finds_out_by_itself(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_module, "_BUSY_SECONDS", 0.05)
    assert await store.try_again()
    with raw(path) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreUnavailableError):
            await store.commit(APPEND)
        assert not await store.try_again()
    assert not store.writable, "nobody wrote since"
    assert await store.try_again()
    assert await store.audit_head() is None


async def test_readers_go_on_while_the_disk_takes_its_time(store: SqliteStore, pause: Pause) -> None:
    """The loop is never the one that waits for the disk."""
    work = asyncio.create_task(store.commit([CreateTask(task=a_task(), max_live=9)]))
    await pause.is_held()
    facts = await asyncio.wait_for(store.action_facts(TASK, NOON, 9), 5)
    assert facts.task is None, "not durable yet"
    assert not work.done()
    pause.go_on.set()
    await work
    assert (await store.action_facts(TASK, NOON, 9)).task is not None


async def test_closing_finishes_what_was_added(path: Path, pause: Pause) -> None:
    store = SqliteStore.open(url(path))
    work = [asyncio.create_task(store.commit(APPEND)) for _ in range(3)]
    await pause.is_held()
    closing = asyncio.create_task(store.close())
    await asyncio.wait({closing}, timeout=0.05)
    with pytest.raises(StoreUnavailableError):
        await store.commit(APPEND)
    pause.go_on.set()
    await asyncio.gather(*work)
    await closing
    assert len(await records_of(path)) == 3


async def test_whoever_goes_away_undoes_nothing(store: SqliteStore, pause: Pause) -> None:
    work = [asyncio.create_task(store.commit(APPEND)) for _ in range(3)]
    await pause.is_held()
    for one in work:
        one.cancel()
    await asyncio.gather(*work, return_exceptions=True)
    pause.go_on.set()
    await store.commit(APPEND)
    assert len(await store.audit_records(0, 99)) == 4


def test_a_loop_that_ended_in_the_middle_leaves_its_place_to_the_next(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore.open(url(path))
    held = Pause(monkeypatch)

    async def abandoned() -> None:
        asyncio.create_task(store.commit(APPEND))  # noqa: RUF006 - it is given up
        await held.is_held()

    asyncio.run(abandoned())
    held.go_on.set()

    async def goes_on() -> None:
        await asyncio.wait_for(store.commit(APPEND), 10)
        await store.close()

    asyncio.run(goes_on())
    records = asyncio.run(records_of(path))
    assert len(records) in {1, 2}, "the first was durable, or it was not"
    assert not isinstance(verify_chain(records), ChainFault)
