"""Record what was found, and do what the catalog's rules answer.

    F1  the finding, its audit record and what the answer changes are durable, in one commit: a hold, or tasks that are ending
        (E1 of usecases.end_task), or a quarantine (Q1 of usecases.quarantine)
    F2  it is known in this process: what is quarantined is refused from here on, secrets in memory are dropped, and attached
        streams hear of it
    F3  what is left to revoke is revoked in the background, by the one path that revokes
    F4  nothing of it is left: that it is answered is durable, with its audit record

A finding that is noted, warned of, or answered with a hold is answered at F1. A crash after F1 loses no E1 and no quarantine;
what is left of F3 is the sweep's (`WatchOverTasks.retry`), and F4 is `take_up`'s, a round, in whatever replica.

What always holds: the same finding is recorded and answered once; its answer is no weaker after a crash; nothing but what the
finding is about is stopped.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, TypeVar

from broker.anomaly.findings import DetectorName
from broker.domain.answers import Chosen
from broker.domain.audit import AuditEvent, AuditKind
from broker.domain.changes import AddQuarantine, AnswerFinding, Append, Change, HoldTask, RecordFinding
from broker.domain.errors import BrokerError, StoreUnavailableError
from broker.domain.findings import SIGNAL, Answer, Found, Hold, RecordedFinding
from broker.domain.identifiers import FindingId
from broker.domain.quarantine import Quarantine, QuarantineTarget, TargetKind
from broker.domain.spiffe import AgentIdentity, SpiffeId
from broker.domain.task import EndCause, Task, TaskEnd, TaskState
from broker.ports.identity import QuarantineInMemory
from broker.ports.policy import CatalogSource
from broker.ports.store import Conflict, ConflictError, Store
from broker.ports.system import Clock, Steps
from broker.usecases.end_quarantined import EndQuarantined
from broker.usecases.end_task import EndTask, ending
from broker.usecases.revoke_leases import RevokeLeases
from broker.usecases.task_events import EventKind, TaskEvent, TaskEvents

logger = logging.getLogger(__name__)

_TRIES: Final = 5
"""How often a finding is recorded anew because the task it is about moved on meanwhile."""
_PAGE: Final = 200
_MOST_TAKEN_UP: Final = 200
"""Findings that a round looks at: the oldest."""
_DRIVEN_AT_ONCE: Final = 8
_LATER: Final = frozenset({Answer.END_TASK, Answer.QUARANTINE})
"""Answers that have taken effect when a backend refuses what was held, and not before."""
_HOLDS: Final = {Answer.APPROVE: Hold.APPROVAL, Answer.FREEZE: Hold.FROZEN}
_LIVING: Final = frozenset({TaskState.ACTIVE, TaskState.ENDING})
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What one commit does, and what follows from it in this process."""

    recorded: RecordedFinding
    changes: tuple[Change, ...]
    ends: tuple[tuple[Task, TaskEnd], ...] = ()
    held: tuple[Task, ...] = ()
    target: QuarantineTarget | None = None


class AnswerFindings:
    """See the module."""

    def __init__(  # noqa: PLR0913 - the ports of one path
        self,
        *,
        store: Store,
        catalogs: CatalogSource,
        end_task: EndTask,
        end_quarantined: EndQuarantined,
        revoke_leases: RevokeLeases,
        memory: QuarantineInMemory,
        events: TaskEvents,
        clock: Clock,
        steps: Steps,
        actor: SpiffeId,
    ) -> None:
        self._store = store
        self._catalogs = catalogs
        self._end_task = end_task
        self._end_quarantined = end_quarantined
        self._revoke_leases = revoke_leases
        self._memory = memory
        self._events = events
        self._clock = clock
        self._steps = steps
        self._actor = actor
        self._carrying: set[FindingId] = set()
        self._at_once = asyncio.Semaphore(_DRIVEN_AT_ONCE)
        self._background: set[asyncio.Task[Any]] = set()
        self.tell: Callable[[RecordedFinding, tuple[str, ...]], Sequence[Change]] = lambda _finding, _to: ()
        """What is committed together with a finding, and with what it has come to, to tell others; set by the wiring."""
        self.on_found: Callable[[RecordedFinding], None] = lambda _finding: None
        """Is told of each finding that was recorded here; set by the wiring."""
        self.on_answered: Callable[[RecordedFinding], None] = lambda _finding: None
        """Is told of each whose answer has taken effect, as this process made durable; set by the wiring."""

    async def __call__(
        self, found: Found, *, request_id: str = "", first: Sequence[Change] = ()
    ) -> RecordedFinding:
        """Record and answer it; where it is recorded already, what is recorded.

        Args:
            found: what was found.
            request_id: the call in which it was found.
            first: what is to be given up where the answer stops the task: committed before that, if it can be.

        Raises:
            StoreUnavailableError: not durable; nothing was done about it.
        """
        # A caller that goes away must not come in between F1 and F2.
        return await asyncio.shield(self._start(self._record(found, request_id, tuple(first))))

    async def take_up(self) -> int:
        """A round: carry on what has not taken effect in full, whoever began it; return how many have now.

        What is to be revoked is left to the sweep, which knows when to try again.

        Raises:
            StoreUnavailableError: some are still not looked at.
        """
        answered = 0
        for recorded in await self._store.unanswered_findings(_MOST_TAKEN_UP):
            if recorded.finding_id not in self._carrying:
                answered += await self._carry_on(recorded)
        return answered

    async def receivers_of(self, recorded: RecordedFinding) -> tuple[str, ...]:
        """Whom the rule names that the catalog has for it now.

        Raises:
            StoreUnavailableError: its task cannot be read.
        """
        return self._chosen(recorded.found, await self._task_of(recorded.found)).tell

    async def drain(self) -> None:
        """Wait for what is under way."""
        while self._background:
            await asyncio.gather(*self._background, return_exceptions=True)
        await self._end_quarantined.settled()

    async def _record(self, found: Found, request_id: str, first: tuple[Change, ...]) -> RecordedFinding:
        for _ in range(_TRIES):
            known = await self._store.finding(found.finding_id)
            if known is not None:
                return known
            plan = await self._plan(found, request_id)
            stops = first if plan.recorded.answer.rank >= Answer.APPROVE.rank else ()
            try:
                await self._store.commit([*stops, *plan.changes])  # F1
            except ConflictError as error:
                if error.conflict is Conflict.LEASE_STATE:
                    first = ()
                continue
            self._steps.reached("anomaly.found-durable")
            await self._follow(plan)
            return plan.recorded
        raise StoreUnavailableError

    async def _plan(self, found: Found, request_id: str) -> _Plan:
        task = await self._task_of(found)
        chosen = self._chosen(found, task)
        now = self._clock.now()
        recorded = RecordedFinding(
            finding_id=found.finding_id,
            found=found,
            found_at=now,
            answer=chosen.answer,
            answered_at=None if chosen.answer in _LATER else now,
        )
        changes: tuple[Change, ...] = (
            RecordFinding(finding=recorded),
            Append(event=self._found_event(recorded, request_id)),
            *([] if recorded.answered_at is None else [Append(event=self._answered_event(recorded, now))]),
            *self.tell(recorded, chosen.tell),
        )
        plan = _Plan(recorded=recorded, changes=changes)
        if chosen.answer is Answer.QUARANTINE:
            return self._quarantining(plan, request_id, now)
        if chosen.answer.rank < Answer.APPROVE.rank:
            return replace(plan, held=() if task is None else (task,))
        concerned = await self._concerned(recorded, {TaskState.ACTIVE})
        if chosen.answer is Answer.END_TASK:
            return self._ending(plan, concerned, request_id, now)
        hold = _HOLDS[chosen.answer]
        holds = tuple(HoldTask(task_id=one.task_id, hold=hold) for one in concerned)
        return replace(plan, changes=(*changes, *holds), held=tuple(concerned))

    def _quarantining(self, plan: _Plan, request_id: str, now: datetime) -> _Plan:
        reason = _reason(plan.recorded)
        name = str(plan.recorded.found.instance)
        target = QuarantineTarget(kind=TargetKind.INSTANCE, name=name)
        quarantine = Quarantine(target=target, by=str(self._actor), reason=reason, since=now)
        event = AuditEvent(
            kind=AuditKind.QUARANTINE_IMPOSED,
            at=now,
            actor=str(self._actor),
            request_id=request_id,
            facts={"target": target.kind.value, "name": name, "reason": reason},
        )
        changes = (*plan.changes, AddQuarantine(quarantine=quarantine), Append(event=event))
        return replace(plan, changes=changes, target=target)

    def _ending(self, plan: _Plan, tasks: Sequence[Task], request_id: str, now: datetime) -> _Plan:
        end = TaskEnd(cause=EndCause.ANOMALY, at=now, reason=_reason(plan.recorded))
        changes = [
            change for task in tasks for change in ending(task.task_id, end, str(self._actor), request_id)
        ]
        return replace(plan, changes=(*plan.changes, *changes), ends=tuple((task, end) for task in tasks))

    async def _follow(self, plan: _Plan) -> None:  # F2
        recorded = plan.recorded
        found = recorded.found
        logger.warning(
            "%s of %s: %s, answered with %s (%s)",
            found.detector,
            found.instance,
            found.rule,
            recorded.answer.value,
            recorded.finding_id,
        )
        if plan.target is not None:
            self._memory.hold(plan.target)
            self._events.wake()
        if recorded.answer is not Answer.NOTE:
            for task in plan.held:
                warned = TaskEvent(kind=EventKind.WARNING, at=recorded.found_at, text=words(found))
                self._events.publish(task.task_id, warned)
        self.on_found(recorded)
        if recorded.answered_at is not None:
            self.on_answered(recorded)
        if recorded.answered_at is None:
            self._carrying.add(recorded.finding_id)
            self._start(self._carry_out(recorded))
        for task, end in plan.ends:
            await self._end_task.begun(task.task_id, end)

    async def _carry_out(self, recorded: RecordedFinding) -> None:  # F3
        try:
            if recorded.answer is Answer.QUARANTINE:
                await self._end_quarantined()
                await self._end_quarantined.settled()
            for task in await self._concerned(recorded, _LIVING):
                async with self._at_once:
                    await self._revoke_leases.drive(task.task_id)
            await self._carry_on(recorded)
        except BrokerError as error:
            logger.error("%s is left to the next round: %s", recorded.finding_id, error.reason)
        finally:
            self._carrying.discard(recorded.finding_id)

    async def _carry_on(self, recorded: RecordedFinding) -> bool:  # F4
        for task in await self._concerned(recorded, _LIVING):
            if task.state is TaskState.ACTIVE:
                if recorded.answer is not Answer.QUARANTINE:
                    end = TaskEnd(cause=EndCause.ANOMALY, at=self._clock.now(), reason=_reason(recorded))
                    await self._end_task.begin(task.task_id, end, actor=str(self._actor))
                return False  # those of a quarantine are ended by the round of EndQuarantined
            if (await self._store.lease_counts(task.task_id)).unfinished:
                return False
        self._steps.reached("anomaly.taken-effect")
        now = self._clock.now()
        done = replace(recorded, answered_at=now)
        found = recorded.found
        event = self._answered_event(recorded, now)
        chosen = self._chosen(found, await self._task_of(found))
        change = AnswerFinding(finding_id=recorded.finding_id, at=now)
        try:
            await self._store.commit([change, Append(event=event), *self.tell(done, chosen.tell)])
        except ConflictError:
            return False  # another replica was first
        self.on_answered(done)
        return True

    def _chosen(self, found: Found, task: Task | None) -> Chosen:
        identity = AgentIdentity.of(found.instance)
        return self._catalogs.current().answers.to(
            found,
            agent_class="" if identity is None else identity.agent_class,
            task_type="" if task is None else task.task_type,
        )

    async def _task_of(self, found: Found) -> Task | None:
        task = None if found.task_id is None else await self._store.task(found.task_id)
        return task if task is not None and task.owner == found.instance else None

    async def _concerned(self, recorded: RecordedFinding, states: AbstractSet[TaskState]) -> list[Task]:
        """The tasks in one of `states` that are to be stopped: the finding's own, or all that its instance had then.

        A quarantine is about all of them, whichever task showed that it is needed.
        """
        found = recorded.found
        if found.task_id is not None and recorded.answer is not Answer.QUARANTINE:
            task = await self._task_of(found)
            return [task] if task is not None and task.state in states else []
        tasks: list[Task] = []
        token = ""
        while True:
            page = await self._store.tasks_of(
                found.instance, states=states, page_size=_PAGE, page_token=token
            )
            tasks += (task for task in page.tasks if task.created_at <= recorded.found_at)
            token = page.next_token
            if not token:
                return tasks

    def _found_event(self, recorded: RecordedFinding, request_id: str) -> AuditEvent:
        found = recorded.found
        return AuditEvent(
            kind=AuditKind.ANOMALY_FOUND,
            at=recorded.found_at,
            actor=str(self._actor),
            task_id=found.task_id or "",
            request_id=request_id,
            facts={
                "finding": recorded.finding_id,
                "detector": found.detector,
                "rule": found.rule,
                "severity": found.severity.value,
                "confidence": found.confidence,
                "instance": str(found.instance),
                "at": found.at.isoformat(),
                "evidence": list(found.evidence),
                "expected": found.expected,
                "happened": found.happened,
                "source": found.source,
                "answer": recorded.answer.value,
            },
        )

    def _answered_event(self, recorded: RecordedFinding, at: datetime) -> AuditEvent:
        return AuditEvent(
            kind=AuditKind.ANOMALY_ANSWERED,
            at=at,
            actor=str(self._actor),
            task_id=recorded.found.task_id or "",
            facts={"finding": recorded.finding_id, "answer": recorded.answer.value},
        )

    def _start(self, coroutine: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        work = asyncio.create_task(coroutine, name="answer-findings")
        self._background.add(work)
        work.add_done_callback(self._background.discard)
        return work


def words(found: Found) -> str:
    """A finding in words for the agent that it is about.

    What others report is not repeated: to a model, an outsider's words could be an order. Nor is a canary given away.
    """
    if found.detector == SIGNAL:
        return f"{found.detector}: reported from outside the broker"
    if found.detector == DetectorName.CANARY:
        return "something was asked for that this task does not need"
    return f"{found.detector}: {found.happened} (expected: {found.expected})"


def _reason(recorded: RecordedFinding) -> str:
    return f"{recorded.found.detector} {recorded.found.rule}: {recorded.finding_id}"
