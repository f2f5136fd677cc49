"""Who can write the file can change the trail, but not without its being seen."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import pytest_asyncio

from broker.adapters.store.schema import audit_records
from broker.adapters.store.session import EPOCH
from broker.adapters.store.sqlite import SqliteStore
from broker.domain.audit import AuditKind, AuditRecord, ChainFault, ChainHead, append, verify_chain
from broker.domain.changes import Append
from tests.fakes.samples import an_event
from tests.unit.store.files import raw, records_of, url

COUNT = 9
FORGED: dict[str, object] = {
    "sequence": 77,
    "previous_hash": "2" * 64,
    "hash": "1" * 64,
    "kind": AuditKind.TASK_ENDED,
    "at": 0,
    "actor": "spiffe://example.test/agent/invoice-bot/innocent",
    "task_id": "task-another",
    "lease_id": "lease-another",
    "request_id": "req-another",
    "facts": '{"n":4.0}',
}


@pytest_asyncio.fixture
async def path(tmp_path: Path) -> Path:
    """A trail of nine records."""
    path = tmp_path / "broker.db"
    store = SqliteStore.open(url(path))
    for n in range(COUNT):
        await store.commit([Append(event=an_event(facts={"n": n}))])
    await store.close()
    return path


def without_triggers(connection: sqlite3.Connection) -> sqlite3.Connection:
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    return connection


async def head_of(path: Path) -> ChainHead:
    head = verify_chain(await records_of(path))
    assert isinstance(head, ChainHead)
    return head


async def fault_of(path: Path, expected: ChainHead | None = None) -> ChainFault:
    fault = verify_chain(await records_of(path), expected=expected)
    assert isinstance(fault, ChainFault)
    return fault


def rewrite(path: Path, records: list[AuditRecord]) -> None:
    """The trail as `records`, every hash as it has to be."""
    with raw(path) as connection:
        without_triggers(connection)
        connection.execute("DELETE FROM audit_records")
        for record in records:
            connection.execute(
                "INSERT INTO audit_records SELECT ?, ?, ?, ?, ?, '', '', '', '', '{}'",
                (record.sequence, record.previous_hash, record.hash, record.event.kind, 0),
            )


async def test_an_untouched_trail_is_intact(path: Path) -> None:
    head = await head_of(path)
    assert head.sequence == COUNT
    assert verify_chain(await records_of(path), expected=head) == head


def test_every_column_is_tried() -> None:
    assert set(FORGED) == set(audit_records.columns.keys())


@pytest.mark.parametrize("column", FORGED)
@pytest.mark.parametrize("place", [1, 5, COUNT])
async def test_a_changed_record_is_found_at_its_place(path: Path, column: str, place: int) -> None:
    with raw(path) as connection:
        changed = without_triggers(connection).execute(
            f"UPDATE audit_records SET {column} = ? WHERE sequence = ?", (FORGED[column], place)
        )
        assert changed.rowcount == 1
    assert (await fault_of(path)).sequence == place


@pytest.mark.parametrize("place", [1, 5, COUNT - 1])
async def test_a_removed_record_is_found(path: Path, place: int) -> None:
    with raw(path) as connection:
        without_triggers(connection).execute("DELETE FROM audit_records WHERE sequence = ?", (place,))
    assert await fault_of(path) == ChainFault(sequence=place, what=f"record {place} is missing")


@pytest.mark.parametrize("place", [1, 5])
async def test_a_removed_record_is_found_when_the_others_close_the_gap(path: Path, place: int) -> None:
    with raw(path) as connection:
        without_triggers(connection).execute("DELETE FROM audit_records WHERE sequence = ?", (place,))
        for number in range(place + 1, COUNT + 1):
            connection.execute(
                "UPDATE audit_records SET sequence = ? WHERE sequence = ?", (number - 1, number)
            )
    assert (await fault_of(path)).sequence == place


@pytest.mark.parametrize("place", [2, COUNT])
async def test_an_inserted_record_is_found(path: Path, place: int) -> None:
    with raw(path) as connection:
        without_triggers(connection)
        for number in range(COUNT, place - 1, -1):
            connection.execute(
                "UPDATE audit_records SET sequence = ? WHERE sequence = ?", (number + 1, number)
            )
        connection.execute(
            "INSERT INTO audit_records SELECT ?, previous_hash, hash, kind, at, actor, task_id, lease_id, "
            "request_id, facts FROM audit_records WHERE sequence = ?",
            (place, place - 1),
        )
    assert (await fault_of(path)).sequence == place


async def test_an_inserted_record_with_hashes_of_its_own_is_found_at_the_next_one(path: Path) -> None:
    records = await records_of(path)
    before = ChainHead(sequence=records[3].sequence, hash=records[3].hash)
    forged = append(before, an_event(AuditKind.TASK_ENDED, actor="", task_id="", request_id="", facts={}))
    with raw(path) as connection:
        without_triggers(connection).execute("DELETE FROM audit_records WHERE sequence = 5")
        connection.execute(
            "INSERT INTO audit_records VALUES (?, ?, ?, ?, ?, '', '', '', '', '{}')",
            (
                forged.sequence,
                forged.previous_hash,
                forged.hash,
                forged.event.kind,
                round(forged.event.at.timestamp() * 1_000_000),
            ),
        )
    assert await fault_of(path) == ChainFault(sequence=6, what="does not follow the record before it")


async def test_two_records_that_changed_places_are_found(path: Path) -> None:
    with raw(path) as connection:
        without_triggers(connection)
        for old, new in ((3, 1000), (4, 3), (1000, 4)):
            connection.execute("UPDATE audit_records SET sequence = ? WHERE sequence = ?", (new, old))
    assert (await fault_of(path)).sequence == 3


@pytest.mark.parametrize("kept", [0, 1, COUNT - 1])
async def test_a_trail_that_was_cut_off_is_found_with_an_earlier_head(path: Path, kept: int) -> None:
    head = await head_of(path)
    with raw(path) as connection:
        without_triggers(connection).execute("DELETE FROM audit_records WHERE sequence > ?", (kept,))
    assert not isinstance(verify_chain(await records_of(path)), ChainFault)  # the chain alone cannot tell
    fault = await fault_of(path, head)
    assert fault.sequence == COUNT
    assert "cut off" in fault.what


async def test_a_trail_that_was_rewritten_is_found_with_an_earlier_head(path: Path) -> None:
    head = await head_of(path)
    records: list[AuditRecord] = []
    for _ in range(COUNT + 3):
        before = ChainHead(sequence=records[-1].sequence, hash=records[-1].hash) if records else None
        event = an_event(at=EPOCH, actor="", task_id="", request_id="", facts={})
        records.append(append(before, event))
    rewrite(path, records)
    assert (await head_of(path)).sequence == COUNT + 3  # the chain alone cannot tell
    fault = await fault_of(path, head)
    assert (fault.sequence, fault.what) == (COUNT, "is not the record that the expected head names")


async def test_a_trail_that_went_on_is_intact_with_an_earlier_head(path: Path) -> None:
    head = await head_of(path)
    store = SqliteStore.open(url(path))
    await store.commit([Append(event=an_event())])
    await store.close()
    assert verify_chain(await records_of(path), expected=head) == await head_of(path)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_records SET kind = 'task.ended' WHERE sequence = 1",
        "UPDATE audit_records SET kind = kind",
        "DELETE FROM audit_records WHERE sequence = 9",
        "DELETE FROM audit_records",
    ],
)
async def test_the_database_itself_lets_records_be_appended_alone(path: Path, statement: str) -> None:
    before = await records_of(path)
    with raw(path) as connection, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement)
    assert await records_of(path) == before
