"""What a claim is, in PostgreSQL's SQL: who holds it, and until when by the database's clock."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, ColumnElement, Insert, cast, extract, func

from broker.adapters.store.session import MICROSECOND
from broker.ports.store import CLAIM

NOW: Final[ColumnElement[int]] = cast(extract("epoch", func.clock_timestamp()) * 1_000_000, BigInteger)
"""The database's clock, as microseconds since 1970."""

UNTIL: Final = NOW + CLAIM // MICROSECOND
HOLDER_SETTING: Final = "tasklease.holder"
"""Each connection's setting that says which replica it is."""


def claimed(insert: Insert) -> Insert:
    """The same INSERT, by a replica that holds what it inserts."""
    return insert.values(claimed_by=func.current_setting(HOLDER_SETTING), claimed_until=UNTIL)
