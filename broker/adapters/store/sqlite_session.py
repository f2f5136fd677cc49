"""Statements on sqlite3."""

from __future__ import annotations

import sqlite3
from typing import Any

from broker.adapters.store.session import Row, Statement, UniqueViolationError, plain


class SqliteSession:
    """Implements WritingSession."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        connection.row_factory = sqlite3.Row
        self._connection = connection

    @property
    def lost(self) -> bool:
        """Never: a file does not hang up."""
        return False

    def rows(self, statement: Statement, **values: Any) -> list[Row]:  # noqa: ANN401 - column values
        """Run a query."""
        sql, fixed = statement.for_sqlite()
        return self._connection.execute(sql, plain(fixed, values)).fetchall()

    def change(self, statement: Statement, **values: Any) -> int:  # noqa: ANN401 - column values
        """Run an INSERT, UPDATE or DELETE."""
        sql, fixed = statement.for_sqlite()
        try:
            return self._connection.execute(sql, plain(fixed, values)).rowcount
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorname in {"SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"}:
                raise UniqueViolationError from error
            raise

    def script(self, sql: str) -> None:
        """Run one fixed statement such as BEGIN."""
        self._connection.execute(sql)

    def begin(self) -> None:
        """Begin a transaction that writes."""
        self._connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make it durable."""
        self._connection.execute("COMMIT")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
