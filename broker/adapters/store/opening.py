"""Which store a URL names."""

from __future__ import annotations

from pathlib import Path

from broker.adapters.store.postgresql import PostgresStore
from broker.adapters.store.sqlite import SqliteStore


def open_store(
    url: str, *, password_file: Path | None = None, plaintext: bool = False, read_only: bool = False
) -> SqliteStore | PostgresStore:
    """Open it, making (SQLite) and migrating it first unless `read_only`.

    Raises:
        StoreInUseError, StoreUnusableError, SchemaVersionError, FileNotFoundError: see the stores.
        ValueError: the URL names neither a file of SQLite's nor a database of PostgreSQL's.
    """
    if url.startswith(("postgresql://", "postgres://")):
        return PostgresStore.open(url, password_file=password_file, plaintext=plaintext, read_only=read_only)
    if password_file is not None:
        message = "store.password_file: only a database of PostgreSQL's takes one"
        raise ValueError(message)
    return SqliteStore.open(url, read_only=read_only)
