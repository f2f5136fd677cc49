"""Deciding, and the catalog that bounds every decision."""

from __future__ import annotations

from typing import Protocol

from broker.domain.catalog import Catalog
from broker.domain.decision import AcquireContext, Decision, DeclareContext


class CatalogSource(Protocol):
    """The catalog as it is now; may change between calls, never within one."""

    def current(self) -> Catalog: ...


class PolicyEngine(Protocol):
    """Decides. What it cannot decide, it denies (rule R5)."""

    def decide_declaration(self, context: DeclareContext, catalog: Catalog) -> Decision: ...

    def decide_acquisition(self, context: AcquireContext, catalog: Catalog) -> Decision: ...
