"""Does what a plan says, batch by batch; each entry has a result of its own.

What always holds: "done" is said of an entry only when the registry's answer is that it is as it should be, or gone; an
entry of somebody else's that is in the way stays as it is, and is named. Cut off in the middle, the next plan finds
the rest.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from broker.domain.workload import WorkloadEntry, drift
from broker.ports.registry import EntryResult, Outcome, WorkloadRegistry
from broker.usecases.plan_workloads import Action, Change, Plan, is_of_interest, plan

BATCH: Final = 100

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What became of one change; `trouble` is empty when it is done."""

    change: Change
    trouble: str = ""

    @property
    def done(self) -> bool:
        """Whether the registry is as the change wants it."""
        return not self.trouble


class ApplyWorkloads:
    """See the module."""

    def __init__(self, registry: WorkloadRegistry) -> None:
        self._registry = registry

    async def plan(self, wanted: Sequence[WorkloadEntry]) -> Plan:
        """Look at all entries, and compare.

        Raises:
            RegistryUnavailableError, RegistryRefusedError: they cannot be seen.
        """
        wanted_ids = frozenset(entry.spiffe_id for entry in wanted)
        found = [
            entry
            async for page in self._registry.pages()
            for entry in page
            if is_of_interest(entry, wanted_ids)
        ]
        return plan(wanted, found)

    async def apply(self, changes: Sequence[Change]) -> AsyncIterator[Applied]:
        """Do the changes in their order: a result for each, as soon as it is known.

        Raises:
            RegistryUnavailableError, RegistryRefusedError: what has no result yet is done in part, or not at all.
        """
        again: list[Change] = []
        for action in Action:
            todo = [change for change in changes if change.action is action]
            for batch in _batches(todo):
                for change, result in zip(batch, await self._do(action, batch), strict=True):
                    applied = _judged(change, result)
                    if applied is None:
                        again.append(Change(action=Action.UPDATE, entry=change.entry))
                    else:
                        yield applied
        for batch in _batches(again):
            for change, result in zip(batch, await self._do(Action.UPDATE, batch), strict=True):
                yield _judged_written(change, result)

    async def _do(self, action: Action, batch: Sequence[Change]) -> Sequence[EntryResult]:
        match action:
            case Action.DELETE:
                return await self._registry.delete([change.entry.entry_id for change in batch])
            case Action.UPDATE:
                return await self._registry.update([change.entry for change in batch])
            case Action.CREATE:
                return await self._registry.create([change.entry for change in batch])


def _judged(change: Change, result: EntryResult) -> Applied | None:
    """None: there is an entry with our id that is not as it should be, and has to be written over."""
    match change.action, result.outcome:
        case Action.DELETE, Outcome.DONE | Outcome.GONE:
            return Applied(change=change)
        case Action.CREATE, Outcome.ID_TAKEN:
            return None  # the id makes it ours: somebody applied at the same time
        case Action.CREATE, Outcome.EXISTS if result.entry is not None:
            if result.entry.entry_id != change.entry.entry_id:
                theirs = f"entry {result.entry.entry_id} has the same SPIFFE ID, parent and selectors, and is not ours"
                return Applied(
                    change=change, trouble=f"{theirs}: it is left as it is; delete it, then apply again"
                )
            return None if drift(result.entry, change.entry) else Applied(change=change)
        case _:
            return _judged_written(change, result)


def _judged_written(change: Change, result: EntryResult) -> Applied:
    if result.outcome is Outcome.GONE:
        return Applied(change=change, trouble="is gone meanwhile: apply again")
    if result.outcome is not Outcome.DONE or result.entry is None:
        return Applied(change=change, trouble=f"{result.outcome.value}: {result.why}")
    if still := drift(result.entry, change.entry):
        fields = ", ".join(f"{one.field} is {one.found}" for one in still)
        return Applied(change=change, trouble=f"was written, and still differs: {fields}")
    return Applied(change=change)


def _batches(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for begin in range(0, len(items), BATCH):
        yield items[begin : begin + BATCH]
