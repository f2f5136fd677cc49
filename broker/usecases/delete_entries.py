"""Deletes the entries of whom a quarantine concerns, so that SPIRE gives them no new SVID either.

What always holds: what is not ours is named and left; of each entry it is said how it went; what was issued already
stays valid until it expires, and only the quarantine refuses it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from broker.domain.quarantine import QuarantineTarget
from broker.domain.workload import WorkloadEntry
from broker.ports.registry import Outcome, RegistryRefusedError, RegistryUnavailableError, WorkloadRegistry

BATCH: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """What became of one entry; `trouble` is empty when it is gone."""

    entry: WorkloadEntry
    trouble: str = ""


class DeleteEntries:
    """See the module."""

    def __init__(self, registry: WorkloadRegistry) -> None:
        self._registry = registry

    async def of(self, target: QuarantineTarget) -> tuple[Deleted, ...]:
        """Delete every entry that gives an SVID to whom the target concerns.

        Raises:
            RegistryUnavailableError, RegistryRefusedError: the entries cannot be seen.
        """
        found = [
            entry
            async for page in self._registry.pages()
            for entry in page
            if target.concerns(entry.spiffe_id)
        ]
        ours = [entry for entry in found if entry.ownership is not None]
        left = [entry for entry in found if entry.ownership is None]
        deleted: list[Deleted] = []
        for begin in range(0, len(ours), BATCH):
            deleted.extend(await self._delete(ours[begin : begin + BATCH]))
        deleted.extend(Deleted(entry=entry, trouble=f"entry {entry.entry_id} is not ours") for entry in left)
        return tuple(deleted)

    async def _delete(self, batch: Sequence[WorkloadEntry]) -> Iterator[Deleted]:
        try:
            results = await self._registry.delete([entry.entry_id for entry in batch])
        except (RegistryUnavailableError, RegistryRefusedError) as error:
            return (Deleted(entry=entry, trouble=str(error)) for entry in batch)
        return (
            Deleted(
                entry=entry,
                trouble=""
                if result.outcome in {Outcome.DONE, Outcome.GONE}
                else f"{result.outcome.value}: {result.why}",
            )
            for entry, result in zip(batch, results, strict=True)
        )
