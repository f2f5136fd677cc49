from __future__ import annotations

from dataclasses import replace

import pytest

from broker.domain.quarantine import QuarantineTarget, TargetKind
from broker.domain.workload import EntryId, Selector, WorkloadEntry
from broker.ports.registry import RegistryUnavailableError
from broker.usecases.delete_entries import BATCH, DeleteEntries
from tests.fakes.registry import FakeRegistry
from tests.unit.usecases.test_plan_workloads import BROKER as OWN_ID
from tests.unit.usecases.test_plan_workloads import a_class, foreign, wanted

THREE = wanted(a_class(instances=("1", "2", "3")))
BROKER = replace(THREE[0], spiffe_id=OWN_ID, entry_id=EntryId("tasklease.catalog.broker.broker"))
AGENTS = [str(one.spiffe_id) for one in THREE]


def registry_with(*entries: WorkloadEntry) -> FakeRegistry:
    registry = FakeRegistry()
    registry.entries = {entry.entry_id: entry for entry in entries}
    return registry


async def test_one_instance_and_no_other() -> None:
    registry = registry_with(*THREE)
    target = QuarantineTarget(kind=TargetKind.INSTANCE, name=AGENTS[0])
    (one,) = await DeleteEntries(registry).of(target)
    assert (str(one.entry.spiffe_id), one.trouble) == (AGENTS[0], "")
    assert len(registry.entries) == len(THREE) - 1
    assert await DeleteEntries(registry).of(target) == ()


@pytest.mark.parametrize(
    "target",
    [
        QuarantineTarget(kind=TargetKind.AGENT_CLASS, name=AGENTS[0].split("/")[-2]),
        QuarantineTarget(kind=TargetKind.TRUST_DOMAIN, name="example.test"),
    ],
    ids=str,
)
async def test_all_agents_of_a_class_or_a_domain_and_never_the_broker(target: QuarantineTarget) -> None:
    registry = registry_with(BROKER, *THREE)
    deleted = await DeleteEntries(registry).of(target)
    assert sorted(str(one.entry.spiffe_id) for one in deleted) == sorted(AGENTS)
    assert [one.spiffe_id for one in registry.entries.values()] == [BROKER.spiffe_id]


async def test_what_is_not_ours_is_named_and_left() -> None:
    ours = THREE[0]
    theirs = foreign(
        ours, entry_id=EntryId("another"), selectors=frozenset({Selector(kind="unix", value="uid:0")})
    )
    registry = registry_with(ours, theirs)
    deleted = await DeleteEntries(registry).of(QuarantineTarget(kind=TargetKind.INSTANCE, name=AGENTS[0]))
    assert [one.trouble for one in deleted] == ["", "entry another is not ours"]
    assert list(registry.entries) == ["another"]


async def test_of_each_it_is_said_how_it_went_and_the_others_are_deleted() -> None:
    names = tuple(map(str, range(1, BATCH + 3)))
    entries = wanted(a_class(instances=names))
    registry = registry_with(*entries)
    stubborn = entries[0]
    registry.failing = {stubborn.entry_id}
    deleted = await DeleteEntries(registry).of(
        QuarantineTarget(kind=TargetKind.TRUST_DOMAIN, name="example.test")
    )
    assert [(one.entry, one.trouble) for one in deleted if one.trouble] == [(stubborn, "failed: not now")]
    assert len(deleted) == len(names)
    assert stubborn.entry_id in registry.entries


async def test_without_the_registry_nothing_is_said_to_be_deleted() -> None:
    registry = registry_with(*THREE)
    registry.away = True
    with pytest.raises(RegistryUnavailableError):
        await DeleteEntries(registry).of(QuarantineTarget(kind=TargetKind.INSTANCE, name=AGENTS[0]))
