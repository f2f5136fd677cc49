"""What a record's hash covers. Chains in a database, and what is done to them, are in tests/unit/store."""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain import audit
from broker.domain.audit import (
    GENESIS,
    AuditEvent,
    AuditRecord,
    ChainFault,
    ChainHead,
    canonical,
    record_hash,
    verify_chain,
)
from tests.fakes.samples import an_event
from tests.fakes.system import NOON

FACTS = st.dictionaries(
    st.text(max_size=8),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=5,
    ),
    max_size=4,
)
EVENTS = st.builds(
    AuditEvent,
    kind=st.text(max_size=10),
    at=st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - hypothesis adds the zone
    actor=st.text(max_size=10),
    task_id=st.text(max_size=10),
    lease_id=st.text(max_size=10),
    request_id=st.text(max_size=10),
    facts=FACTS,
)


def chain_of(events: list[AuditEvent]) -> list[AuditRecord]:
    records: list[AuditRecord] = []
    head = None
    for event in events:
        records.append(audit.append(head, event))
        head = ChainHead(sequence=records[-1].sequence, hash=records[-1].hash)
    return records


def test_the_form_and_the_hash_never_change() -> None:
    event = AuditEvent(
        kind="task.declared",
        at=datetime(2026, 3, 1, 12, 0, 0, 7, UTC),
        actor="spiffe://example.test/agent/invoice-bot/one",
        task_id="task-1",
        facts={"roles": ["orders"], "intent": "März", "n": 1, "none": None},
    )
    wanted = (
        b'{"actor":"spiffe://example.test/agent/invoice-bot/one","at":"2026-03-01T12:00:00.000007+00:00",'
        b'"facts":{"intent":"M\\u00e4rz","n":1,"none":null,"roles":["orders"]},"kind":"task.declared",'
        b'"lease_id":"","request_id":"","task_id":"task-1"}'
    )
    assert canonical(event) == wanted
    covered = b"tasklease-audit-v1\n1\n" + b"0" * 64 + b"\n" + wanted
    assert record_hash(1, GENESIS, event) == hashlib.sha256(covered).hexdigest()


def test_the_same_moment_and_the_same_facts_are_the_same_bytes() -> None:
    event = an_event(facts={"a": 1, "b": [2], "c": {"d": 3, "e": 4}})
    elsewhere = event.at.astimezone(timezone(timedelta(hours=5, minutes=30)))
    same = an_event(facts={"c": {"e": 4, "d": 3}, "b": [2], "a": 1}, at=elsewhere)
    assert canonical(event) == canonical(same)


@pytest.mark.parametrize("field", [field.name for field in fields(AuditEvent)])
def test_every_field_of_an_event_is_covered(field: str) -> None:
    changed: dict[str, Any] = {
        "at": NOON + timedelta(microseconds=8),
        "facts": {"task_type": "reconcile", "roles": ["order"], "words": "März", "n": 1},
    }
    other = replace(an_event(), **{field: changed.get(field, "something else")})
    assert record_hash(1, GENESIS, other) != record_hash(1, GENESIS, an_event())


def test_place_and_predecessor_are_covered() -> None:
    hashes = {
        record_hash(place, before, an_event()) for place in (1, 2, 11) for before in (GENESIS, "1" * 64)
    }
    assert len(hashes) == 6


@given(st.lists(EVENTS, max_size=8))
def test_what_is_appended_is_a_chain_without_gaps(events: list[AuditEvent]) -> None:
    records = chain_of(events)
    assert [record.sequence for record in records] == list(range(1, len(events) + 1))
    assert [record.previous_hash for record in records] == [GENESIS, *(record.hash for record in records)][
        :-1
    ]
    head = ChainHead(sequence=len(records), hash=records[-1].hash) if records else None
    assert verify_chain(records) == head
    for record in records:
        assert verify_chain(records, expected=ChainHead(sequence=record.sequence, hash=record.hash)) == head


@given(st.lists(EVENTS, min_size=1, max_size=6), EVENTS, st.data())
def test_a_changed_event_is_found_at_its_place(
    events: list[AuditEvent], other: AuditEvent, data: st.DataObject
) -> None:
    records = chain_of(events)
    place = data.draw(st.integers(0, len(records) - 1))
    records[place] = replace(records[place], event=other)
    found = verify_chain(records)
    if canonical(other) == canonical(events[place]):
        assert isinstance(found, ChainHead)
    else:
        assert found == ChainFault(sequence=place + 1, what="content does not match its hash")


def test_an_empty_chain_has_no_head_but_is_a_fault_where_one_is_expected() -> None:
    assert verify_chain([]) is None
    assert isinstance(verify_chain([], expected=ChainHead(sequence=1, hash="0" * 64)), ChainFault)


def test_kinds_are_each_their_own() -> None:
    kinds = [value for name, value in vars(audit.AuditKind).items() if name.isupper()]
    assert len(kinds) == len(set(kinds)) > 0
