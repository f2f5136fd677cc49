"""State in one SQLite file. Implements ports.store.Store.

What always holds: durable means that the file was synced (WAL, `synchronous=FULL`); one process at a time may write a
file (a lock beside it says so), any number may read. So all work is this process's, and there is nothing to claim.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any, ClassVar, Final

from sqlalchemy import Select, bindparam, create_engine, event, func, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from broker.adapters.store import chain_sql, reading
from broker.adapters.store.committing import Applied
from broker.adapters.store.kept_facts import KeptFacts
from broker.adapters.store.loop_writer import LoopWriter
from broker.adapters.store.migrating import migrate
from broker.adapters.store.schema import leases
from broker.adapters.store.session import Session, Statement, WritingSession
from broker.adapters.store.sql_store import SqlStore, StoreUnusableError
from broker.adapters.store.sqlite_session import SqliteSession
from broker.domain.audit import ChainHead
from broker.domain.errors import StoreUnavailableError
from broker.domain.identifiers import LeaseId, TaskId
from broker.domain.lease import Lease
from broker.domain.task import Task
from broker.ports.store import ActionFacts

_BUSY_SECONDS: Final = 5
_BETWEEN_TRIES: Final = 0.01
_CACHE_KIB: Final = 16 * 1024
"""Of each connection, filled as far as it is used. In SQLite's own 2 MiB a broker at work had to read pages of its indexes again
and again."""
_HELD: Final = ("SQLITE_BUSY", "SQLITE_LOCKED")
"""Beginnings of the names of what another program causes that holds the file, or repairs what was left of it."""


def _besides(wanted: Statement) -> Statement:
    """`wanted`, without the leases that the JSON array `b_besides` names."""
    if not isinstance(wanted.core, Select):
        raise TypeError
    named = func.json_each(bindparam("b_besides")).table_valued("value")
    return Statement(wanted.core.where(leases.c.lease_id.not_in(select(named.c.value))))


_TO_REVOKE: Final = _besides(reading.TO_REVOKE)
_INTENDED: Final = _besides(reading.INTENDED)


class StoreInUseError(Exception):
    """Another process writes this file."""


class SqliteStore(SqlStore):
    """See the module. Made by `open`."""

    errors: ClassVar[type[Exception]] = sqlite3.Error
    bad_values: ClassVar[tuple[type[Exception], ...]] = (sqlite3.DataError, OverflowError, UnicodeError)

    def __init__(self, *, path: Path, lock: IO[bytes] | None) -> None:
        self._path = path
        self._lock = lock
        self._quick: tuple[int, SqliteSession] | None = None
        self._kept = KeptFacts()
        self.on_their_way: Callable[[], int] = lambda: 0
        """How many calls are under way; set by whoever knows."""
        self._head: ChainHead | None = None
        self._head_known = False
        super().__init__(writes=lock is not None)

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
        store = cls(path=path, lock=lock)
        store.start()
        return store

    async def action_facts(
        self, task_id: TaskId, now: datetime, limit: int, *, key: str | None = None
    ) -> ActionFacts:
        """What a decision about a task needs; at once, on the loop's own thread.

        From memory, or some ten microseconds from pages in memory; in another thread it would be ten times that. A writer
        never keeps a reader waiting (WAL). What goes wrong here is tried again where it may take its time.
        """
        kept = self._kept.of(task_id, now, limit)
        try:
            if kept is None:
                kept = chain_sql.action_facts(self._quick_session(), task_id, now, limit)
                if self._writer is not None:  # beside another process that writes, nothing can be kept
                    self._kept.keep(task_id, kept, limit)
            return kept if key is None else chain_sql.with_key(self._quick_session(), kept, task_id, key)
        except (self.errors, StoreUnavailableError):
            return await super().action_facts(task_id, now, limit, key=key)

    def _quick_session(self) -> SqliteSession:
        """Of the loop's thread, which waits for nobody."""
        if self._quick is None or self._quick[0] != threading.get_ident():
            session = self._session(busy_seconds=0)
            self._sessions.append(session)
            self._quick = (threading.get_ident(), session)
        return self._quick[1]

    async def take_lapsed_tasks(self, now: datetime, limit: int) -> tuple[Task, ...]:
        """Active tasks that are overdue."""
        return await self._read(reading.lapsed_tasks, now, limit)

    async def take_ending_tasks(self, limit: int) -> tuple[Task, ...]:
        """Ending tasks that hold nothing any more."""
        return await self._read(reading.ending_tasks, limit)

    async def take_leases_due_for_renewal(self, before: datetime, limit: int) -> tuple[Lease, ...]:
        """Live leases of active tasks that expire before `before`."""
        return await self._read(reading.leases_due_for_renewal, before, limit)

    async def take_expired_leases(self, now: datetime, limit: int) -> tuple[Lease, ...]:
        """Live leases whose time ran out."""
        return await self._read(reading.leases_expired, now, limit)

    async def take_leases_to_revoke(
        self, now: datetime, limit: int, *, besides: Collection[LeaseId] = ()
    ) -> tuple[Lease, ...]:
        """Revoking leases whose next attempt is due."""
        return await self._read(_leases, _TO_REVOKE, besides, {"b_now": now, "b_limit": limit})

    async def take_intended_leases(
        self, before: datetime, limit: int, *, besides: Collection[LeaseId] = ()
    ) -> tuple[Lease, ...]:
        """Leases that were intended before `before` and still are."""
        return await self._read(_leases, _INTENDED, besides, {"b_before": before, "b_limit": limit})

    async def hold(self, leases: Collection[LeaseId]) -> frozenset[LeaseId]:
        """All of them: nobody else works on any."""
        return frozenset(leases)

    async def take_turn(self, name: str, *, lasting: timedelta) -> bool:  # noqa: ARG002 - there is nobody else
        """Always this process's."""
        return True

    def begun_at_once(self, session: WritingSession) -> bool:
        """See loop_writer.QuickWrites: the writer's session waits for nobody by itself."""
        try:
            session.begin()
        except sqlite3.OperationalError:
            return False
        return True

    def begun(self, session: WritingSession | None) -> WritingSession:
        """As everywhere, but waits for other programs that hold the file."""
        end = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                return super().begun(session)
            except sqlite3.OperationalError as error:
                held = getattr(error, "sqlite_errorname", "").startswith(_HELD)
                if not held or time.monotonic() > end:
                    raise
                time.sleep(_BETWEEN_TRIES)

    def durable(self, applied: Applied) -> None:
        """As everywhere; and what is kept in memory hears of it."""
        self._kept.heard(applied.changes)
        super().durable(applied)

    def _make_writer(self) -> LoopWriter:
        return LoopWriter(self)

    def _head_of_chain(self, session: Session) -> ChainHead | None:
        if not self._head_known:
            self._head = reading.audit_head(session)
            self._head_known = True
        return self._head

    def _settled(self, head: ChainHead | None) -> None:
        if head is None:
            self._kept.forget()
        self._head = head
        self._head_known = head is not None

    def _let_go(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _open_session(self) -> SqliteSession:
        return self._session(busy_seconds=_BUSY_SECONDS)

    def _open_writing_session(self) -> SqliteSession:
        return self._session(busy_seconds=0)  # `begun` waits by itself, and `begun_at_once` does not

    def _session(self, *, busy_seconds: float) -> SqliteSession:
        mode = "ro" if self._lock is None else "rw"
        connection = sqlite3.connect(
            f"file:{self._path}?mode={mode}",
            uri=True,
            timeout=busy_seconds,
            isolation_level=None,
            check_same_thread=False,
        )
        if self._lock is not None:
            connection.execute("PRAGMA synchronous=FULL")  # rule R1: NORMAL can lose the last commits
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA temp_store=MEMORY")  # a savepoint's pages go to no file of their own
        connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        return SqliteSession(connection)


def _leases(
    session: Session, statement: Statement, besides: Collection[LeaseId], values: Mapping[str, Any]
) -> tuple[Lease, ...]:
    """In SQL and not here: thousands of leases that are being revoked would be read again each round, for nothing."""
    rows = session.rows(statement, b_besides=json.dumps(list(besides)), **values)
    return reading.leases_from(rows)


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
