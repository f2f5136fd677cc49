"""Statements on psycopg, and connections that notice when the other side is gone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from broker.adapters.store.claim_sql import HOLDER_SETTING
from broker.adapters.store.session import Row, Statement, UniqueViolationError, plain

logger = logging.getLogger(__name__)

WRITERS: Final = 0x7A51_EA5E
"""The advisory lock that makes writers take turns: the audit chain has one end."""

_NOTICE: Final[dict[str, str | int]] = {
    "application_name": "tasklease",
    "client_encoding": "UTF8",
    "connect_timeout": 3,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 3000,
}
"""Of libpq. What the URL says itself comes first."""

_BOUNDS: Final = (
    # The server ends a transaction whose client hangs or is cut off, so that the others can write.
    "SET idle_in_transaction_session_timeout = '2s'",
    "SET lock_timeout = '4s'",
    "SET statement_timeout = '8s'",
)
_DURABLE: Final = (
    "SELECT set_config('synchronous_commit', 'on', false) "
    "WHERE current_setting('synchronous_commit') IN ('off', 'local')"
)
# One message, and not a pipeline: after what psycopg sends at the end of a pipeline, the server no longer counts how long a
# transaction is idle.
_BEGIN: Final = "; ".join(
    (
        "BEGIN",
        f"SELECT pg_advisory_xact_lock({WRITERS}), pg_current_xact_id()::text AS transaction",
        "SELECT sequence, hash FROM audit_records ORDER BY sequence DESC LIMIT 1",
    )
)
_FOR_THE_OUTCOME: Final = 5.0
"""Seconds for which a broken connection's COMMIT is asked after."""


class CommitUnknownError(psycopg.OperationalError):
    """The connection broke in the COMMIT, and the database cannot be asked how it ended."""


def connect(url: str, *, password: str | None = None) -> psycopg.Connection[dict[str, Any]]:
    """Connect, in autocommit.

    Raises:
        psycopg.OperationalError: the server is not there, or does not let us in.
    """
    connection: psycopg.Connection[dict[str, Any]] = psycopg.connect(
        _complete(url, password), autocommit=True, row_factory=dict_row
    )
    for bound in _BOUNDS:
        connection.execute(bound)
    return connection


async def connect_async(url: str, *, password: str | None = None) -> psycopg.AsyncConnection[Any]:
    """Connect, in autocommit, for whoever listens.

    Raises:
        psycopg.OperationalError: the server is not there, or does not let us in.
    """
    return await psycopg.AsyncConnection.connect(_complete(url, password), autocommit=True)


def _complete(url: str, password: str | None) -> str:
    given = psycopg.conninfo.conninfo_to_dict(url)
    return psycopg.conninfo.make_conninfo(url, password=password, **(_NOTICE | given))


class PostgresSession:
    """Implements WritingSession."""

    def __init__(
        self,
        connection: psycopg.Connection[dict[str, Any]],
        *,
        again: Callable[[], psycopg.Connection[dict[str, Any]]],
        holder: str,
        writes: bool,
    ) -> None:
        self._connection = connection
        self._again = again
        self._transaction = ""
        self.head: Row | None = None
        """The newest audit record when the transaction began."""
        connection.execute("SELECT set_config(%s, %s, false)", [HOLDER_SETTING, holder])
        if writes:
            connection.execute(_DURABLE)
        else:  # claims lapse by themselves and need not be durable
            connection.execute("SET synchronous_commit = off")

    def rows(self, statement: Statement, **values: Any) -> list[Row]:  # noqa: ANN401 - column values
        """Run a query, or a change that returns rows."""
        sql, fixed = statement.for_postgresql()
        return list(self._connection.execute(sql, plain(fixed, values)))

    def change(self, statement: Statement, **values: Any) -> int:  # noqa: ANN401 - column values
        """Run an INSERT, UPDATE or DELETE."""
        sql, fixed = statement.for_postgresql()
        try:
            return int(self._connection.execute(sql, plain(fixed, values)).rowcount)
        except psycopg.errors.UniqueViolation as error:
            raise UniqueViolationError from error

    def script(self, sql: str) -> None:
        """Run one fixed statement such as SAVEPOINT."""
        self._connection.execute(sql)

    def begin(self) -> None:
        """Begin a transaction, wait for the other replicas' to end, and look where the audit chain ends then."""
        found = self._connection.execute(_BEGIN)
        found.nextset()
        row = found.fetchone()
        self._transaction = row["transaction"] if row else ""
        found.nextset()
        self.head = found.fetchone()

    def commit(self) -> None:
        """Make it durable; where the connection breaks meanwhile, ask on another one how it ended.

        Raises:
            psycopg.Error: it is undone.
            CommitUnknownError: it may be either.
        """
        try:
            self._connection.execute("COMMIT")
        except psycopg.OperationalError:
            if not self.lost:
                raise
            if not self._was_committed():
                raise
            logger.warning("store: the connection broke in a commit, which did happen")

    @property
    def lost(self) -> bool:
        """Whether the connection has ended."""
        return self._connection.closed or self._connection.broken

    @property
    def pid(self) -> int:
        """The server's process that serves this connection."""
        return self._connection.info.backend_pid

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _was_committed(self) -> bool:
        end = time.monotonic() + _FOR_THE_OUTCOME
        while True:
            try:
                with self._again() as other:
                    row = other.execute(
                        "SELECT pg_xact_status(%s::xid8) AS outcome", [self._transaction]
                    ).fetchone()
                outcome = row["outcome"] if row else None
            except psycopg.Error as error:
                outcome = "in progress"
                if time.monotonic() > end:
                    raise CommitUnknownError from error
            if outcome != "in progress":
                return bool(outcome == "committed")
            if time.monotonic() > end:
                raise CommitUnknownError
            time.sleep(0.1)
