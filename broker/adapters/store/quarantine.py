"""Who is quarantined, kept in memory and read again from the store. Implements ports.identity.Quarantine."""

from __future__ import annotations

from broker.domain.spiffe import SpiffeId
from broker.ports.store import Store


class StoredQuarantine:
    """See the module; `refresh` before the first use and regularly after."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._held: frozenset[SpiffeId] = frozenset()

    def holds(self, spiffe_id: SpiffeId) -> bool:
        """Whether nothing more may be accepted from it."""
        return spiffe_id in self._held

    async def refresh(self) -> None:
        """Read the list again."""
        self._held = await self._store.quarantined()
