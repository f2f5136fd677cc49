"""What becomes of a policy's decision once earlier denials and the task's chain are looked at. Nothing here allows what the
policy engine denied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from broker.domain.actions import Action, ActionKind
from broker.domain.catalog import MOST_ACTIONS, CredentialRole, TaskType, Tool
from broker.domain.chain_rule import ANY_CHAIN
from broker.domain.decision import AcquireContext, CallContext, Decision, Shadow, Verdict
from broker.domain.effects import EVERY_VERB, Effect
from broker.domain.errors import (
    ActionLimitReachedError,
    DenialClass,
    EffectDeniedError,
    PolicyDeniedError,
    StepNotAllowedError,
)
from broker.domain.flows import labels_of
from broker.domain.identifiers import ActionId, TaskId
from broker.domain.quick import quick

STICKS_FOR: Final = timedelta(minutes=15)
"""How long a denied effect stays denied to the instance; to the task it does for as long as that lives (rule R9)."""

MOST_DENIED: Final = 200
"""Refusals that stick, of one instance: whoever has so many gets nothing more."""

_NOWHERE: Final = Effect(verbs=EVERY_VERB, resource="", destination="")
"""The effect of what is not in the catalog: nothing that could stick to anything else."""


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """A decision, and whether its denial sticks to the effect."""

    decision: Decision
    sticks: bool = False
    expected: frozenset[str] = frozenset()
    """Steps that may come instead, where the chain has no place for this one."""


def rule(
    decision: Decision,
    context: AcquireContext | CallContext,
    *,
    effect: Effect | None,
    task_type: TaskType | None,
    denied: Iterable[Action],
) -> Ruling:
    """Look at what the policy engine decided beside what was denied before and what the task has done so far.

    `effect` is None where what was asked for is not in the task's reach, and so can stick to nothing.
    """
    task_id, now = context.task.task_id, context.at
    if not decision.allowed or effect is None:
        by_policy = decision.reason == PolicyDeniedError.reason
        for_now = decision.denial_class is DenialClass.TRANSIENT
        return Ruling(decision=decision, sticks=by_policy and not for_now and effect is not None)
    for earlier in denied:
        if earlier.denies(task_id, effect, now):
            return Ruling(decision=_denied_before(earlier, effect, task_id, decision.shadow))
    chain_rule = ANY_CHAIN if task_type is None else task_type.chain
    name = context.role_name if isinstance(context, AcquireContext) else context.tool_name
    objection = chain_rule.objection(context.chain, name, now)
    if objection is not None:
        return Ruling(
            decision=Decision(
                verdict=Verdict.DENY,
                policies=("catalog:chain",),
                reason=StepNotAllowedError.reason,
                text=objection.text,
                denial_class=DenialClass.STRUCTURAL if objection.for_good else DenialClass.TRANSIENT,
                shadow=decision.shadow,
            ),
            expected=objection.expected,
        )
    return Ruling(decision=decision)


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What a decision is about."""

    kind: ActionKind
    name: str
    entry: CredentialRole | Tool | None
    """The catalog's; None when unlisted."""
    effect: Effect | None
    arguments_digest: str = ""


def _asked(context: AcquireContext | CallContext) -> _Asked:
    match context:
        case AcquireContext(role_name=name, role=role):
            effect = None if role is None else role.effect
            return _Asked(kind=ActionKind.CREDENTIAL, name=name, entry=role, effect=effect)
        case CallContext(tool_name=name, tool=tool):
            return _Asked(
                kind=ActionKind.TOOL,
                name=name,
                entry=tool,
                effect=context.effect,
                arguments_digest=context.arguments_digest,
            )


def link_of(
    context: AcquireContext | CallContext,
    ruling: Ruling,
    action_id: ActionId,
    *,
    idempotency_key: str | None = None,
) -> Action:
    """The next link of the task's chain: what was asked for, and what became of it."""
    asked, decision = _asked(context), ruling.decision
    return Action(
        action_id=action_id,
        task_id=context.task.task_id,
        owner=context.task.owner,
        position=context.chain.length + 1,
        kind=asked.kind,
        name=asked.name,
        effect=asked.effect or _NOWHERE,
        arguments_digest=asked.arguments_digest,
        at=context.at,
        allowed=decision.allowed,
        reason="" if decision.allowed else decision.reason,
        denial_class=None if decision.allowed else decision.denial_class,
        labels=labels_of(asked.entry.reads) if asked.entry and decision.allowed else frozenset(),
        sticks_until=context.at + STICKS_FOR if ruling.sticks else None,
        idempotency_key=idempotency_key,
    )


def demand_room(length: int, denied: int, task_type: TaskType | None) -> None:
    """See that there is room for one more action; `task_type` is None when the catalog has it no more.

    Raises:
        ActionLimitReachedError: there is none.
    """
    if length >= (MOST_ACTIONS if task_type is None else task_type.max_actions):
        text = f"the task has had {length} actions, as many as its type allows"
        raise ActionLimitReachedError(text)
    if denied >= MOST_DENIED:
        text = f"{denied} different effects were denied to this instance, more than anybody's work needs"
        raise ActionLimitReachedError(text)


def refusal_facts(ruling: Ruling) -> Mapping[str, object]:
    """For the audit record of a refusal."""
    decision = ruling.decision
    return {
        "reason": decision.reason,
        "denial_class": "" if decision.denial_class is None else decision.denial_class.value,
        "sticks": ruling.sticks,
        "expected": sorted(ruling.expected),
    }


def _denied_before(earlier: Action, effect: Effect, task_id: TaskId, shadow: Shadow | None) -> Decision:
    whose = "this task" if earlier.task_id == task_id else "this instance"
    return Decision(
        verdict=Verdict.DENY,
        policies=(f"denied:{earlier.action_id}",),
        reason=EffectDeniedError.reason,
        text=(
            f"would {effect.as_text()}, and {earlier.effect.as_text()} was denied to {whose}: another tool, role or task "
            "does not change that"
        ),
        denial_class=earlier.denial_class or DenialClass.STRUCTURAL,
        shadow=shadow,
    )
