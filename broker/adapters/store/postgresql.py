"""State in a PostgreSQL database that several replicas share. Implements ports.store.Store.

All writers take turns (an advisory lock for the length of a transaction), because the audit chain has one end; each brings
all that waits in its replica. So what a transaction sees is the truth until its end, as in SQLite, and the same statements
hold the same preconditions.

What always holds: durable means that the primary said so (and its synchronous standbys, where it has any); a replica that
hangs or is cut off in a transaction is thrown out by the server within two seconds. Where the connection breaks in a COMMIT
and the database stays away, `commit` raises although it may have been applied: whoever issues takes back what it made, and
every other change may be asked for again.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

import psycopg
from sqlalchemy import Connection as SqlConnection
from sqlalchemy import create_engine, event, inspect
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from broker.adapters.store import reading
from broker.adapters.store.claiming import Claims
from broker.adapters.store.migrating import migrate
from broker.adapters.store.postgresql_session import WRITERS, PostgresSession, connect, connect_async
from broker.adapters.store.schema import metadata
from broker.adapters.store.session import Session
from broker.adapters.store.sql_store import SqlStore, StoreUnusableError
from broker.adapters.store.thread_writer import ThreadWriter
from broker.domain.audit import ChainHead
from broker.domain.changes import Append, Change
from broker.domain.errors import StoreUnavailableError
from broker.domain.hosts import is_loopback
from broker.domain.identifiers import LeaseId
from broker.domain.lease import Lease
from broker.domain.task import Task
from broker.ports.following import TOLD

CHANNEL: Final = "tasklease_audit"
"""What is said there: see following.py."""

_MIGRATORS: Final = 0x7A51_EA5F
_PATIENCE: Final = 10.0
_FOR_THE_TABLES: Final = 30.0
_MINIMUM: Final = 130000
Result = TypeVar("Result")
Connection = psycopg.Connection[dict[str, Any]]


class PostgresStore(SqlStore):
    """See the module. Made by `open`."""

    errors: ClassVar[type[Exception]] = psycopg.Error
    bad_values: ClassVar[tuple[type[Exception], ...]] = (psycopg.DataError, UnicodeError)

    def __init__(self, *, url: str, password_file: Path | None, read_only: bool) -> None:
        self._url = url
        self._password_file = password_file
        self._claims = Claims(secrets.token_hex(8))
        self._head_before = 0
        self.writer_pid = 0
        """The server's process that serves the writer: whose notices are this replica's own."""
        super().__init__(writes=not read_only)

    @classmethod
    def open(
        cls, url: str, *, password_file: Path | None = None, plaintext: bool = False, read_only: bool = False
    ) -> PostgresStore:
        """Connect to the database that `url` (`postgresql://user@host/database`) names, migrating it first unless
        `read_only`. The URL's parameters are libpq's; a password comes from `password_file`, read for each connection.
        With `plaintext`, the network in between is trusted.

        Raises:
            StoreUnusableError: it cannot be reached or used.
            SchemaVersionError: it was written by a newer version.
            ValueError: the URL is none of PostgreSQL's, or holds a password.
        """
        try:
            given = psycopg.conninfo.conninfo_to_dict(url)
        except psycopg.ProgrammingError as error:
            message = "store.url: give a database, as in postgresql://tasklease@db.example.org/tasklease"
            raise ValueError(message) from error
        if "password" in given:
            message = (
                "store.url: leave the password out, and name a file that holds it in store.password_file"
            )
            raise ValueError(message)
        if not plaintext and not _is_private(given):
            message = (
                "store.url: say sslmode=verify-full, so that it is certain which database this is; or "
                "store.allow_plaintext: true when the network in between carries nobody else"
            )
            raise ValueError(message)
        store = cls(url=url, password_file=password_file, read_only=read_only)
        try:
            store._check(migrated=not read_only)
        except (OSError, UnicodeError) as error:
            message = f"store.password_file: {password_file} cannot be read: {type(error).__name__}"
            raise StoreUnusableError(message) from error
        except (psycopg.Error, SQLAlchemyError) as error:
            why = getattr(error, "orig", None) or error
            message = f"the store at {_where(given)} cannot be used: {str(why).strip() or type(why).__name__}"
            raise StoreUnusableError(message) from error
        store.start()
        return store

    async def take_lapsed_tasks(self, now: datetime, limit: int) -> tuple[Task, ...]:
        """Active tasks that are overdue."""
        return await self._read(self._claims.lapsed_tasks, now, limit)

    async def take_ending_tasks(self, limit: int) -> tuple[Task, ...]:
        """Ending tasks that hold nothing any more."""
        return await self._read(self._claims.ending_tasks, limit)

    async def take_leases_due_for_renewal(self, before: datetime, limit: int) -> tuple[Lease, ...]:
        """Live leases of active tasks that expire before `before`."""
        return await self._read(self._claims.leases_due_for_renewal, before, limit)

    async def take_expired_leases(self, now: datetime, limit: int) -> tuple[Lease, ...]:
        """Live leases whose time ran out."""
        return await self._read(self._claims.expired_leases, now, limit)

    async def take_leases_to_revoke(
        self, now: datetime, limit: int, *, besides: Collection[LeaseId] = ()
    ) -> tuple[Lease, ...]:
        """Revoking leases whose next attempt is due."""
        return await self._read(self._claims.leases_to_revoke, now, limit, besides)

    async def take_intended_leases(
        self, before: datetime, limit: int, *, besides: Collection[LeaseId] = ()
    ) -> tuple[Lease, ...]:
        """Leases that were intended before `before` and still are."""
        return await self._read(self._claims.intended_leases, before, limit, besides)

    async def hold(self, leases: Collection[LeaseId]) -> frozenset[LeaseId]:
        """Claim these for longer."""
        return await self._read(self._claims.hold, leases)

    async def take_turn(self, name: str, *, lasting: timedelta) -> bool:
        """Whether it is this replica's turn."""
        return await self._read(self._claims.turn, name, lasting)

    async def now(self) -> datetime:
        """The database's clock, which is that of all replicas."""
        return await self._read(reading.database_time)

    def connect(self) -> Connection:
        """A connection of its own, for whoever listens.

        Raises:
            psycopg.Error, OSError: there is none to be had.
        """
        return connect(self._url, password=self._password())

    async def connect_async(self) -> psycopg.AsyncConnection[Any]:
        """As `connect`, for a coroutine."""
        return await connect_async(self._url, password=self._password())

    def _password(self) -> str | None:
        return None if self._password_file is None else self._password_file.read_text().strip()

    def _check(self, *, migrated: bool) -> None:
        with self.connect() as connection:
            if connection.info.server_version < _MINIMUM:
                message = (
                    f"PostgreSQL {connection.info.server_version // 10000} is too old: 13 or newer is needed"
                )
                raise psycopg.NotSupportedError(message)
        if not migrated:
            return
        engine = create_engine("postgresql+psycopg://", creator=self._connect_to_migrate, poolclass=NullPool)
        event.listen(engine, "begin", _one_at_a_time)
        try:
            migrate(engine, alone=_alone)
        finally:
            engine.dispose()

    def _connect_to_migrate(self) -> Connection:
        connection = self.connect()
        connection.row_factory = psycopg.rows.tuple_row  # type: ignore[assignment]
        connection.execute("SET statement_timeout = 0")
        connection.execute("SET lock_timeout = '30s'")
        connection.execute("SET idle_in_transaction_session_timeout = 0")
        connection.autocommit = False
        return connection

    def _open_session(self) -> PostgresSession:
        try:
            connection = self.connect()
        except OSError as error:
            raise psycopg.OperationalError(str(error)) from error
        writing = self._writer.thread if isinstance(self._writer, ThreadWriter) else None
        writes = threading.current_thread() is writing
        if not self._writes:
            connection.execute("SET default_transaction_read_only = on")
        session = PostgresSession(connection, again=self.connect, holder=self._claims.holder, writes=writes)
        if writes:
            self.writer_pid = session.pid
        return session

    def _make_writer(self) -> ThreadWriter:
        return ThreadWriter(self)

    def _head_of_chain(self, session: Session) -> ChainHead | None:
        row = session.head if isinstance(session, PostgresSession) else None
        self._head_before = row["sequence"] if row else 0
        return ChainHead(sequence=row["sequence"], hash=row["hash"]) if row else None

    def _applied(self, session: Session, changes: Sequence[Change], head: ChainHead | None) -> None:
        self._claims.claim_changed(session, changes)
        last = head.sequence if head else 0
        extended = self._claims.tasks_of_extended(session, changes)
        told = any(isinstance(change, Append) and change.event.kind in TOLD for change in changes)
        if told or extended:
            what = f"{self._head_before + 1 if told else last + 1}-{last}|{' '.join(extended)}"
            session.rows(reading.NOTIFY, b_channel=CHANNEL, b_what=what)

    async def _bounded(self, work: asyncio.Future[Result]) -> Result:
        try:
            return await asyncio.wait_for(work, _PATIENCE)
        except TimeoutError:
            self.readable = False  # until a read is answered
            raise StoreUnavailableError from None


def _is_private(given: dict[str, Any]) -> bool:
    """Whether nobody in between can read along, or be the database."""
    if given.get("sslmode") == "verify-full":
        return True
    hosts = str(given.get("hostaddr") or given.get("host") or "").split(",")
    return all(not host or host.startswith(("/", "@")) or is_loopback(host) for host in hosts)


def _where(given: dict[str, Any]) -> str:
    """Which database, without anything that opens it."""
    host, name = given.get("host", "localhost"), given.get("dbname", given.get("user", ""))
    return f"{host}:{given.get('port', 5432)}/{name}"


def _one_at_a_time(connection: SqlConnection) -> None:
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATORS})")


def _alone(connection: SqlConnection) -> None:
    """Have every table to ourselves before one is changed: asked for one by one they would meet a reader's, the other way
    round, and one of the two would have to go."""
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITERS})")
    tables = [name for name in inspect(connection).get_table_names() if name in metadata.tables]
    if not tables:
        return
    end = time.monotonic() + _FOR_THE_TABLES
    while True:
        try:
            with connection.begin_nested():
                connection.exec_driver_sql(f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE NOWAIT")
        except OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
        else:
            return
