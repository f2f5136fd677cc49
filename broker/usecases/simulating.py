"""What the broker would decide: the same rules, in memory. Nothing is issued, and nothing is recorded.

Not simulated: signs of life, Vault, quarantine, rate limits. A task lives until it is ended or its deadline passes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from broker.domain.actions import NO_ACTIONS, Action, Chain
from broker.domain.catalog import Catalog
from broker.domain.decision import Decision, Verdict
from broker.domain.errors import (
    BrokerError,
    DenialClass,
    LeaseLimitReachedError,
    TaskLimitReachedError,
    TaskNotActiveError,
    TaskNotFoundError,
)
from broker.domain.identifiers import ActionId, TaskId
from broker.domain.spiffe import AgentIdentity, SpiffeId
from broker.domain.task import Task
from broker.ports.arguments import ArgumentChecker
from broker.ports.policy import PolicyEngine
from broker.ports.store import ActionFacts
from broker.usecases.deciding import decide
from broker.usecases.declare_task import Declaration, declaration_context
from broker.usecases.judging import Around, Call, Judged, judge_acquisition, judge_call
from broker.usecases.ruling import MOST_DENIED, link_of


@dataclass(slots=True)
class _Simulated:
    task: Task
    chain: Chain = NO_ACTIONS
    actions: list[Action] = field(default_factory=list)
    leases: dict[str, list[datetime]] = field(default_factory=dict)
    """When each live lease was issued, by role."""
    ended: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """What would be answered."""

    decision: Decision
    task_id: TaskId | None = None
    """The new task's, of a declaration."""
    expected: frozenset[str] = frozenset()


class Simulation:
    """See the module."""

    def __init__(self, *, policy: PolicyEngine, arguments: ArgumentChecker, catalog: Catalog) -> None:
        self._policy = policy
        self._arguments = arguments
        self._catalog = catalog
        self._tasks: dict[TaskId, _Simulated] = {}

    def declare(self, caller: SpiffeId, declaration: Declaration, now: datetime) -> Simulated:
        """Decide a declaration, and remember the task."""
        identity = AgentIdentity.of(caller)
        name = "" if identity is None else identity.agent_class
        context = declaration_context(caller, name, declaration, self._catalog, now)
        decision = decide(self._policy, context, self._catalog)
        agent_class = self._catalog.agent_class(caller.trust_domain, name)
        task_type = self._catalog.task_types.get(declaration.task_type)
        if not decision.allowed or agent_class is None or task_type is None:
            return Simulated(decision=decision)
        mine = [one for one in self._tasks.values() if one.task.owner == caller]
        if sum(self._lives(one, now) for one in mine) >= agent_class.max_tasks:
            return refused(TaskLimitReachedError(agent_class.max_tasks))
        task_id = TaskId(f"task-{len(self._tasks) + 1}")
        self._tasks[task_id] = _Simulated(
            Task(
                task_id=task_id,
                owner=caller,
                agent_class=name,
                task_type=task_type.name,
                intent=declaration.intent,
                scope=context.scope,
                environment=context.environment,
                created_at=now,
                deadline=min(
                    declaration.deadline or now + task_type.max_duration, now + task_type.max_duration
                ),
                heartbeat_interval=task_type.heartbeat,
                heartbeat_due=now + task_type.max_duration,
                fingerprint=declaration.fingerprint,
            )
        )
        return Simulated(decision=decision, task_id=task_id)

    def call(self, caller: SpiffeId, task_id: TaskId, call: Call, now: datetime) -> Simulated:
        """Decide a tool call, as the next link of the task's chain."""
        try:
            found, around = self._around(caller, task_id, now)
            judged = judge_call(around, call, self._catalog, policy=self._policy, arguments=self._arguments)
        except BrokerError as error:
            return refused(error)
        return self._recorded(found, judged)

    def acquire(
        self, caller: SpiffeId, task_id: TaskId, role: str, now: datetime, *, fingerprint: bytes = b""
    ) -> Simulated:
        """Decide an acquisition, as the next link of the task's chain."""
        try:
            found, around = self._around(caller, task_id, now)
            judged = judge_acquisition(
                around, role, self._catalog, policy=self._policy, fingerprint=fingerprint
            )
        except BrokerError as error:
            return refused(error)
        task_type = self._catalog.task_types.get(found.task.task_type)
        if judged.ruling.decision.allowed and task_type is not None:
            if around.facts.live_leases >= task_type.max_leases:
                return refused(LeaseLimitReachedError(task_type.max_leases))
            found.leases.setdefault(role, []).append(now)
        return self._recorded(found, judged)

    def release(self, caller: SpiffeId, task_id: TaskId, role: str) -> None:
        """Give a credential back, the oldest of the role."""
        found = self._tasks.get(task_id)
        leases = found.leases.get(role) if found is not None and found.task.owner == caller else None
        if leases:
            leases.pop(0)

    def end(self, caller: SpiffeId, task_id: TaskId) -> None:
        """End a task."""
        found = self._tasks.get(task_id)
        if found is not None and found.task.owner == caller:
            found.ended = True

    def _lives(self, found: _Simulated, now: datetime) -> bool:
        return not found.ended and now < found.task.deadline

    def _around(self, caller: SpiffeId, task_id: TaskId, now: datetime) -> tuple[_Simulated, Around]:
        found = self._tasks.get(task_id)
        if found is None or found.task.owner != caller:
            raise TaskNotFoundError
        if not self._lives(found, now):
            raise TaskNotActiveError
        issued = [at for role in found.leases.values() for at in role]
        facts = ActionFacts(
            task=found.task,
            length=found.chain.length,
            denied=tuple(self._denied(found.task, now))[:MOST_DENIED],
            live_leases=len(issued),
            oldest_lease=min(issued, default=None),
        )
        return found, Around(caller=caller, task=found.task, facts=facts, chain=found.chain, now=now)

    def _denied(self, task: Task, now: datetime) -> Iterable[Action]:
        """Refusals that stick, newest first: of the task, and of its instance for a while."""
        kept = [
            action
            for one in self._tasks.values()
            if one.task.owner == task.owner
            for action in one.actions
            if action.sticks_until is not None
            and (action.task_id == task.task_id or now < action.sticks_until)
        ]
        return sorted(kept, key=lambda action: (action.at, action.position), reverse=True)

    def _recorded(self, found: _Simulated, judged: Judged) -> Simulated:  # type: ignore[type-arg]  # of either kind
        number = sum(len(one.actions) for one in self._tasks.values()) + 1
        action = link_of(judged.context, judged.ruling, ActionId(f"action-{number}"))
        found.actions.append(action)
        found.chain = found.chain.after(action)
        if judged.ends_the_task:
            found.ended = True
        return Simulated(decision=judged.ruling.decision, expected=judged.ruling.expected)


def refused(error: BrokerError) -> Simulated:
    """An error as the answer that it is."""
    said = error.metadata.get("denial_class")  # more exact than the error's own
    denial_class = DenialClass(said) if said is not None else error.denial_class
    decision = Decision(
        verdict=Verdict.DENY, policies=(), reason=error.reason, text=error.text, denial_class=denial_class
    )
    return Simulated(decision=decision)
