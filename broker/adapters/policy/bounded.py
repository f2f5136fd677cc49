"""The catalog's bounds, and within them what the policies allow: no policy can widen the catalog."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from broker.adapters.policy.catalog_bounds import CatalogBoundsPolicy
from broker.domain.catalog import Catalog
from broker.domain.decision import AcquireContext, CallContext, Decision, DeclareContext
from broker.ports.policy import PolicyEngine


class BoundedPolicy:
    """Implements ports.policy.PolicyEngine by two others; `policies` gives the second as it is now."""

    def __init__(self, policies: Callable[[], PolicyEngine]) -> None:
        self._bounds = CatalogBoundsPolicy()
        self._policies = policies

    def decide_declaration(self, context: DeclareContext, catalog: Catalog) -> Decision:
        """See ports.policy."""
        bound = self._bounds.decide_declaration(context, catalog)
        return _within(bound, lambda: self._policies().decide_declaration(context, catalog))

    def decide_acquisition(self, context: AcquireContext, catalog: Catalog) -> Decision:
        """See ports.policy."""
        bound = self._bounds.decide_acquisition(context, catalog)
        return _within(bound, lambda: self._policies().decide_acquisition(context, catalog))

    def decide_call(self, context: CallContext, catalog: Catalog) -> Decision:
        """See ports.policy."""
        bound = self._bounds.decide_call(context, catalog)
        return _within(bound, lambda: self._policies().decide_call(context, catalog))

    def could_allow_call(self, context: CallContext, catalog: Catalog) -> bool:
        """See ports.policy."""
        return self._bounds.could_allow_call(context, catalog) and self._policies().could_allow_call(
            context, catalog
        )


def _within(bound: Decision, ask: Callable[[], Decision]) -> Decision:
    if not bound.allowed:
        return bound
    decision = ask()
    return replace(decision, policies=(*bound.policies, *decision.policies)) if decision.allowed else decision
