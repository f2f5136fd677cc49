"""State in one SQLite file. Implements ports.store.Store.

One thread writes. It takes whatever commits are waiting, applies each in a savepoint of its own inside one
transaction, makes them durable with one fsync (WAL, `synchronous=FULL`), and only then answers: commits that
arrive together share the disk's time, one that arrives alone waits for nobody. A few threads read.

What always holds: `commit` returns after the data is durable, or raises and nothing of it is applied; a disk that
fails makes StoreUnavailableError, and the store works again when the disk does; one process at a time may write
a file (a lock beside it says so), any number may read.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Final, TypeVar

from sqlalchemy import create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from broker.adapters.store import lease_pages, reading, writing
from broker.adapters.store.migrating import migrate
from broker.adapters.store.session import SqliteSession
from broker.domain.audit import AuditRecord, ChainHead
from broker.domain.changes import Change
from broker.domain.errors import StoreUnavailableError
from broker.domain.identifiers import LeaseId, TaskId, TokenAccessor
from broker.domain.lease import Lease
from broker.domain.quarantine import Quarantine, QuarantineTarget
from broker.domain.spiffe import SpiffeId
from broker.domain.task import Task, TaskState
from broker.ports.store import (
    AcquireFacts,
    ConflictError,
    LeaseFilter,
    LeasePage,
    QuarantinePage,
    QuarantineStatus,
    StoreFigures,
    TaskPage,
)

logger = logging.getLogger(__name__)

_BATCH: Final = 128
_READERS: Final = 4
_BUSY_SECONDS: Final = 5
Result = TypeVar("Result")


class StoreInUseError(Exception):
    """Another process writes this file."""


class StoreUnusableError(Exception):
    """The file cannot be made, or is not a store; says which and why."""


@dataclass(slots=True)
class _Commit:
    changes: Sequence[Change]
    done: Future[None]


class SqliteStore:
    """See the module. Made by `open`."""

    def __init__(self, *, path: Path, lock: IO[bytes] | None) -> None:
        self._path = path
        self._lock = lock
        self._queue: queue.SimpleQueue[_Commit | None] = queue.SimpleQueue()
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="store-read")
        self._local = threading.local()
        self._sessions: list[SqliteSession] = []
        self._head: ChainHead | None = None
        self._head_known = False
        self._closing = False
        self.writable = True
        """Whether the last write worked."""
        self._writer = threading.Thread(target=self._write, name="store-write", daemon=True)
        if lock is not None:
            self._writer.start()

    @classmethod
    def open(cls, url: str, *, read_only: bool = False) -> SqliteStore:
        """Open the file that `url` (`sqlite:///path`) names, making and migrating it first unless `read_only`.

        Raises:
            StoreInUseError: another process writes it.
            StoreUnusableError: it cannot be made, or is no database.
            SchemaVersionError: it was written by a newer version.
            FileNotFoundError: read-only, and there is no such file.
            ValueError: the URL names no file of SQLite's.
        """
        message = "store.url: give a file, as in sqlite:////var/lib/tasklease/broker.db"
        try:
            parsed = make_url(url)
        except ArgumentError as error:
            raise ValueError(message) from error
        database = parsed.database
        if parsed.drivername != "sqlite" or not database or database == ":memory:":
            raise ValueError(message)
        path = Path(database)
        lock = None
        if read_only:
            if not path.exists():
                message = f"there is no store at {path}"
                raise FileNotFoundError(message)
        else:
            try:
                lock = _made(path)
            except (OSError, SQLAlchemyError) as error:
                why = error.strerror if isinstance(error, OSError) else getattr(error, "orig", None)
                message = f"the store at {path} cannot be used: {why or type(error).__name__}"
                raise StoreUnusableError(message) from error
        return cls(path=path, lock=lock)

    async def commit(self, changes: Sequence[Change]) -> None:
        """Apply all `changes` or none, durably. A caller that is cancelled does not undo it."""
        if self._lock is None or self._closing or not self._writer.is_alive():
            raise StoreUnavailableError
        done: Future[None] = Future()
        self._queue.put(_Commit(changes, done))
        await asyncio.shield(asyncio.wrap_future(done))

    async def try_again(self) -> bool:
        """Whether a write works now, where the last one did not: tried by one that changes nothing."""
        if not self.writable:
            with suppress(StoreUnavailableError):
                await self.commit([])
        return self.writable

    async def task(self, task_id: TaskId) -> Task | None:
        """One task."""
        return await self._read(reading.task, task_id)

    async def task_by_key(self, owner: SpiffeId, idempotency_key: str) -> Task | None:
        """The owner's task under a key."""
        return await self._read(reading.task_by_key, owner, idempotency_key)

    async def tasks_of(
        self, owner: SpiffeId, *, states: AbstractSet[TaskState], page_size: int, page_token: str
    ) -> TaskPage:
        """One page of an owner's tasks, newest first."""
        return await self._read(reading.tasks_of, owner, states, page_size, page_token)

    async def lease(self, lease_id: LeaseId) -> Lease | None:
        """One lease."""
        return await self._read(reading.lease, lease_id)

    async def leases_of(self, task_id: TaskId) -> tuple[Lease, ...]:
        """A task's leases, oldest first."""
        return await self._read(reading.leases_of, task_id)

    async def task_tokens(self, task_id: TaskId) -> tuple[TokenAccessor, ...]:
        """Accessors of a task's tokens."""
        return await self._read(reading.task_tokens_of, task_id)

    async def acquire_facts(self, task_id: TaskId, idempotency_key: str) -> AcquireFacts:
        """A task's past, for an acquire."""
        return await self._read(reading.acquire_facts, task_id, idempotency_key)

    async def lapsed_tasks(self, now: datetime, limit: int) -> tuple[Task, ...]:
        """Active tasks that are overdue."""
        return await self._read(reading.lapsed_tasks, now, limit)

    async def ending_tasks(self, limit: int) -> tuple[Task, ...]:
        """Ending tasks that hold nothing any more."""
        return await self._read(reading.ending_tasks, limit)

    async def leases_due_for_renewal(self, before: datetime, limit: int) -> tuple[Lease, ...]:
        """Live leases of active tasks that expire before `before`."""
        return await self._read(reading.leases_due_for_renewal, before, limit)

    async def leases_expired(self, now: datetime, limit: int) -> tuple[Lease, ...]:
        """Live leases whose time ran out."""
        return await self._read(reading.leases_expired, now, limit)

    async def leases_to_revoke(self, now: datetime, limit: int) -> tuple[Lease, ...]:
        """Revoking leases whose next attempt is due."""
        return await self._read(reading.leases_to_revoke, now, limit)

    async def leases_intended(self, before: datetime, limit: int) -> tuple[Lease, ...]:
        """Leases that were intended before `before` and still are."""
        return await self._read(reading.leases_intended, before, limit)

    async def identity(self) -> str:
        """What tells this store from every other."""
        return await self._read(lease_pages.identity)

    async def lease_page(self, wanted: LeaseFilter, *, page_size: int, page_token: str) -> LeasePage:
        """One page of everybody's leases."""
        return await self._read(lease_pages.lease_page, wanted, page_size, page_token)

    async def task_of_token(self, accessor: TokenAccessor) -> Task | None:
        """The task of a token."""
        return await self._read(lease_pages.task_of_token, accessor)

    async def figures(self) -> StoreFigures:
        """How much there is of what is not final."""
        return await self._read(reading.figures)

    async def quarantines(self) -> tuple[Quarantine, ...]:
        """Every quarantine."""
        return await self._read(reading.quarantines)

    async def quarantine(self, target: QuarantineTarget) -> QuarantineStatus | None:
        """The quarantine of one target."""
        return await self._read(reading.quarantine, target)

    async def quarantine_page(self, *, page_size: int, page_token: str) -> QuarantinePage:
        """One page of quarantines."""
        return await self._read(reading.quarantine_page, page_size, page_token)

    async def quarantined_tasks(self, limit: int) -> tuple[Task, ...]:
        """Active tasks whose owner is quarantined."""
        return await self._read(reading.quarantined_tasks, limit)

    async def audit_records(self, after: int, limit: int) -> tuple[AuditRecord, ...]:
        """Audit records in order."""
        return await self._read(reading.audit_records_after, after, limit)

    async def audit_head(self) -> ChainHead | None:
        """The newest audit record's place and hash."""
        return await self._read(reading.audit_head)

    async def close(self) -> None:
        """Finish what was committed, then let go of the file."""
        self._closing = True  # what came after the end of the queue would never be answered
        if self._writer.is_alive():
            self._queue.put(None)
            await asyncio.to_thread(self._writer.join)
        await asyncio.to_thread(self._readers.shutdown)
        for session in self._sessions:
            session.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def _read(self, read: Callable[..., Result], *arguments: Any) -> Result:  # noqa: ANN401 - passed on
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, self._read_here, read, arguments)

    def _read_here(self, read: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
        session: SqliteSession | None = getattr(self._local, "session", None)
        try:
            if session is None:
                session = self._open_session()
                self._local.session = session
                self._sessions.append(session)
            return read(session, *arguments)
        except sqlite3.Error as error:
            logger.error("store: a read failed: %s", _kind(error))
            self._local.session = None
            if session is not None:
                self._sessions.remove(session)
                _discard(session)
            raise StoreUnavailableError from None

    def _open_session(self) -> SqliteSession:
        mode = "ro" if self._lock is None else "rw"
        connection = sqlite3.connect(
            f"file:{self._path}?mode={mode}",
            uri=True,
            timeout=_BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        if self._lock is not None:
            connection.execute("PRAGMA synchronous=FULL")  # rule R1: NORMAL can lose the last commits
        connection.execute("PRAGMA foreign_keys=ON")
        return SqliteSession(connection)

    # The writer's thread -----------------------------------------------------------------------------------

    def _write(self) -> None:
        session: SqliteSession | None = None
        stopping = False
        while not stopping:
            batch, stopping = self._next_batch()
            if not batch:
                continue
            try:
                if session is None:
                    session = self._open_session()
                self._write_batch(session, batch)
            except Exception as error:  # noqa: BLE001 - whatever it is, nothing of the batch is applied
                logger.error("store: a write failed: %s", _kind(error))
                for commit in batch:
                    if not commit.done.done():
                        commit.done.set_exception(StoreUnavailableError())
                self._head_known = False
                self.writable = False
                if session is not None:
                    _discard(session)
                session = None
        if session is not None:
            session.close()

    def _next_batch(self) -> tuple[list[_Commit], bool]:
        batch: list[_Commit] = []
        item = self._queue.get()
        while True:
            if item is None:
                return batch, True
            batch.append(item)
            if len(batch) >= _BATCH:
                return batch, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return batch, False

    def _write_batch(self, session: SqliteSession, batch: list[_Commit]) -> None:
        session.script("BEGIN IMMEDIATE")
        if not self._head_known:
            self._head = reading.audit_head(session)
            self._head_known = True
        head = self._head
        conflicts: dict[int, ConflictError] = {}
        for index, commit in enumerate(batch):
            session.script("SAVEPOINT one")
            try:
                head_after = writing.apply(session, commit.changes, head)
            except ConflictError as conflict:
                session.script("ROLLBACK TO one")
                conflicts[index] = conflict
            else:
                head = head_after
            session.script("RELEASE one")
        if not self.writable:  # a commit without changes would not show whether the disk takes one
            session.change(writing.NOTHING)
        session.script("COMMIT")
        self.writable = True
        self._head = head
        for index, commit in enumerate(batch):
            if index in conflicts:
                commit.done.set_exception(conflicts[index])
            else:
                commit.done.set_result(None)


def _prepare(path: Path) -> None:
    """Migrate in one transaction: a crash leaves the schema as it was, never half of the next one."""
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)

    def connected(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # the driver would commit before each CREATE TABLE
        # Kept in the file: connections that all ask for it at once would find each other's locks.
        connection.execute("PRAGMA journal_mode=WAL")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    try:
        migrate(engine)
    finally:
        engine.dispose()


def _made(path: Path) -> IO[bytes]:
    """Make and migrate the file; return the lock on it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = _lock(path)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        _prepare(path)
    except BaseException:
        lock.close()
        raise
    return lock


def _lock(path: Path) -> IO[bytes]:
    lock = path.with_name(path.name + ".lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        message = f"another process writes {path}: one broker at a time may use a SQLite store"
        raise StoreInUseError(message) from error
    return lock


def _discard(session: SqliteSession) -> None:
    try:
        session.close()
    except sqlite3.Error:
        logger.warning("store: a broken connection could not be closed")


def _kind(error: Exception) -> str:
    """What went wrong: SQLite's own words name tables and the disk, never a value."""
    return f"{type(error).__name__}: {error}" if isinstance(error, sqlite3.Error) else type(error).__name__
