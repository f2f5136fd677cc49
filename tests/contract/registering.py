"""What every implementation of ports.registry.WorkloadRegistry does. A suite a backend: give the fixture `backend`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import pytest

from broker.domain.spiffe import SpiffeId
from broker.domain.workload import EntryId, Ownership, Purpose, Selector, WorkloadEntry
from broker.ports.registry import NotOursError, Outcome, RegistryUnavailableError, WorkloadRegistry

THEIRS = EntryId("somebody-elses")


class Backend(Protocol):
    """A registry, and what others do to it."""

    @property
    def registry(self) -> WorkloadRegistry: ...

    @property
    def trust_domain(self) -> str: ...

    async def plant(self, entry: WorkloadEntry) -> None:
        """Somebody else makes an entry, whatever its id."""
        ...

    def silent(self) -> AbstractContextManager[None]:
        """Meanwhile there is no answer."""
        ...


def an_entry(backend: Backend, number: int = 1, **changed: Any) -> WorkloadEntry:
    ownership = Ownership(purpose=Purpose.CATALOG, agent_class="invoice-bot", instance=str(number))
    fields: dict[str, Any] = {
        "entry_id": ownership.entry_id,
        "spiffe_id": SpiffeId.parse(f"spiffe://{backend.trust_domain}/agent/invoice-bot/{number}"),
        "parent_id": SpiffeId.parse(f"spiffe://{backend.trust_domain}/spire/agent/x509pop/dev-node"),
        "selectors": frozenset({Selector(kind="unix", value=f"supplementary_gid:{70000 + number}")}),
        "x509_svid_ttl": timedelta(minutes=10),
        "jwt_svid_ttl": timedelta(minutes=5),
    }
    return WorkloadEntry(**fields | changed)


def with_everything_changed(backend: Backend, entry: WorkloadEntry) -> WorkloadEntry:
    return replace(
        entry,
        spiffe_id=SpiffeId.parse(f"spiffe://{backend.trust_domain}/agent/other/changed"),
        parent_id=SpiffeId.parse(f"spiffe://{backend.trust_domain}/spire/agent/x509pop/other"),
        selectors=frozenset({Selector(kind="unix", value="uid:5"), Selector(kind="unix", value="gid:6")}),
        x509_svid_ttl=timedelta(seconds=77),
        jwt_svid_ttl=timedelta(seconds=33),
        dns_names=frozenset({"a.test", "b.test"}),
        hint="a hint",
        admin=True,
        downstream=True,
        expires_at=datetime(2100, 1, 1, tzinfo=UTC),
    )


async def all_of(backend: Backend, *, size: int = 500) -> dict[EntryId, WorkloadEntry]:
    return {entry.entry_id: entry async for page in backend.registry.pages(size=size) for entry in page}


class RegistryCases:
    async def test_what_is_created_is_found_as_it_was_given(self, backend: Backend) -> None:
        plain = an_entry(backend)
        full = replace(with_everything_changed(backend, plain), entry_id=an_entry(backend, 2).entry_id)
        results = await backend.registry.create([plain, full])
        assert [(one.entry_id, one.outcome, one.entry) for one in results] == [
            (plain.entry_id, Outcome.DONE, plain),
            (full.entry_id, Outcome.DONE, full),
        ]
        assert await all_of(backend) == {plain.entry_id: plain, full.entry_id: full}

    async def test_every_entry_is_on_one_page(self, backend: Backend) -> None:
        entries = [an_entry(backend, number) for number in range(7)]
        await backend.registry.create(entries)
        for size in (1, 3, 7, 100):
            pages = [page async for page in backend.registry.pages(size=size)]
            assert [entry for page in pages for entry in page] == entries
            assert {len(page) for page in pages} <= set(range(1, size + 1))

    async def test_an_empty_registry_has_no_page(self, backend: Backend) -> None:
        assert [page async for page in backend.registry.pages()] == []

    async def test_what_exists_is_answered_as_it_is_and_not_as_it_was_asked_for(
        self, backend: Backend
    ) -> None:
        old = an_entry(backend, x509_svid_ttl=timedelta(seconds=77))
        await backend.registry.create([old])
        (result,) = await backend.registry.create([an_entry(backend)])
        assert (result.outcome, result.entry) == (Outcome.EXISTS, old)
        assert await all_of(backend) == {old.entry_id: old}

    async def test_what_exists_under_another_id_is_answered_with_that_id(self, backend: Backend) -> None:
        theirs = an_entry(backend, entry_id=THEIRS)
        await backend.plant(theirs)
        (result,) = await backend.registry.create([an_entry(backend)])
        assert (result.entry_id, result.outcome, result.entry) == (
            an_entry(backend).entry_id,
            Outcome.EXISTS,
            theirs,
        )

    async def test_an_id_that_is_taken_is_said_to_be(self, backend: Backend) -> None:
        old = an_entry(backend)
        other = an_entry(backend, 2, entry_id=old.entry_id)
        await backend.registry.create([old])
        (result,) = await backend.registry.create([other])
        assert (result.outcome, result.entry) == (Outcome.ID_TAKEN, None)
        assert await all_of(backend) == {old.entry_id: old}

    async def test_each_entry_of_a_batch_is_on_its_own(self, backend: Backend) -> None:
        foreign = an_entry(backend, 2, spiffe_id=SpiffeId.parse("spiffe://other.test/agent/invoice-bot/2"))
        results = await backend.registry.create([an_entry(backend, 1), foreign, an_entry(backend, 3)])
        assert [one.outcome for one in results] == [Outcome.DONE, Outcome.REFUSED, Outcome.DONE]
        assert results[1].why
        assert set(await all_of(backend)) == {an_entry(backend, 1).entry_id, an_entry(backend, 3).entry_id}

    async def test_an_update_overwrites_every_field(self, backend: Backend) -> None:
        old = an_entry(backend)
        await backend.registry.create([old])
        for entry in (with_everything_changed(backend, old), old):
            (result,) = await backend.registry.update([entry])
            assert (result.outcome, result.entry) == (Outcome.DONE, entry)
            assert await all_of(backend) == {old.entry_id: entry}

    async def test_an_update_of_what_is_not_there_makes_nothing(self, backend: Backend) -> None:
        await backend.registry.create([an_entry(backend, 1)])
        results = await backend.registry.update([an_entry(backend, 2), an_entry(backend, 1)])
        assert [one.outcome for one in results] == [Outcome.GONE, Outcome.DONE]
        assert set(await all_of(backend)) == {an_entry(backend, 1).entry_id}

    async def test_deleting_says_what_was_there(self, backend: Backend) -> None:
        one, two = an_entry(backend, 1).entry_id, an_entry(backend, 2).entry_id
        await backend.registry.create([an_entry(backend, 1)])
        results = await backend.registry.delete([one, two])
        assert [(result.entry_id, result.outcome) for result in results] == [
            (one, Outcome.DONE),
            (two, Outcome.GONE),
        ]
        assert await all_of(backend) == {}

    async def test_entries_of_others_are_seen_and_never_written(self, backend: Backend) -> None:
        theirs = an_entry(backend, 9, entry_id=THEIRS)
        await backend.plant(theirs)
        mine = an_entry(backend)
        for attempt in (
            backend.registry.create([mine, an_entry(backend, 2, entry_id=EntryId("mine-alone"))]),
            backend.registry.update([mine, replace(theirs, admin=True)]),
            backend.registry.delete([mine.entry_id, THEIRS]),
        ):
            with pytest.raises(NotOursError):
                await attempt
        assert await all_of(backend) == {THEIRS: theirs}  # and nothing else of those batches was done

    async def test_no_answer_is_said_to_be_none(self, backend: Backend) -> None:
        with backend.silent():
            for attempt in (
                backend.registry.create([an_entry(backend)]),
                backend.registry.update([an_entry(backend)]),
                backend.registry.delete([an_entry(backend).entry_id]),
                all_of(backend),
            ):
                with pytest.raises(RegistryUnavailableError):
                    await attempt
