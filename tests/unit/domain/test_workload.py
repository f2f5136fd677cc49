from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.spiffe import SpiffeId
from broker.domain.workload import EntryId, Ownership, Purpose, Selector, WorkloadEntry, drift

ENTRY = WorkloadEntry(
    entry_id=EntryId("tasklease.catalog.bot.1"),
    spiffe_id=SpiffeId.parse("spiffe://example.test/agent/bot/1"),
    parent_id=SpiffeId.parse("spiffe://example.test/spire/agent/x/y"),
    selectors=frozenset({Selector(kind="unix", value="supplementary_gid:70001")}),
    x509_svid_ttl=timedelta(minutes=10),
    jwt_svid_ttl=timedelta(minutes=5),
)
OTHER: dict[str, Any] = {
    "entry_id": EntryId("tasklease.catalog.bot.2"),
    "spiffe_id": SpiffeId.parse("spiffe://example.test/agent/bot/2"),
    "parent_id": SpiffeId.parse("spiffe://example.test/spire/agent/x/z"),
    "selectors": frozenset({Selector(kind="unix", value="uid:0")}),
    "x509_svid_ttl": timedelta(hours=1),
    "jwt_svid_ttl": timedelta(hours=1),
    "dns_names": frozenset({"tasklease-broker"}),
    "federates_with": frozenset({"other.test"}),
    "hint": "internal",
    "admin": True,
    "downstream": True,
    "store_svid": True,
    "expires_at": datetime(2030, 1, 1, tzinfo=UTC),
}


@pytest.mark.parametrize(
    "entry_id",
    [
        "",
        "tasklease",
        "tasklease.catalog",
        "tasklease.catalog.bot",
        "tasklease.catalog.bot.",
        "tasklease.catalog..1",
        "tasklease.other.bot.1",
        "Tasklease.catalog.bot.1",
        "xtasklease.catalog.bot.1",
        "mine.tasklease.catalog.bot.1",
        "f5e1fe2a-3a52-4b0e-8e0c-0c6f3a7d8c3a",
    ],
)
def test_an_id_that_is_not_marked_is_somebody_elses(entry_id: str) -> None:
    assert Ownership.of(entry_id) is None


@given(
    purpose=st.sampled_from(Purpose),
    agent_class=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?", fullmatch=True),
    instance=st.from_regex(r"[A-Za-z0-9._-]{1,128}", fullmatch=True),
)
def test_an_id_says_purpose_class_and_instance_and_is_one_that_spire_takes(
    purpose: Purpose, agent_class: str, instance: str
) -> None:
    ownership = Ownership(purpose=purpose, agent_class=agent_class, instance=instance)
    assert Ownership.of(ownership.entry_id) == ownership
    assert len(ownership.entry_id) <= 255


@pytest.mark.parametrize("field", [field.name for field in fields(WorkloadEntry)])
def test_each_field_that_differs_is_drift_by_itself(field: str) -> None:
    changed = replace(ENTRY, **{field: OTHER[field]})
    (one,) = drift(changed, ENTRY)
    assert one.field == field
    assert one.found != one.wanted


def test_what_is_as_it_should_be_has_not_drifted() -> None:
    assert drift(ENTRY, replace(ENTRY)) == ()


def test_drift_is_said_in_words() -> None:
    changed = replace(ENTRY, admin=True, x509_svid_ttl=timedelta(hours=1), dns_names=frozenset({"b", "a"}))
    assert [(one.field, one.found, one.wanted) for one in drift(changed, ENTRY)] == [
        ("x509_svid_ttl", "3600s", "600s"),
        ("dns_names", "a b", "none"),
        ("admin", "yes", "no"),
    ]
