"""What PostgreSQL says of a credential: whether it still lets it in, and whether a session with it still lives."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import psycopg

_REFUSALS: Final = ("authentication failed", "is not permitted to log in", "does not exist")
_BETWEEN_TRIES: Final = 0.005
"""Seconds between two tries; the answer is known no finer than this and a log-in's own time."""


def is_refusal(error: psycopg.OperationalError) -> bool:
    """Whether PostgreSQL refused the log-in itself. That it did not answer, or was full, is no refusal."""
    return any(words in str(error) for words in _REFUSALS)


async def lets_in(dsn: str) -> bool:
    """Whether PostgreSQL accepts a new session.

    Raises:
        psycopg.OperationalError: it neither accepted nor refused.
    """
    try:
        connection = await psycopg.AsyncConnection.connect(dsn, connect_timeout=5)
    except psycopg.OperationalError as error:
        if is_refusal(error):
            return False
        raise
    await connection.close()
    return True


async def refused_after(dsn: str, began: float, *, patience: float = 30) -> float:
    """Try to log in until PostgreSQL refuses: seconds from `began` (a `time.perf_counter()`) to the first refusal.

    Raises:
        TimeoutError: it still lets the credential in after `patience` seconds.
    """
    async with asyncio.timeout(patience):
        while await lets_in(dsn):  # noqa: ASYNC110 - PostgreSQL can only be asked
            await asyncio.sleep(_BETWEEN_TRIES)
        return time.perf_counter() - began


async def session_ends_after(
    connection: psycopg.AsyncConnection[object], began: float, *, patience: float = 30
) -> float:
    """Use an open session until PostgreSQL ends it: seconds from `began`.

    Raises:
        TimeoutError: it still works after `patience` seconds.
    """
    async with asyncio.timeout(patience):
        while True:
            try:
                await connection.execute("SELECT 1")
            except psycopg.OperationalError:
                return time.perf_counter() - began
            await asyncio.sleep(_BETWEEN_TRIES)
