from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from broker.domain.workload import EntryId, Selector, WorkloadEntry
from broker.ports.registry import RegistryUnavailableError
from broker.usecases.apply_workloads import BATCH, Applied, ApplyWorkloads
from broker.usecases.plan_workloads import Action, Change
from tests.fakes.registry import FakeRegistry
from tests.unit.usecases.test_plan_workloads import a_class, foreign, wanted


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


def create(*entries: WorkloadEntry) -> list[Change]:
    return [Change(action=Action.CREATE, entry=entry) for entry in entries]


async def applied(registry: FakeRegistry, changes: list[Change]) -> list[Applied]:
    return [one async for one in ApplyWorkloads(registry).apply(changes)]


async def applied_all(registry: FakeRegistry, entries: tuple[WorkloadEntry, ...]) -> list[Applied]:
    use_case = ApplyWorkloads(registry)
    found = await use_case.plan(entries)
    return [one async for one in use_case.apply(found.changes)]


async def test_after_applying_there_is_nothing_to_do(registry: FakeRegistry) -> None:
    entries = wanted(a_class())
    assert all(one.done for one in await applied_all(registry, entries))
    assert list(registry.entries.values()) == list(entries)
    assert await applied_all(registry, entries) == []
    assert await applied_all(registry, entries[:1])
    assert list(registry.entries.values()) == list(entries[:1])


async def test_what_others_have_stays_through_it_all(registry: FakeRegistry) -> None:
    entries = wanted(a_class())
    uid = frozenset({Selector(kind="unix", value="uid:0")})
    theirs = [
        foreign(entries[0], selectors=uid),
        foreign(entries[1], entry_id=EntryId("another"), selectors=uid, admin=True),
    ]
    registry.entries = {entry.entry_id: entry for entry in theirs}
    await applied_all(registry, entries)
    await applied_all(registry, ())
    assert list(registry.entries.values()) == theirs


async def test_thousands_go_in_batches_and_in_order(registry: FakeRegistry) -> None:
    names = tuple(map(str, range(1, 2 * BATCH + 2)))
    entries = wanted(a_class(instances=names))
    results = await applied(registry, create(*entries))
    assert [one.change.entry for one in results] == list(entries)
    assert registry.calls == [("create", BATCH), ("create", BATCH), ("create", 1)]


async def test_deletes_come_before_updates_and_creates(registry: FakeRegistry) -> None:
    one, two = wanted(a_class())
    registry.entries = {one.entry_id: one}
    await applied(registry, [*create(two), Change(action=Action.DELETE, entry=one)])
    assert [call for call, _ in registry.calls] == ["delete", "create"]


async def test_one_that_fails_does_not_stop_the_others(registry: FakeRegistry) -> None:
    entries = wanted(a_class(instances=("1", "2", "3")))
    registry.failing = {entries[1].entry_id}
    results = await applied(registry, create(*entries))
    assert [one.done for one in results] == [True, False, True]
    assert results[1].trouble == "failed: not now"
    registry.failing = set()
    assert [one.done for one in await applied_all(registry, entries)] == [True]


async def test_what_somebody_made_meanwhile_under_our_id_is_written_over(registry: FakeRegistry) -> None:
    (one, two) = wanted(a_class())
    other = replace(one, x509_svid_ttl=timedelta(hours=1), admin=True)
    taken = replace(two, selectors=one.selectors, spiffe_id=two.spiffe_id)
    registry.entries = {other.entry_id: other, taken.entry_id: taken}
    results = await applied(registry, create(one, two))
    assert all(result.done for result in results)
    assert list(registry.entries.values()) == [one, two]


async def test_what_is_there_already_as_it_should_be_is_done(registry: FakeRegistry) -> None:
    (one, _) = wanted(a_class())
    registry.entries = {one.entry_id: one}
    assert [result.done for result in await applied(registry, create(one))] == [True]
    assert registry.calls == [("create", 1)]


async def test_what_others_made_meanwhile_is_left_and_named(registry: FakeRegistry) -> None:
    (one, _) = wanted(a_class())
    theirs = foreign(one)
    registry.entries = {theirs.entry_id: theirs}
    (result,) = await applied(registry, create(one))
    assert "somebody-elses" in result.trouble
    assert "not ours" in result.trouble
    assert list(registry.entries.values()) == [theirs]


async def test_an_update_of_what_went_meanwhile_is_trouble_and_a_delete_is_not(
    registry: FakeRegistry,
) -> None:
    (one, two) = wanted(a_class())
    results = await applied(
        registry, [Change(action=Action.UPDATE, entry=one), Change(action=Action.DELETE, entry=two)]
    )
    assert [(result.change.action, result.trouble) for result in results] == [
        (Action.DELETE, ""),
        (Action.UPDATE, "is gone meanwhile: apply again"),
    ]


async def test_done_is_not_said_of_what_the_registry_wrote_otherwise(
    registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one, _) = wanted(a_class())
    honest = FakeRegistry._create

    def without_ttl(self: FakeRegistry, entry: WorkloadEntry) -> object:
        return honest(self, replace(entry, x509_svid_ttl=timedelta()))

    monkeypatch.setattr(FakeRegistry, "_create", without_ttl)
    (result,) = await applied(registry, create(one))
    assert result.trouble == "was written, and still differs: x509_svid_ttl is 0s"


async def test_when_nobody_answers_nothing_is_called_done(registry: FakeRegistry) -> None:
    registry.away = True
    with pytest.raises(RegistryUnavailableError):
        await applied(registry, create(*wanted(a_class())))
    with pytest.raises(RegistryUnavailableError):
        await ApplyWorkloads(registry).plan(())
