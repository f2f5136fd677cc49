"""Registering workloads: the entries by which an identity provider knows who is who.

What always holds, of every implementation: an entry that is not ours (`WorkloadEntry.ownership`) is never made,
changed or deleted, whatever is asked; each entry of a batch has a result of its own, in the order in which it was
given; a batch is not atomic.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from broker.domain.workload import EntryId, WorkloadEntry


class Outcome(StrEnum):
    """How it went with one entry of a batch."""

    DONE = "done"
    EXISTS = "exists"
    """Nothing was made: there is an entry with the same SPIFFE ID, parent and selectors, and it is in the result, as
    it is now. It may be ours or not."""

    ID_TAKEN = "id taken"
    """Nothing was made: there is another entry with that id."""

    GONE = "gone"
    """There is no entry with that id."""

    REFUSED = "refused"
    """The registry will never take it as it is."""

    FAILED = "failed"
    """The registry could not do it now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryResult:
    """What became of one entry."""

    entry_id: EntryId
    outcome: Outcome
    entry: WorkloadEntry | None = None
    """As the registry has it now, where it says so."""

    why: str = ""
    """In the registry's words, where it did not do it."""


class RegistryUnavailableError(Exception):
    """No answer: what was asked may have been done or not. The text says where nobody answered."""


class RegistryRefusedError(Exception):
    """The registry takes nothing from this caller. The text says what to do."""


class NotOursError(ValueError):
    """Somebody tried to write an entry that is not ours. Nothing was asked of the registry."""


class WorkloadRegistry(Protocol):
    """See the module. Each call may raise RegistryUnavailableError and RegistryRefusedError."""

    def pages(self, *, size: int = 500) -> AsyncIterator[Sequence[WorkloadEntry]]:
        """All entries, ours and others', page by page; none is empty. What is changed meanwhile may be seen or not."""
        ...

    async def create(self, entries: Sequence[WorkloadEntry]) -> Sequence[EntryResult]:
        """Make entries: DONE, EXISTS, ID_TAKEN, REFUSED or FAILED.

        Raises:
            NotOursError: one of them has an id that is not ours.
        """
        ...

    async def update(self, entries: Sequence[WorkloadEntry]) -> Sequence[EntryResult]:
        """Overwrite each field of the entries with those ids: DONE, GONE, REFUSED or FAILED.

        Raises:
            NotOursError: one of them has an id that is not ours.
        """
        ...

    async def delete(self, entry_ids: Sequence[EntryId]) -> Sequence[EntryResult]:
        """Delete: DONE, GONE or FAILED. What was issued under an entry stays valid until it expires.

        Raises:
            NotOursError: one of them is not ours.
        """
        ...
