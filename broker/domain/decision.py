"""Decisions: what was asked, with which context, and what was answered.

Deny is the default everywhere: a `Decision` that allows has to say so by name, together with the policies that
determined it (rule R5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from broker.domain.actions import NO_ACTIONS, Chain
from broker.domain.catalog import CredentialRole, Tool
from broker.domain.effects import Effect
from broker.domain.errors import DenialClass
from broker.domain.quick import quick
from broker.domain.spiffe import SpiffeId
from broker.domain.task import Scope, Task

LONGEST_RECORDED: Final = 500
"""Characters of an argument that a decision's record keeps."""


class Verdict(StrEnum):
    """What a decision says."""

    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """What a candidate beside the live policies would have decided. It decides nothing."""

    policy_set: str
    """Tells this version of the candidate from others."""
    verdict: Verdict
    policies: tuple[str, ...]
    denial_class: DenialClass | None = None


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A verdict with the policies that determined it."""

    verdict: Verdict
    policies: tuple[str, ...]
    reason: str = ""
    """The wire's reason when denied (a name of ErrorReason)."""
    text: str = ""
    """Why, in words that are safe to show to the caller."""
    denial_class: DenialClass | None = None
    shadow: Shadow | None = None

    @property
    def allowed(self) -> bool:
        """Whether it allows; anything else is a denial."""
        return self.verdict is Verdict.ALLOW


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclareContext:
    """What is known when a task is declared. Asserted by the agent: intent, scope, fingerprint."""

    caller: SpiffeId
    agent_class: str
    task_type: str
    intent: str
    scope: Scope
    environment: str
    at: datetime


class Fingerprint(StrEnum):
    """What the agent says of its model, prompt and tool schemas, against what it said when it declared the task."""

    SAME = "same"
    ABSENT = "absent"
    """It said nothing: at the declaration, or now."""
    CHANGED = "changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class AcquireContext:
    """What is known when a credential is asked for. Asserted by the agent: the fingerprint."""

    caller: SpiffeId
    task: Task
    role_name: str
    role: CredentialRole | None
    """The catalog's entry, which names destination and classification; None when unlisted."""
    fingerprint: Fingerprint = Fingerprint.ABSENT
    live_leases: int
    earlier_denials: int
    at: datetime
    chain: Chain = NO_ACTIONS
    oldest_lease: datetime | None = None
    """When the oldest of the live leases was issued."""
    open_anomalies: int = 0
    """Findings about the task that nobody marked as false."""


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """What is known when a tool is to be called. Asserted by the agent: the arguments, the fingerprint."""

    caller: SpiffeId
    task: Task
    tool_name: str
    tool: Tool | None
    """The catalog's entry; None when unlisted."""
    arguments: Mapping[str, object]
    arguments_digest: str
    effect: Effect | None
    fingerprint: Fingerprint
    live_leases: int
    earlier_denials: int
    at: datetime
    chain: Chain
    oldest_lease: datetime | None = None
    open_anomalies: int = 0


def decided_facts(decision: Decision) -> Mapping[str, object]:
    """What decided, for the audit record of the decision; and what a candidate said, where one runs."""
    shadow = decision.shadow
    if shadow is None:
        return {"policies": list(decision.policies)}
    return {
        "policies": list(decision.policies),
        "shadow": {
            "policy_set": shadow.policy_set,
            "verdict": shadow.verdict.value,
            "policies": list(shadow.policies),
            "denial_class": "" if shadow.denial_class is None else shadow.denial_class.value,
        },
    }


def as_facts(context: DeclareContext | AcquireContext | CallContext) -> Mapping[str, object]:
    """The context as plain data, for the audit record of the decision. Holds no secret."""
    match context:
        case DeclareContext():
            return {
                "task_type": context.task_type,
                "intent": context.intent,
                "roles": sorted(context.scope.roles),
                "tools": sorted(context.scope.tools),
                "environment": context.environment,
            }
        case AcquireContext():
            facts: dict[str, object] = {
                "task_type": context.task.task_type,
                "intent": context.task.intent,
                "environment": context.task.environment,
                "role": context.role_name,
                "fingerprint": context.fingerprint.value,
                **_around(context),
            }
            if context.role is not None:
                destination = context.role.destination
                facts["classification"] = context.role.classification.value
                facts["destination"] = str(destination)
            return facts
        case CallContext():
            return {
                "task_type": context.task.task_type,
                "environment": context.task.environment,
                "tool": context.tool_name,
                "effect": "" if context.effect is None else context.effect.as_text(),
                "resource": "" if context.effect is None else context.effect.resource,
                "arguments_sha256": context.arguments_digest,
                **_named_arguments(context),
                "fingerprint": context.fingerprint.value,
                **_around(context),
            }


def _around(context: AcquireContext | CallContext) -> dict[str, object]:
    """What is known of the task beside what it was declared with."""
    oldest = context.oldest_lease
    return {
        "position": context.chain.length + 1,
        "labels": sorted(context.chain.labels),
        "earlier_denials": context.earlier_denials,
        "live_leases": context.live_leases,
        "oldest_lease": "" if oldest is None else oldest.isoformat(),
        "open_anomalies": context.open_anomalies,
    }


def _named_arguments(context: CallContext) -> dict[str, object]:
    """Those that policies may look at, so that the decision can be understood later; never any other argument."""
    tool = context.tool
    if tool is None or tool.name not in context.task.scope.tools:
        return {}
    if not tool.attributes:
        return {"arguments": {}}
    named = {name: context.arguments[name] for name in sorted(tool.attributes) if name in context.arguments}
    short = {name: value for name, value in named.items() if len(str(value)) <= LONGEST_RECORDED}
    left_out = sorted(named.keys() - short.keys())
    return {"arguments": short, **({"arguments_left_out": left_out} if left_out else {})}
