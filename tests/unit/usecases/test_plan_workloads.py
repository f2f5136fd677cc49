from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from broker.domain.attestation import DockerAttestation, Groups, UnixAttestation
from broker.domain.catalog import AgentClass, Catalog
from broker.domain.spiffe import SpiffeId
from broker.domain.workload import EntryId, Ownership, Purpose, Selector, WorkloadEntry
from broker.usecases.plan_workloads import (
    Action,
    Conflict,
    Handover,
    Twin,
    UnregistrableError,
    plan,
    wanted_entries,
)

BROKER = SpiffeId.parse("spiffe://example.test/tasklease/broker")
NODE = SpiffeId.parse("spiffe://example.test/spire/agent/x509pop/node-1")
GROUPS = UnixAttestation(groups=Groups(first=70000, last=70999))


def a_class(**changed: Any) -> AgentClass:
    return AgentClass(
        **{
            "name": "bot",
            "trust_domain": None,
            "description": "",
            "task_types": frozenset(),
            "max_tasks": 8,
            "attestation": GROUPS,
            "instances": ("1", "2"),
            **changed,
        }
    )


def wanted(
    *classes: AgentClass, own_id: SpiffeId = BROKER, parent: SpiffeId | None = NODE
) -> tuple[WorkloadEntry, ...]:
    catalog = Catalog(
        agent_classes={one.name: one for one in classes}, task_types={}, credential_roles={}, digest=""
    )
    return wanted_entries(catalog, own_id=own_id, parent=parent)


def foreign(entry: WorkloadEntry, **changed: Any) -> WorkloadEntry:
    return replace(entry, **{"entry_id": EntryId("somebody-elses"), **changed})


def ids(found: Any) -> list[str]:
    return [change.entry.entry_id for change in found]


class TestWanted:
    def test_an_entry_for_each_instance_that_is_registered_ahead(self) -> None:
        one, two = wanted(a_class(), a_class(name="launched", instances=()))
        assert two.entry_id == "tasklease.catalog.bot.2"
        assert one == WorkloadEntry(
            entry_id=EntryId("tasklease.catalog.bot.1"),
            spiffe_id=SpiffeId.parse("spiffe://example.test/agent/bot/1"),
            parent_id=NODE,
            selectors=frozenset({Selector(kind="unix", value="supplementary_gid:70000")}),
            x509_svid_ttl=timedelta(minutes=10),
            jwt_svid_ttl=timedelta(minutes=5),
        )

    def test_the_id_template_and_the_parent_are_the_classes(self) -> None:
        (one,) = wanted(
            a_class(id_template="/agent/{class}/eu-{instance}", instances=("1",), parent="/spire/agent/x/y"),
            parent=None,
        )
        assert str(one.spiffe_id) == "spiffe://example.test/agent/bot/eu-1"
        assert one.entry_id == "tasklease.catalog.bot.eu-1"
        assert str(one.parent_id) == "spiffe://example.test/spire/agent/x/y"

    def test_an_instance_keeps_its_group_when_others_come_and_go(self) -> None:
        few, many = wanted(a_class(instances=("1", "2"))), wanted(a_class(instances=("1", "2", "3")))
        assert many[:2] == few

    def test_a_class_without_instances_needs_no_parent(self) -> None:
        assert wanted(a_class(instances=()), parent=None) == ()

    @pytest.mark.parametrize(
        ("changed", "parent", "words"),
        [
            ({}, None, "no parent"),
            ({}, SpiffeId.parse("spiffe://other.test/spire/agent/x/y"), "no SPIRE agent of example.test"),
            ({}, SpiffeId.parse("spiffe://example.test/spire/server"), "no SPIRE agent of example.test"),
            ({}, SpiffeId.parse("spiffe://example.test"), "no SPIRE agent of example.test"),
            # What the reader refuses already, once more where the ID is made.
            ({"id_template": "/tasklease/broker"}, NODE, "is not an instance of the class"),
            ({"id_template": "/agent/other/{instance}"}, NODE, "is not an instance of the class"),
            ({"id_template": "/agent/{class}/x/{instance}"}, NODE, "is not an instance of the class"),
            ({"id_template": "/agent/{class}/../{instance}"}, NODE, "is none"),
            ({"id_template": ".evil/agent/{class}/{instance}"}, NODE, "is none|is not an instance"),
            ({"instances": ("../../tasklease/broker",)}, NODE, "is none"),
            ({"instances": ("a/b",)}, NODE, "is not an instance of the class"),
            ({"instances": ("",)}, NODE, "is none"),
        ],
    )
    def test_what_may_not_be_registered_is_not_planned(
        self, changed: dict[str, Any], parent: SpiffeId | None, words: str
    ) -> None:
        with pytest.raises(UnregistrableError, match=words):
            wanted(a_class(attestation=DockerAttestation(), **changed), parent=parent)

    def test_an_id_in_another_trust_domain_is_not_planned_even_if_the_path_says_so(self) -> None:
        with pytest.raises(UnregistrableError):
            wanted(a_class(id_template="@other.test/agent/{class}/{instance}"))

    def test_the_brokers_own_id_is_not_an_agents_even_where_it_looks_like_one(self) -> None:
        own_id = SpiffeId.parse("spiffe://example.test/agent/bot/2")
        with pytest.raises(UnregistrableError, match="is the broker itself"):
            wanted(a_class(), own_id=own_id)


class TestPlan:
    def test_nothing_is_there(self) -> None:
        entries = wanted(a_class())
        found = plan(entries, [])
        assert [(change.action, change.entry) for change in found.changes] == [
            (Action.CREATE, entry) for entry in entries
        ]

    def test_all_is_as_it_should_be(self) -> None:
        entries = wanted(a_class())
        found = plan(entries, entries)
        assert (found.changes, found.unchanged) == ((), 2)

    def test_what_drifted_is_updated_and_said_field_by_field(self) -> None:
        entries = wanted(a_class())
        drifted = replace(entries[0], admin=True, jwt_svid_ttl=timedelta(hours=1))
        found = plan(entries, [drifted, entries[1]])
        (change,) = found.changes
        assert (change.action, change.entry) == (Action.UPDATE, entries[0])
        assert [(one.field, one.found, one.wanted) for one in change.drift] == [
            ("jwt_svid_ttl", "3600s", "300s"),
            ("admin", "yes", "no"),
        ]

    def test_what_the_catalog_no_longer_lists_goes_and_goes_first(self) -> None:
        before = wanted(a_class(name="old"), a_class(instances=("1",)))
        after = wanted(a_class(x509_svid_ttl=timedelta(minutes=1)))
        found = plan(after, before)
        assert [(change.action, change.entry.entry_id) for change in found.changes] == [
            (Action.DELETE, "tasklease.catalog.old.1"),
            (Action.DELETE, "tasklease.catalog.old.2"),
            (Action.UPDATE, "tasklease.catalog.bot.1"),
            (Action.CREATE, "tasklease.catalog.bot.2"),
        ]

    def test_entries_of_others_are_never_in_a_plan(self) -> None:
        entries = wanted(a_class())
        theirs = [
            foreign(entries[0], selectors=frozenset({Selector(kind="unix", value="uid:0")})),
            foreign(entries[0], entry_id=EntryId("another"), spiffe_id=BROKER),
        ]
        found = plan((), [*theirs, *entries])
        assert ids(found.changes) == [entry.entry_id for entry in entries]

    def test_what_was_launched_is_not_the_catalogs_to_delete(self) -> None:
        (entry, _) = wanted(a_class())
        launched = Ownership(purpose=Purpose.LAUNCH, agent_class="bot", instance="x").entry_id
        assert plan((), [replace(entry, entry_id=launched)]).changes == ()

    def test_an_entry_of_others_that_gives_the_same_id_is_named_and_left(self) -> None:
        entries = wanted(a_class())
        twin = foreign(entries[0], selectors=frozenset({Selector(kind="unix", value="uid:0")}))
        found = plan(entries, [twin, *entries])
        assert found.changes == ()
        assert found.twins == (Twin(wanted=entries[0], theirs=twin),)

    def test_an_entry_of_others_that_is_in_the_way_is_a_conflict_and_not_a_change(self) -> None:
        entries = wanted(a_class())
        theirs = foreign(entries[0])
        found = plan(entries, [theirs])
        assert found.conflicts == (Conflict(wanted=entries[0], theirs=theirs),)
        assert ids(found.changes) == [entries[1].entry_id]

    def test_an_update_does_not_make_a_twin_of_an_entry_of_others(self) -> None:
        entries = wanted(a_class())
        drifted = replace(entries[0], selectors=frozenset({Selector(kind="unix", value="uid:0")}))
        found = plan(entries, [drifted, foreign(entries[0]), entries[1]])
        assert found.changes == ()
        assert [conflict.wanted for conflict in found.conflicts] == [entries[0]]

    def test_selectors_that_go_to_another_id_are_named(self) -> None:
        before, after = wanted(a_class(instances=("1",))), wanted(a_class(name="new", instances=("1",)))
        assert plan(after, before).handovers == (
            Handover(before=before[0].spiffe_id, after=after[0].spiffe_id),
        )

    def test_thousands_are_planned_at_once(self) -> None:
        groups = UnixAttestation(groups=Groups(first=70000, last=89999))
        names = tuple(map(str, range(20_000)))
        entries = wanted(a_class(attestation=groups, instances=names))
        found = plan(entries, entries[5000:])
        assert (len(found.changes), found.unchanged) == (5000, 15_000)
