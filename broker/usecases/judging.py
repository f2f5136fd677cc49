"""What is decided of a call or an acquisition: fingerprint, arguments, policy, earlier denials, chain, in this order.

Nothing is read or written here, so that whoever simulates or replays decides exactly as the broker does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Generic, TypeVar

from broker.domain.actions import Action, Chain, digest_of
from broker.domain.catalog import Catalog
from broker.domain.decision import AcquireContext, CallContext, Decision, Fingerprint, Verdict
from broker.domain.effects import Effect
from broker.domain.errors import DenialClass, FingerprintChangedError
from broker.domain.quick import quick
from broker.domain.spiffe import SpiffeId
from broker.domain.task import Task
from broker.ports.arguments import ArgumentChecker
from broker.ports.policy import PolicyEngine
from broker.ports.store import ActionFacts
from broker.usecases.deciding import decide
from broker.usecases.ruling import Ruling, demand_room, rule

_FINGERPRINT_CHANGED: Final = Decision(
    verdict=Verdict.DENY,
    policies=("tasklease:fingerprint",),
    reason=FingerprintChangedError.reason,
    text="model, prompt or tool schemas are not those that the task was declared with: the task is ended",
    denial_class=DenialClass.STRUCTURAL,
)
Context = TypeVar("Context", AcquireContext, CallContext)


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What an agent wants to do."""

    tool: str
    arguments: Mapping[str, object]
    fingerprint: bytes = b""
    idempotency_key: str | None = None


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """Who asks for which task, when, and what is known of it."""

    caller: SpiffeId
    task: Task
    facts: ActionFacts
    chain: Chain
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged(Generic[Context]):
    """What was decided, and on what."""

    context: Context
    ruling: Ruling

    @property
    def ends_the_task(self) -> bool:
        """Whether the agent is no longer what it was when it declared the task."""
        return self.context.fingerprint is Fingerprint.CHANGED


def judge_call(
    around: Around, call: Call, catalog: Catalog, *, policy: PolicyEngine, arguments: ArgumentChecker
) -> Judged[CallContext]:
    """Decide a tool call.

    Raises:
        FieldInvalidError: the arguments are not what the tool takes; nothing was decided.
        ActionLimitReachedError: the chain, or the list of its refusals, is full.
    """
    task, facts = around.task, around.facts
    task_type = catalog.task_types.get(task.task_type)
    demand_room(facts.length, len(facts.denied), task_type)
    tool = catalog.tools.get(call.tool)
    context = CallContext(
        caller=around.caller,
        task=task,
        tool_name=call.tool,
        tool=tool,
        arguments=call.arguments,
        arguments_digest=digest_of(call.arguments),
        effect=None if tool is None else tool.effect(call.arguments),
        fingerprint=_compared(task, call.fingerprint),
        live_leases=facts.live_leases,
        earlier_denials=around.chain.denials,
        at=around.now,
        chain=around.chain,
        oldest_lease=facts.oldest_lease,
        open_anomalies=facts.open_anomalies,
    )
    if context.fingerprint is Fingerprint.CHANGED:
        return Judged(context=context, ruling=Ruling(decision=_FINGERPRINT_CHANGED))
    if tool is not None and call.tool in task.scope.tools:
        arguments.check(tool, call.arguments)
    return Judged(context=context, ruling=ruled(context, catalog, policy=policy, denied=facts.denied))


def judge_acquisition(
    around: Around, role_name: str, catalog: Catalog, *, policy: PolicyEngine, fingerprint: bytes = b""
) -> Judged[AcquireContext]:
    """Decide whether a credential may be handed out.

    Raises:
        ActionLimitReachedError: the chain, or the list of its refusals, is full.
    """
    task, facts = around.task, around.facts
    task_type = catalog.task_types.get(task.task_type)
    demand_room(facts.length, len(facts.denied), task_type)
    role = catalog.credential_roles.get(role_name)
    context = AcquireContext(
        caller=around.caller,
        task=task,
        role_name=role_name,
        role=role,
        fingerprint=_compared(task, fingerprint),
        live_leases=facts.live_leases,
        earlier_denials=around.chain.denials,
        at=around.now,
        chain=around.chain,
        oldest_lease=facts.oldest_lease,
        open_anomalies=facts.open_anomalies,
    )
    if context.fingerprint is Fingerprint.CHANGED:
        return Judged(context=context, ruling=Ruling(decision=_FINGERPRINT_CHANGED))
    return Judged(context=context, ruling=ruled(context, catalog, policy=policy, denied=facts.denied))


def ruled(
    context: AcquireContext | CallContext,
    catalog: Catalog,
    *,
    policy: PolicyEngine,
    denied: Iterable[Action],
) -> Ruling:
    """Policy, then what was denied before, then the chain."""
    return rule(
        decide(policy, context, catalog),
        context,
        effect=_effect_in_reach(context),
        task_type=catalog.task_types.get(context.task.task_type),
        denied=denied,
    )


def _effect_in_reach(context: AcquireContext | CallContext) -> Effect | None:
    """What would happen, if it is in the task's reach; else nothing that a denial could stick to."""
    match context:
        case AcquireContext(role=role, role_name=name):
            return role.effect if role is not None and name in context.task.scope.roles else None
        case CallContext(effect=effect, tool_name=name):
            return effect if name in context.task.scope.tools else None


def _compared(task: Task, now: bytes) -> Fingerprint:
    if not task.fingerprint or not now:
        return Fingerprint.ABSENT
    return Fingerprint.SAME if task.fingerprint == now else Fingerprint.CHANGED
