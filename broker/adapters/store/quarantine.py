"""Who is quarantined, kept in memory and read again from the store. Implements ports.identity.QuarantineInMemory.

What always holds: what this process imposed or released is known here from that moment on, also while an older answer
of the store is still on its way.
"""

from __future__ import annotations

from broker.domain.quarantine import QuarantineTarget
from broker.domain.spiffe import SpiffeId
from broker.ports.store import Store


class StoredQuarantine:
    """See the module; `refresh` before the first use and regularly after."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._held: frozenset[QuarantineTarget] = frozenset()
        self._changes = 0

    def holds(self, spiffe_id: SpiffeId) -> bool:
        """Whether nothing more may be accepted from it."""
        return bool(self._held) and not self._held.isdisjoint(QuarantineTarget.all_of(spiffe_id))

    def hold(self, target: QuarantineTarget) -> None:
        """Hold it from now on."""
        self._held |= {target}
        self._changes += 1

    def let_go(self, target: QuarantineTarget) -> None:
        """Hold it no longer."""
        self._held -= {target}
        self._changes += 1

    async def refresh(self) -> bool:
        """Read the list again; return whether it was another."""
        while True:
            changes = self._changes
            held = frozenset(quarantine.target for quarantine in await self._store.quarantines())
            if changes == self._changes:  # else the answer may be older than what this process did meanwhile
                break
        new = held != self._held
        self._held = held
        return new
