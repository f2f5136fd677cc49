"""Recorded decisions once more, with other policies: which would come out differently.

Each is decided on what was known then. Its task is taken to have done what it did, but what would have been denied sticks as it
would have: so one flip can bring others with it, which are told apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from broker.domain.actions import Action
from broker.domain.catalog import Catalog
from broker.domain.decision import AcquireContext, CallContext, Decision, DeclareContext, Fingerprint
from broker.domain.errors import EffectDeniedError
from broker.domain.identifiers import ActionId
from broker.domain.spiffe import SpiffeId
from broker.ports.policy import PolicyEngine
from broker.usecases.deciding import decide
from broker.usecases.judging import ruled
from broker.usecases.recorded import Recorded
from broker.usecases.ruling import MOST_DENIED, link_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """A decision that would come out differently."""

    recorded: Recorded
    after: Decision

    @property
    def follows(self) -> bool:
        """Whether it is so because another one flipped before it: what was denied sticks, or no longer does."""
        sticky = EffectDeniedError.reason
        return sticky in {self.recorded.decision.reason, self.after.reason}


@dataclass(slots=True, kw_only=True)
class Replay:
    """What came of it."""

    decisions: int = 0
    flips: list[Flip] = field(default_factory=list)
    not_exact: int = 0
    """Decisions that may have rested on what was not recorded."""
    unlisted: int = 0
    """Decisions about what the catalog no longer has: they are not compared."""
    other_catalog: int = 0
    """Decisions that were made with another catalog than the one at hand."""


def replay(decisions: Iterable[Recorded], *, policy: PolicyEngine, catalog: Catalog) -> Replay:
    """Decide each of them again."""
    found = Replay()
    denied: dict[SpiffeId, list[Action]] = {}
    for recorded in decisions:
        context = recorded.context
        if not recorded.listed:
            found.unlisted += 1
            continue
        if isinstance(context, CallContext | AcquireContext) and context.fingerprint is Fingerprint.CHANGED:
            continue  # the task ends before any policy is asked
        found.decisions += 1
        found.not_exact += not recorded.exact
        found.other_catalog += recorded.catalog not in {"", catalog.digest}
        after = _again(recorded, denied.setdefault(recorded.instance, []), policy, catalog)
        if _differ(recorded.decision, after):
            found.flips.append(Flip(recorded=recorded, after=after))
    return found


def _again(recorded: Recorded, denied: list[Action], policy: PolicyEngine, catalog: Catalog) -> Decision:
    context = recorded.context
    if isinstance(context, DeclareContext):
        return decide(policy, context, catalog)
    task_id, now = context.task.task_id, context.at
    holding = [one for one in denied if one.task_id == task_id or (one.sticks_until or now) > now]
    ruling = ruled(context, catalog, policy=policy, denied=holding[:MOST_DENIED])
    if ruling.sticks:
        action_id = ActionId(recorded.action_id or f"record-{recorded.sequence}")
        denied.insert(0, link_of(context, ruling, action_id))
    return ruling.decision


def _differ(before: Decision, after: Decision) -> bool:
    """In the verdict; or in what the denial means, where that was recorded."""
    if before.allowed or after.allowed:
        return before.allowed != after.allowed
    return before.denial_class not in {None, after.denial_class}
