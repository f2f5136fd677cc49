"""Runs statements of SQLAlchemy Core on a bare database connection.

Statements are written in Core against the one schema, and compiled once for the database at hand; running one then
costs what the driver costs. (Core's own execution takes about half as much CPU again for each commit; docs/adr/0004.)
What always holds: times go in and come out as microseconds, converted here and in rows.py and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from sqlalchemy import Column, ColumnElement, Delete, Insert, Select, Update, or_
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.engine.default import DefaultDialect

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)
Row = Mapping[str, Any]


class UniqueViolationError(Exception):
    """A row with that key exists."""


def one_of(column: Column[str], values: Iterable[str]) -> ColumnElement[bool]:
    """`column IN values` for values that are fixed when the statement is written."""
    return or_(*(column == value for value in values))


class Statement:
    """A Core statement with named parameters (`bindparam`), compiled at most once a dialect."""

    def __init__(
        self,
        core: Select[Any] | Insert | Update | Delete,
        *,
        columns: Sequence[str] = (),
        on_postgresql: Insert | None = None,
    ) -> None:
        self.core = core
        self._on_postgresql = core if on_postgresql is None else on_postgresql
        self._columns = list(columns) or None
        self._compiled: dict[str, tuple[str, Mapping[str, Any]]] = {}

    def for_sqlite(self) -> tuple[str, Mapping[str, Any]]:
        """SQL with `:name` parameters, and the values of those that the statement itself fixes."""
        return self._compiled.get("sqlite") or self._for("sqlite", lambda: sqlite.dialect(paramstyle="named"))

    def for_postgresql(self) -> tuple[str, Mapping[str, Any]]:
        """SQL with `%(name)s` parameters, and the values of those that the statement itself fixes."""
        return self._compiled.get("postgresql") or self._for("postgresql", psycopg.dialect)

    def _for(self, name: str, dialect: Callable[[], DefaultDialect]) -> tuple[str, Mapping[str, Any]]:
        core = self._on_postgresql if name == "postgresql" else self.core
        compiled = core.compile(dialect=dialect(), column_keys=self._columns)
        wanted = {bind.key: None for bind in compiled.binds.values() if bind.required}
        given = compiled.construct_params(wanted)
        fixed = {key: value for key, value in given.items() if key not in wanted}
        found = self._compiled[name] = (str(compiled), fixed)
        return found


class Session(Protocol):
    """One connection, used by one thread at a time."""

    def rows(self, statement: Statement, **values: Any) -> list[Row]:  # noqa: ANN401 - column values
        """Run a query."""
        ...

    def change(self, statement: Statement, **values: Any) -> int:  # noqa: ANN401 - column values
        """Run an INSERT, UPDATE or DELETE; return how many rows it touched.

        Raises:
            UniqueViolationError: a unique index forbids it.
        """
        ...


class WritingSession(Session, Protocol):
    """A session that can change things, and is used by one thread."""

    @property
    def lost(self) -> bool:
        """Whether its connection has ended: another one may do better, at once."""
        ...

    def begin(self) -> None:
        """Begin a transaction; from here to its end nobody else changes anything."""
        ...

    def script(self, sql: str) -> None:
        """Run one fixed statement such as SAVEPOINT."""
        ...

    def commit(self) -> None:
        """Make it durable."""
        ...

    def close(self) -> None:
        """Close the connection; what was not committed is undone."""
        ...


def plain(fixed: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as a driver takes them."""
    given = {**fixed, **values}
    for name, value in values.items():
        if isinstance(value, datetime):
            given[name] = _microseconds(value)
    return given


def _microseconds(at: datetime) -> int:
    """Since the epoch. As `(at - EPOCH) // MICROSECOND`, in less time."""
    since = at - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
