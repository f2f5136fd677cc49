"""Policies within the catalog's bounds: both have to allow. Implements ports.policy.PolicyEngine.

What always holds: no policy widens the catalog, for what the catalog refuses is never put to the policies.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from broker.domain.catalog import Catalog
from broker.domain.decision import AcquireContext, CallContext, Decision, DeclareContext, Shadow
from broker.ports.policy import PolicyEngine

logger = logging.getLogger(__name__)


class PolicySource(Protocol):
    """The policies as they are now; may change between calls, never within one."""

    def current(self) -> PolicyEngine:
        """The newest that can be used."""
        ...


class Candidate(PolicyEngine, Protocol):
    """Policies of which it is to be seen what they would do."""

    @property
    def digest(self) -> str:
        """Tells one version of them from another."""
        ...


class CandidateSource(Protocol):
    """The candidate as it is now, if there is one that can be used."""

    def current(self) -> Candidate | None:
        """The newest that can be used; None while there is none."""
        ...


class BoundedPolicy:
    """See the module."""

    def __init__(
        self, bounds: PolicyEngine, source: PolicySource, candidates: CandidateSource | None = None
    ) -> None:
        self._bounds = bounds
        self._source = source
        self._candidates = candidates

    def decide_declaration(self, context: DeclareContext, catalog: Catalog) -> Decision:
        """Allow what both allow."""
        bound = self._bounds.decide_declaration(context, catalog)
        if not bound.allowed:
            return bound
        decided = _both(bound, self._source.current().decide_declaration(context, catalog))
        return self._shadowed(decided, lambda engine: engine.decide_declaration(context, catalog))

    def decide_acquisition(self, context: AcquireContext, catalog: Catalog) -> Decision:
        """Allow what both allow."""
        bound = self._bounds.decide_acquisition(context, catalog)
        if not bound.allowed:
            return bound
        decided = _both(bound, self._source.current().decide_acquisition(context, catalog))
        return self._shadowed(decided, lambda engine: engine.decide_acquisition(context, catalog))

    def decide_call(self, context: CallContext, catalog: Catalog) -> Decision:
        """Allow what both allow."""
        bound = self._bounds.decide_call(context, catalog)
        if not bound.allowed:
            return bound
        decided = _both(bound, self._source.current().decide_call(context, catalog))
        return self._shadowed(decided, lambda engine: engine.decide_call(context, catalog))

    def could_allow_call(self, context: CallContext, catalog: Catalog) -> bool:
        """Whether both could allow it."""
        within = self._bounds.could_allow_call(context, catalog)
        return within and self._source.current().could_allow_call(context, catalog)

    def _shadowed(self, decided: Decision, ask: Callable[[PolicyEngine], Decision]) -> Decision:
        """The same decision, with what the candidate says of it. Whatever goes wrong there changes nothing here."""
        candidate = None if self._candidates is None else self._candidates.current()
        if candidate is None:
            return decided
        try:
            said = ask(candidate)
        except Exception as error:  # noqa: BLE001 - it is only looked at
            logger.error("the candidate policies FAILED: %s", type(error).__name__)
            return decided
        shadow = Shadow(
            policy_set=candidate.digest,
            verdict=said.verdict,
            policies=said.policies,
            denial_class=said.denial_class,
        )
        return replace(decided, shadow=shadow)


def _both(bound: Decision, decided: Decision) -> Decision:
    """The second one's verdict: what both allow is named by both, what the second denies by it alone."""
    if not decided.allowed:
        return decided
    return Decision(
        verdict=decided.verdict,
        policies=(*bound.policies, *decided.policies),
        reason=decided.reason,
        text=decided.text,
        denial_class=decided.denial_class,
        shadow=decided.shadow,
    )
