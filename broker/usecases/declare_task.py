"""Declare a task (step 2 of a credential's life).

    D1  decide, within the catalog's bounds; a denial is durable before it is answered
    D2  make the task's token in Vault
    D3  decision, task and the token's accessor durable, in one commit

A crash after D2 leaves a token that nobody holds, with no lease, which dies by itself at its explicit maximum.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NoReturn

from broker.domain.audit import AuditEvent, AuditKind
from broker.domain.catalog import AgentClass, Catalog, TaskType
from broker.domain.changes import AddTaskToken, Append, CreateTask
from broker.domain.decision import Decision, DeclareContext, as_facts, decided_facts
from broker.domain.errors import (
    FieldInvalidError,
    FieldViolation,
    IdempotencyKeyReusedError,
    InstanceQuarantinedError,
    TaskLimitReachedError,
)
from broker.domain.spiffe import SpiffeId
from broker.domain.task import Scope, SignOfLife, Task, TaskState
from broker.ports.issuing import CredentialIssuer
from broker.ports.observing import Decided, nobody_is_told
from broker.ports.policy import CatalogSource, PolicyEngine
from broker.ports.store import Conflict, ConflictError, Store
from broker.ports.system import Clock, Ids, Steps
from broker.usecases.caller import Caller
from broker.usecases.deciding import decide, refuse
from broker.usecases.noticing import Notices
from broker.usecases.task_grants import TaskGrants
from broker.usecases.task_work import declared_event


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What an agent declares; texts and sizes are already bounded."""

    task_type: str
    intent: str
    scope: Scope | None
    """None: all that the task type lists."""
    environment: str
    deadline: datetime | None
    fingerprint: bytes
    idempotency_key: str | None

    @property
    def digest(self) -> str:
        """Tells two declarations under one idempotency key apart."""
        body: list[object] = [
            self.task_type,
            self.intent,
            None if self.scope is None else sorted(self.scope.roles),
            self.environment,
            self.deadline.isoformat() if self.deadline else None,
            self.fingerprint.hex(),
        ]
        if self.scope is not None and self.scope.tools:
            body.append(sorted(self.scope.tools))
        return hashlib.sha256(json.dumps(body).encode()).hexdigest()


class DeclareTask:
    """See the module."""

    def __init__(  # noqa: PLR0913 - the ports of one path
        self,
        *,
        store: Store,
        catalogs: CatalogSource,
        policy: PolicyEngine,
        issuer: CredentialIssuer,
        grants: TaskGrants,
        clock: Clock,
        ids: Ids,
        steps: Steps,
        timeout: timedelta,
        notice: Notices,
        decided: Decided = nobody_is_told,
    ) -> None:
        self._store = store
        self._catalogs = catalogs
        self._policy = policy
        self._issuer = issuer
        self._grants = grants
        self._clock = clock
        self._ids = ids
        self._steps = steps
        self._timeout = timeout
        self._notice = notice
        self._decided = decided

    async def __call__(self, caller: Caller, declaration: Declaration) -> Task:
        """Return the new task, or the one that the same idempotency key declared before.

        Raises:
            DeniedError: not allowed; the denial is audited.
            FieldInvalidError: the deadline has passed or is beyond the task type's maximum.
            IdempotencyKeyReusedError: the key belongs to another declaration.
            TaskOnHoldError, TaskNotActiveError, InstanceQuarantinedError: for what was found at this very declaration.
            TaskLimitReachedError: too many live tasks.
            UnavailableError: store or Vault; nothing was declared.
        """
        earlier = await self._earlier(caller, declaration)
        if earlier is not None:
            if earlier.state is TaskState.ACTIVE:  # perhaps nobody saw it yet
                await self._notice(declared_event(earlier), request_id=caller.request_id)
            return earlier
        now = self._clock.now()
        catalog = self._catalogs.current()
        context = declaration_context(
            caller.peer.spiffe_id, caller.peer.agent_class, declaration, catalog, now
        )
        decision = decide(self._policy, context, catalog)
        agent_class = catalog.agent_class(caller.peer.spiffe_id.trust_domain, caller.peer.agent_class)
        task_type = catalog.task_types.get(declaration.task_type)
        if not decision.allowed or agent_class is None or task_type is None:
            await self._deny(caller, context, decision, now, catalog)
        task = self._task(caller, declaration, task_type, context)
        return await self._declare(caller, task, agent_class, context, decision, catalog)

    async def _declare(  # noqa: PLR0913, PLR0917 - one transaction's parts
        self,
        caller: Caller,
        task: Task,
        agent_class: AgentClass,
        context: DeclareContext,
        decision: Decision,
        catalog: Catalog,
    ) -> Task:
        grant = await self._grants.open(task, catalog)
        self._steps.reached("declare.token-made")
        tokens = (
            []
            if grant is None
            else [AddTaskToken(task_id=task.task_id, accessor=grant.accessor, at=task.created_at)]
        )
        try:
            await self._store.commit(
                [
                    CreateTask(task=task, max_live=agent_class.max_tasks),
                    *tokens,
                    Append(
                        event=AuditEvent(
                            kind=AuditKind.TASK_DECLARED,
                            at=task.created_at,
                            actor=str(caller.peer.spiffe_id),
                            task_id=task.task_id,
                            request_id=caller.request_id,
                            facts={
                                **as_facts(context),
                                "deadline": task.deadline.isoformat(),
                                "fingerprint": task.fingerprint.hex(),
                                **decided_facts(decision),
                                "catalog": catalog.digest,
                                **caller.peer.as_facts(),
                            },
                        )
                    ),
                ]
            )
        except Exception as error:
            if grant is not None:
                await self._issuer.revoke_token(grant.accessor, timeout=self._timeout)
            if isinstance(error, ConflictError):
                if error.conflict is Conflict.TASK_KEY_TAKEN:  # lost a race with our own twin
                    twin = await self._store.task_by_key(task.owner, task.idempotency_key or "")
                    if twin is not None and twin.request_digest == task.request_digest:
                        return twin
                    raise IdempotencyKeyReusedError from error
                if error.conflict is Conflict.OWNER_QUARANTINED:  # since the gate looked
                    raise InstanceQuarantinedError from error
                raise TaskLimitReachedError(agent_class.max_tasks) from error
            raise
        self._steps.reached("declare.durable")
        self._decided("declare", decision)
        if grant is not None:
            self._grants.remember(task.task_id, grant)
        await self._notice(declared_event(task), request_id=caller.request_id)
        return task

    async def _earlier(self, caller: Caller, declaration: Declaration) -> Task | None:
        if declaration.idempotency_key is None:
            return None
        task = await self._store.task_by_key(caller.peer.spiffe_id, declaration.idempotency_key)
        if task is not None and task.request_digest != declaration.digest:
            raise IdempotencyKeyReusedError
        return task

    async def _deny(
        self,
        caller: Caller,
        context: DeclareContext,
        decision: Decision,
        now: datetime,
        catalog: Catalog,
    ) -> NoReturn:
        await self._store.commit(
            [
                Append(
                    event=AuditEvent(
                        kind=AuditKind.TASK_DENIED,
                        at=now,
                        actor=str(caller.peer.spiffe_id),
                        request_id=caller.request_id,
                        facts={
                            **as_facts(context),
                            **caller.peer.as_facts(),
                            **decided_facts(decision),
                            "reason": decision.reason,
                            "denial_class": ""
                            if decision.denial_class is None
                            else decision.denial_class.value,
                            "catalog": catalog.digest,
                        },
                    )
                )
            ]
        )
        self._decided("declare", decision)
        refuse(decision)

    def _task(
        self, caller: Caller, declaration: Declaration, task_type: TaskType, context: DeclareContext
    ) -> Task:
        now = context.at
        latest = now + task_type.max_duration
        deadline = declaration.deadline or latest
        if deadline <= now:
            raise FieldInvalidError(
                [FieldViolation(field="deadline", remedy="has passed: give a time in the future")]
            )
        if deadline > latest:
            remedy = f"at most {task_type.max_duration} from now for this task type"
            raise FieldInvalidError([FieldViolation(field="deadline", remedy=remedy)])
        sign = SignOfLife.given(
            at=now, interval=task_type.heartbeat, svid_expires_at=caller.peer.svid_expires_at
        )
        return Task(
            task_id=self._ids.task_id(),
            owner=caller.peer.spiffe_id,
            agent_class=caller.peer.agent_class,
            task_type=task_type.name,
            intent=declaration.intent,
            scope=context.scope,
            environment=context.environment,
            created_at=now,
            deadline=deadline,
            heartbeat_interval=task_type.heartbeat,
            heartbeat_due=sign.heartbeat_due,
            svid_due=sign.svid_due,
            fingerprint=declaration.fingerprint,
            idempotency_key=declaration.idempotency_key,
            request_digest=declaration.digest,
        )


def declaration_context(
    caller: SpiffeId, agent_class: str, declaration: Declaration, catalog: Catalog, now: datetime
) -> DeclareContext:
    """What is decided: what was left out is as the task type has it."""
    task_type = catalog.task_types.get(declaration.task_type)
    scope = (
        Scope(roles=frozenset()) if task_type is None else Scope(roles=task_type.roles, tools=task_type.tools)
    )
    environment = "" if task_type is None else task_type.environment
    return DeclareContext(
        caller=caller,
        agent_class=agent_class,
        task_type=declaration.task_type,
        intent=declaration.intent,
        scope=scope if declaration.scope is None else declaration.scope,
        environment=declaration.environment or environment,
        at=now,
    )
