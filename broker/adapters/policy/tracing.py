"""Runs traces against whatever decides: a simulation, the use cases on a store, or a broker behind its door."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from broker.adapters.policy.cedar import DECISION_PREFIX
from broker.adapters.policy.traces import DeclareModel, StepModel, Trace
from broker.domain.actions import ActionOutcome
from broker.domain.catalog import Catalog
from broker.domain.decision import Decision
from broker.domain.errors import PolicyDeniedError
from broker.domain.identifiers import TaskId
from broker.domain.spiffe import SpiffeId
from broker.domain.task import Scope
from broker.usecases.declare_task import Declaration
from broker.usecases.judging import Call
from broker.usecases.simulating import Simulated, Simulation

_UNKNOWN_TASK = TaskId("task-that-was-refused")


class World(Protocol):
    """What answers the steps of traces. One that does not know which policies decided names none."""

    async def declare(self, caller: SpiffeId, declaration: Declaration, now: datetime) -> Simulated:
        """Declare a task."""
        ...

    async def call(
        self, caller: SpiffeId, task_id: TaskId, call: Call, outcome: ActionOutcome | None, now: datetime
    ) -> Simulated:
        """Have a call decided, and say how it went."""
        ...

    async def acquire(
        self, caller: SpiffeId, task_id: TaskId, role: str, fingerprint: bytes, now: datetime
    ) -> Simulated:
        """Ask for a credential."""
        ...

    async def release(self, caller: SpiffeId, task_id: TaskId, role: str) -> None:
        """Give one back."""
        ...

    async def end(self, caller: SpiffeId, task_id: TaskId) -> None:
        """Complete the task."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What became of one step."""

    place: str
    step: StepModel
    decision: Decision | None
    """None where nothing is decided."""
    wrong: str
    """What was expected instead; empty where it came out."""

    @property
    def did_harm(self) -> bool:
        """Whether an attack has succeeded here."""
        return self.step.harm and self.decision is not None and self.decision.allowed


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceResult:
    """What became of one trace."""

    trace: Trace
    steps: tuple[StepResult, ...]

    @property
    def passed(self) -> bool:
        """Whether each step came out as it was expected to."""
        return not any(step.wrong for step in self.steps)

    @property
    def stopped(self) -> bool:
        """Of an attack: whether nothing that does harm was allowed."""
        return not any(step.did_harm for step in self.steps)

    @property
    def legitimate(self) -> tuple[StepResult, ...]:
        """Of work: the steps that were decided, but for those that say themselves that they are refused."""
        if self.trace.model.kind != "work":
            return ()
        return tuple(one for one in self.steps if one.decision is not None and one.step.expect != "deny")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of all of them."""

    attacks: int
    stopped: int
    legitimate: int
    allowed: int

    def __str__(self) -> str:
        return (
            f"attacks stopped: {self.stopped} of {self.attacks}; legitimate steps allowed: {self.allowed} of "
            f"{self.legitimate}"
        )


def report(results: Iterable[TraceResult]) -> Report:
    """How many attacks were stopped, and how much work could be done."""
    listed = list(results)
    attacks = [result for result in listed if result.trace.model.kind == "attack"]
    steps = [step for result in listed for step in result.legitimate]
    return Report(
        attacks=len(attacks),
        stopped=sum(result.stopped for result in attacks),
        legitimate=len(steps),
        allowed=sum(step.decision is not None and step.decision.allowed for step in steps),
    )


def by_subject(results: Iterable[TraceResult]) -> dict[str, Report]:
    """The same for each thing that traces are about, sorted."""
    found: dict[str, list[TraceResult]] = {}
    for result in results:
        for subject in result.trace.model.about:
            found.setdefault(subject, []).append(result)
    return {subject: report(found[subject]) for subject in sorted(found)}


async def run_trace(trace: Trace, world: World, catalog: Catalog) -> TraceResult:
    """Take the steps of a trace, in order, each at its moment."""
    model = trace.model
    trust_domain = catalog.agent_classes[model.agent_class].trust_domain or "example.test"
    now = model.begins
    tasks: dict[tuple[SpiffeId, str], TaskId] = {}
    results = []
    for place, step in _steps(trace):
        now += step.wait
        path = f"/agent/{model.agent_class}/{step.by or model.instance}"
        caller = SpiffeId(trust_domain=trust_domain, path=path)
        answer = await _take(step, world, caller, tasks, now)
        decision = None if answer is None else answer.decision
        results.append(
            StepResult(
                place=place,
                step=step,
                decision=decision,
                wrong="" if decision is None else _wrong(step, decision),
            )
        )
    return TraceResult(trace=trace, steps=tuple(results))


def _steps(trace: Trace) -> Iterator[tuple[str, StepModel]]:
    if trace.model.task is not None:
        yield f"{trace.file}:{trace.line}", StepModel(declare=trace.model.task, expect="allow")
    for line, step in zip(trace.lines, trace.model.steps, strict=True):
        yield f"{trace.file}:{line}", step


async def _take(
    step: StepModel,
    world: World,
    caller: SpiffeId,
    tasks: dict[tuple[SpiffeId, str], TaskId],
    now: datetime,
) -> Simulated | None:
    if step.declare is not None:
        answer = await world.declare(caller, _declaration(step.declare), now)
        if answer.task_id is not None:
            tasks[caller, step.task] = answer.task_id
        return answer
    # Another instance may name a task that is not its own: that is what is tried then.
    others = [task_id for (_, name), task_id in tasks.items() if name == step.task]
    task_id = tasks.get((caller, step.task), others[0] if others else _UNKNOWN_TASK)
    fingerprint = step.fingerprint.encode()
    if step.call is not None:
        call = Call(tool=step.call, arguments=step.arguments, fingerprint=fingerprint)
        return await world.call(caller, task_id, call, step.outcome, now)
    if step.acquire is not None:
        return await world.acquire(caller, task_id, step.acquire, fingerprint, now)
    if step.release is not None:
        await world.release(caller, task_id, step.release)
    else:
        await world.end(caller, task_id)
    return None


def _declaration(said: DeclareModel) -> Declaration:
    scope = None
    if said.roles is not None or said.tools is not None:
        scope = Scope(roles=frozenset(said.roles or ()), tools=frozenset(said.tools or ()))
    return Declaration(
        task_type=said.type,
        intent=said.intent,
        scope=scope,
        environment=said.environment,
        deadline=None,
        fingerprint=said.fingerprint.encode(),
        idempotency_key=None,
    )


def _wrong(step: StepModel, decision: Decision) -> str:
    verdict = decision.verdict.value
    named = sorted(
        policy.removeprefix(DECISION_PREFIX)
        for policy in decision.policies
        if policy.startswith(DECISION_PREFIX)
    )
    got = f"got {verdict}: {decision.reason or 'allowed'} {', '.join(decision.policies)} {decision.text}".rstrip()
    if step.expect not in {None, verdict}:
        return f"expected {step.expect}, {got}"
    if step.reason not in {None, decision.reason}:
        return f"expected {step.reason}, {got}"
    if step.denial not in {None, decision.denial_class}:
        return f"expected a denial that is {step.denial}, got one that is {decision.denial_class or 'none'}"
    if step.because is not None and not decision.allowed and decision.reason != PolicyDeniedError.reason:
        return f"expected a policy's denial, {got}"
    if step.because is not None and decision.policies and named != sorted(step.because):
        return f"expected because of {', '.join(step.because) or 'nothing'}, {got}"
    return ""


class SimulatedWorld:
    """Implements World: in memory."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    async def declare(self, caller: SpiffeId, declaration: Declaration, now: datetime) -> Simulated:
        """See World."""
        return self._simulation.declare(caller, declaration, now)

    async def call(
        self,
        caller: SpiffeId,
        task_id: TaskId,
        call: Call,
        outcome: ActionOutcome | None,  # noqa: ARG002 - nothing is decided by it yet
        now: datetime,
    ) -> Simulated:
        """See World."""
        return self._simulation.call(caller, task_id, call, now)

    async def acquire(
        self, caller: SpiffeId, task_id: TaskId, role: str, fingerprint: bytes, now: datetime
    ) -> Simulated:
        """See World."""
        return self._simulation.acquire(caller, task_id, role, now, fingerprint=fingerprint)

    async def release(self, caller: SpiffeId, task_id: TaskId, role: str) -> None:
        """See World."""
        self._simulation.release(caller, task_id, role)

    async def end(self, caller: SpiffeId, task_id: TaskId) -> None:
        """See World."""
        self._simulation.end(caller, task_id)
