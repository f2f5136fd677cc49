"""Deciding, and the catalog that bounds every decision."""

from __future__ import annotations

from typing import Protocol

from broker.domain.catalog import Catalog
from broker.domain.decision import AcquireContext, CallContext, Decision, DeclareContext


class CatalogSource(Protocol):
    """The catalog as it is now; may change between calls, never within one."""

    def current(self) -> Catalog: ...


class PolicyEngine(Protocol):
    """Decides. What it cannot decide, it denies (rule R5)."""

    def decide_declaration(self, context: DeclareContext, catalog: Catalog) -> Decision: ...

    def decide_acquisition(self, context: AcquireContext, catalog: Catalog) -> Decision: ...

    def decide_call(self, context: CallContext, catalog: Catalog) -> Decision: ...

    def could_allow_call(self, context: CallContext, catalog: Catalog) -> bool:
        """Whether there are arguments with which `decide_call` would allow it; those of the context are not looked at."""
        ...
