"""A store's file, as somebody with access to the disk sees it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from broker.adapters.store.sqlite import SqliteStore
from broker.domain.audit import AuditRecord


def url(path: Path) -> str:
    return f"sqlite:///{path}"


@contextmanager
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    """Plain SQLite on the file; what was changed is kept."""
    with closing(sqlite3.connect(path)) as connection:
        yield connection
        connection.commit()


async def records_of(path: Path) -> tuple[AuditRecord, ...]:
    store = SqliteStore.open(url(path), read_only=True)
    try:
        return await store.audit_records(0, 1_000_000)
    finally:
        await store.close()
