"""Policies within the catalog's bounds: both have to allow. Implements ports.policy.PolicyEngine.

What always holds: no policy widens the catalog, for what the catalog refuses is never put to the policies.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from broker.domain.catalog import Catalog
from broker.domain.decision import AcquireContext, CallContext, Decision, DeclareContext
from broker.ports.policy import PolicyEngine


class PolicySource(Protocol):
    """The policies as they are now; may change between calls, never within one."""

    def current(self) -> PolicyEngine:
        """The newest that can be used."""
        ...


class BoundedPolicy:
    """See the module."""

    def __init__(self, bounds: PolicyEngine, source: PolicySource) -> None:
        self._bounds = bounds
        self._source = source

    def decide_declaration(self, context: DeclareContext, catalog: Catalog) -> Decision:
        """Allow what both allow."""
        bound = self._bounds.decide_declaration(context, catalog)
        if not bound.allowed:
            return bound
        return _both(bound, self._source.current().decide_declaration(context, catalog))

    def decide_acquisition(self, context: AcquireContext, catalog: Catalog) -> Decision:
        """Allow what both allow."""
        bound = self._bounds.decide_acquisition(context, catalog)
        if not bound.allowed:
            return bound
        return _both(bound, self._source.current().decide_acquisition(context, catalog))

    def decide_call(self, context: CallContext, catalog: Catalog) -> Decision:
        """Allow what both allow."""
        bound = self._bounds.decide_call(context, catalog)
        if not bound.allowed:
            return bound
        return _both(bound, self._source.current().decide_call(context, catalog))

    def could_allow_call(self, context: CallContext, catalog: Catalog) -> bool:
        """Whether both could allow it."""
        within = self._bounds.could_allow_call(context, catalog)
        return within and self._source.current().could_allow_call(context, catalog)


def _both(bound: Decision, decided: Decision) -> Decision:
    """The second one's verdict: what both allow is named by both, what the second denies by it alone."""
    if not decided.allowed:
        return decided
    return replace(decided, policies=(*bound.policies, *decided.policies))
