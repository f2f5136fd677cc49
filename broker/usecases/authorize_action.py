"""Authorize a tool call (step 3 of a credential's life).

    C1  load the task, what was denied before, and its chain; it must be the caller's, and active
    C2  another fingerprint than at the declaration ends the task
    C3  the arguments must be what the tool takes
    C4  decide: policy, earlier denials, the chain
    C5  the decision, the chain's new link and the audit record durable  ── rule R1
        what the chain shows now is noticed, and answered, before the answer leaves (usecases.notice)
    C6  the answer leaves

A refusal is an answer, not an error: it is a link of the chain as well, and its effect stays denied (rule R9).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from broker.domain.actions import Action, digest_of
from broker.domain.audit import AuditEvent, AuditKind
from broker.domain.catalog import NO_OBLIGATIONS, Catalog, Obligations
from broker.domain.changes import Append, RecordAction
from broker.domain.decision import CallContext, Decision, Verdict, as_facts, decided_facts
from broker.domain.errors import IdempotencyKeyReusedError, TaskNotActiveError
from broker.domain.identifiers import TaskId
from broker.domain.quick import quick
from broker.domain.task import EndCause, TaskEnd
from broker.ports.arguments import ArgumentChecker
from broker.ports.observing import Decided, nobody_is_told
from broker.ports.policy import CatalogSource, PolicyEngine
from broker.ports.store import Store
from broker.ports.system import Clock, Ids, Steps
from broker.usecases.caller import AskingCaller
from broker.usecases.chains import Chains
from broker.usecases.end_task import EndTask
from broker.usecases.judging import Around, Call, judge_call
from broker.usecases.noticing import Notices
from broker.usecases.ownership import own_active_task
from broker.usecases.ruling import Ruling, link_of, refusal_facts
from broker.usecases.task_work import decided_event


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Authorization:
    """The answer, durable."""

    action: Action
    decision: Decision
    expected: frozenset[str]
    obligations: Obligations
    warnings: tuple[str, ...] = ()
    """What was found of the task with this call, in words, where it gets off with a warning."""


class AuthorizeAction:
    """See the module."""

    def __init__(  # noqa: PLR0913 - the ports of one path
        self,
        *,
        store: Store,
        catalogs: CatalogSource,
        policy: PolicyEngine,
        arguments: ArgumentChecker,
        chains: Chains,
        end_task: EndTask,
        clock: Clock,
        ids: Ids,
        steps: Steps,
        notice: Notices,
        decided: Decided = nobody_is_told,
    ) -> None:
        self._store = store
        self._catalogs = catalogs
        self._policy = policy
        self._arguments = arguments
        self._chains = chains
        self._end_task = end_task
        self._clock = clock
        self._ids = ids
        self._steps = steps
        self._notice = notice
        self._decided = decided

    async def __call__(self, caller: AskingCaller, task_id: TaskId, call: Call) -> Authorization:
        """Decide one call.

        Raises:
            TaskNotFoundError: not a task of the caller's, or of whom it asks for.
            TaskNotActiveError: the task is ending or has ended, perhaps for what was found at this very call.
            TaskOnHoldError: because of what was found, the task gets nothing new.
            IdempotencyKeyReusedError: the key belongs to another call.
            FieldInvalidError: the arguments are not what the tool takes; nothing was decided.
            ActionLimitReachedError: the chain, or the list of its refusals, is full.
            StoreUnavailableError: nothing is allowed, or it could not be watched: nothing is let through.
        """
        return await self._chains.decided(task_id, lambda: self._authorize(caller, task_id, call))

    async def plan(
        self, caller: AskingCaller, task_id: TaskId, calls: Sequence[Call], *, stop_at_refusal: bool
    ) -> list[Authorization]:
        """Decide several calls in order, each on the chain with those before it.

        Raises:
            As for one; those before it stay decided.
        """
        found = []
        for call in calls:
            found.append(await self(caller, task_id, call))
            if stop_at_refusal and not found[-1].decision.allowed:
                break
        return found

    async def _authorize(self, caller: AskingCaller, task_id: TaskId, call: Call) -> Authorization:
        now = self._clock.now()
        try:
            task, facts = await own_active_task(
                self._store, caller.subject, task_id, now, key=call.idempotency_key
            )  # C1
        except TaskNotActiveError:
            await self._notice.too_late(caller, task_id)
            raise
        catalog = self._catalogs.current()
        if facts.under_key is not None:
            again = _again(facts.under_key, call, catalog)
            # Perhaps it was durable and nobody saw it: a crash, or a watch that failed.
            event = decided_event(facts.under_key, task, catalog)
            warnings = await self._notice(event, request_id=caller.request_id)
            return replace(again, warnings=warnings)
        chain = await self._chains.up_to(task_id, facts.length)
        around = Around(caller=caller.subject, task=task, facts=facts, chain=chain, now=now)
        judged = judge_call(
            around, call, catalog, policy=self._policy, arguments=self._arguments
        )  # C2, C3, C4
        context, ruling, tool = judged.context, judged.ruling, judged.context.tool
        action = link_of(context, ruling, self._ids.action_id(), idempotency_key=call.idempotency_key)
        try:
            await self._record(caller, context, action, ruling, catalog)  # C5
        except BaseException:
            self._notice.missed(task.owner)  # whoever called may be gone, and the action durable all the same
            raise
        self._chains.add(action)
        self._steps.reached("authorize.durable")
        self._decided("call", ruling.decision)
        try:
            event = decided_event(action, task, catalog)
            warnings = await self._notice(event, request_id=caller.request_id)
        finally:
            if judged.ends_the_task:
                end = TaskEnd(cause=EndCause.FINGERPRINT_CHANGED, at=now)
                await self._end_task(task_id, end, actor=caller.actor, request_id=caller.request_id)
        return Authorization(
            action=action,
            decision=ruling.decision,
            expected=ruling.expected,
            obligations=tool.obligations if tool is not None and action.allowed else NO_OBLIGATIONS,
            warnings=warnings,
        )

    async def _record(
        self, caller: AskingCaller, context: CallContext, action: Action, ruling: Ruling, catalog: Catalog
    ) -> None:
        event = AuditEvent(
            kind=AuditKind.ACTION_ALLOWED if action.allowed else AuditKind.ACTION_DENIED,
            at=action.at,
            actor=caller.actor,
            task_id=action.task_id,
            request_id=caller.request_id,
            facts={
                **as_facts(context),
                "action": action.action_id,
                **decided_facts(ruling.decision),
                "catalog": catalog.digest,
                **({} if action.allowed else refusal_facts(ruling)),
                **caller.as_facts(),
            },
        )
        await self._store.commit([RecordAction(action=action), Append(event=event)])


def _again(action: Action, call: Call, catalog: Catalog) -> Authorization:
    """What was answered under this key before; in which words it was denied is in the audit trail alone."""
    if (action.name, action.arguments_digest) != (call.tool, digest_of(call.arguments)):
        raise IdempotencyKeyReusedError
    tool = catalog.tools.get(action.name)
    return Authorization(
        action=action,
        decision=Decision(
            verdict=Verdict.ALLOW if action.allowed else Verdict.DENY,
            policies=(f"decided:{action.action_id}",),
            reason=action.reason,
            text="" if action.allowed else "was denied under this idempotency key before",
            denial_class=action.denial_class,
        ),
        expected=frozenset(),
        obligations=tool.obligations if tool is not None and action.allowed else NO_OBLIGATIONS,
    )
