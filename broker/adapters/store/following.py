"""The audit trail as other replicas write it, by LISTEN and NOTIFY. Implements ports.following.ChangeFeed.

A transaction that has something to tell says which records it brought, and of which tasks it extended leases
(`first-last|task task`). A listener that was away asks the store for all since the last that it knows: none is missed, some
may be told twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Final

import psycopg

from broker.adapters.store.postgresql import CHANNEL, PostgresStore
from broker.domain.errors import StoreUnavailableError
from broker.domain.identifiers import TaskId
from broker.ports.following import TOLD, News

logger = logging.getLogger(__name__)

_PAGE: Final = 500
_PAUSE: Final = 0.5
_LOOK_AGAIN: Final = 5.0
"""Seconds of silence after which the connection is tried."""


class AuditFollower:
    """See the module."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store
        self._known: int | None = None

    async def news(self) -> AsyncIterator[News]:
        """See ports.following."""
        while True:
            try:
                async for news in self._listen():
                    yield news
            except (psycopg.Error, OSError, StoreUnavailableError) as error:
                logger.warning("other replicas are not heard: %s", type(error).__name__)
            await asyncio.sleep(_PAUSE)

    async def _listen(self) -> AsyncIterator[News]:
        connection = await self._store.connect_async()
        async with connection:
            await connection.execute(f"LISTEN {CHANNEL}")
            head = await self._store.audit_head()
            last = head.sequence if head else 0
            if self._known is None:
                self._known = last
            async for news in self._between(self._known, last):
                yield news
            self._known = last
            while True:
                async for notice in connection.notifies(timeout=_LOOK_AGAIN, stop_after=1):
                    brought, _, extended = notice.payload.partition("|")
                    first, _, last_word = brought.partition("-")
                    if notice.pid == self._store.writer_pid:
                        continue  # our own doing
                    async for news in self._between(int(first) - 1, int(last_word)):
                        yield news
                    self._known = max(self._known, int(last_word))
                    if extended:
                        yield News(extended=tuple(map(TaskId, extended.split())))
                await connection.execute("SELECT 1")

    async def _between(self, after: int, last: int) -> AsyncIterator[News]:
        while after < last:
            records = await self._store.audit_records(after, min(_PAGE, last - after))
            if not records:
                return
            after = records[-1].sequence
            if told := tuple(record for record in records if record.event.kind in TOLD):
                yield News(records=told)
