"""A registry in memory that keeps the contract of ports.registry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from broker.domain.workload import EntryId, Ownership, WorkloadEntry
from broker.ports.registry import EntryResult, NotOursError, Outcome, RegistryUnavailableError


class FakeRegistry:
    def __init__(self, *, trust_domain: str = "example.test") -> None:
        self.entries: dict[EntryId, WorkloadEntry] = {}
        self.away = False
        self.calls: list[tuple[str, int]] = []
        self.failing: set[EntryId] = set()
        """Each of these fails when it is written, until it is taken out."""

        self._trust_domain = trust_domain

    async def pages(self, *, size: int = 500) -> AsyncIterator[Sequence[WorkloadEntry]]:
        self._answer("pages", 0)
        found = list(self.entries.values())
        for begin in range(0, len(found), size):
            yield found[begin : begin + size]

    async def create(self, entries: Sequence[WorkloadEntry]) -> Sequence[EntryResult]:
        self._writing("create", [entry.entry_id for entry in entries])
        return [self._create(entry) for entry in entries]

    async def update(self, entries: Sequence[WorkloadEntry]) -> Sequence[EntryResult]:
        self._writing("update", [entry.entry_id for entry in entries])
        return [self._update(entry) for entry in entries]

    async def delete(self, entry_ids: Sequence[EntryId]) -> Sequence[EntryResult]:
        self._writing("delete", entry_ids)
        return [self._delete(entry_id) for entry_id in entry_ids]

    def _create(self, entry: WorkloadEntry) -> EntryResult:
        if trouble := self._trouble(entry):
            return trouble
        for other in self.entries.values():
            if other.grant == entry.grant:
                return EntryResult(entry_id=entry.entry_id, outcome=Outcome.EXISTS, entry=other)
        if entry.entry_id in self.entries:
            return EntryResult(entry_id=entry.entry_id, outcome=Outcome.ID_TAKEN, why="the id is taken")
        self.entries[entry.entry_id] = entry
        return EntryResult(entry_id=entry.entry_id, outcome=Outcome.DONE, entry=entry)

    def _update(self, entry: WorkloadEntry) -> EntryResult:
        if trouble := self._trouble(entry):
            return trouble
        if entry.entry_id not in self.entries:
            return EntryResult(entry_id=entry.entry_id, outcome=Outcome.GONE, why="no such entry")
        self.entries[entry.entry_id] = entry
        return EntryResult(entry_id=entry.entry_id, outcome=Outcome.DONE, entry=entry)

    def _delete(self, entry_id: EntryId) -> EntryResult:
        if entry_id in self.failing:
            return EntryResult(entry_id=entry_id, outcome=Outcome.FAILED, why="not now")
        gone = self.entries.pop(entry_id, None) is None
        return EntryResult(entry_id=entry_id, outcome=Outcome.GONE if gone else Outcome.DONE)

    def _trouble(self, entry: WorkloadEntry) -> EntryResult | None:
        if entry.spiffe_id.trust_domain != self._trust_domain or not entry.selectors:
            return EntryResult(
                entry_id=entry.entry_id, outcome=Outcome.REFUSED, why="not of this trust domain"
            )
        if entry.entry_id in self.failing:
            return EntryResult(entry_id=entry.entry_id, outcome=Outcome.FAILED, why="not now")
        return None

    def _writing(self, call: str, entry_ids: Sequence[EntryId]) -> None:
        if any(Ownership.of(entry_id) is None for entry_id in entry_ids):
            message = "not ours"
            raise NotOursError(message)
        self._answer(call, len(entry_ids))

    def _answer(self, call: str, count: int) -> None:
        if self.away:
            message = "nobody answers"
            raise RegistryUnavailableError(message)
        self.calls.append((call, count))
