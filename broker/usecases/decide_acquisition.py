"""Decide an acquire, and make its intent durable: steps A1 to A5 of usecases.acquire_credential."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn

from broker.anomaly.events import Event
from broker.domain.actions import Action
from broker.domain.audit import AuditEvent, AuditKind
from broker.domain.catalog import Catalog, CredentialRole, TaskType
from broker.domain.changes import Append, Change, CreateLease, RecordAction, VoidLease
from broker.domain.decision import AcquireContext, Decision, as_facts, decided_facts
from broker.domain.errors import (
    BrokerError,
    IdempotencyKeyReusedError,
    IdempotentResultGoneError,
    LeaseLimitReachedError,
    TaskNotActiveError,
)
from broker.domain.identifiers import LeaseId, TaskId
from broker.domain.lease import Lease
from broker.domain.task import Task
from broker.ports.issuing import TokenGrant
from broker.ports.observing import Decided
from broker.ports.policy import CatalogSource, PolicyEngine
from broker.ports.store import Conflict, ConflictError, Store
from broker.ports.system import Clock, Ids, Steps
from broker.usecases.caller import Caller
from broker.usecases.chains import Chains
from broker.usecases.deciding import refuse
from broker.usecases.judging import Around, judge_acquisition
from broker.usecases.noticing import Notices
from broker.usecases.ownership import own_active_task
from broker.usecases.ruling import Ruling, link_of, refusal_facts
from broker.usecases.task_grants import TaskGrants
from broker.usecases.task_work import decided_event


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquisition:
    """What an agent asks for."""

    task_id: TaskId
    role: str
    idempotency_key: str
    fingerprint: bytes = b""

    @property
    def digest(self) -> str:
        """Tells two requests under one idempotency key apart."""
        body = [self.task_id, self.role, *([self.fingerprint.hex()] if self.fingerprint else [])]
        return hashlib.sha256(json.dumps(body).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What is to be issued: decided and durable."""

    lease: Lease
    role: CredentialRole
    grant: TokenGrant
    warnings: tuple[str, ...] = ()
    """What was found at it that does not stop the task."""


class DecideAcquisition:
    """See the module."""

    def __init__(  # noqa: PLR0913 - the ports of one half of a path
        self,
        *,
        store: Store,
        catalogs: CatalogSource,
        policy: PolicyEngine,
        grants: TaskGrants,
        chains: Chains,
        clock: Clock,
        ids: Ids,
        steps: Steps,
        being_made: set[LeaseId],
        notice: Notices,
        decided: Decided,
    ) -> None:
        self._store = store
        self._catalogs = catalogs
        self._policy = policy
        self._grants = grants
        self._chains = chains
        self._clock = clock
        self._ids = ids
        self._steps = steps
        self._being_made = being_made
        self._notice = notice
        self._decided = decided

    async def __call__(self, caller: Caller, request: Acquisition) -> Intent:
        """A1 to A5, tried once. The lease is among those that are being made then.

        Raises:
            ConflictError: the chain, the task or the instance moved on meanwhile (`Chains.decided`).
            Else as AcquireCredential.
        """
        now = self._clock.now()
        try:
            task, facts = await own_active_task(
                self._store, caller.peer.spiffe_id, request.task_id, now, key=request.idempotency_key
            )  # A1, rule R7
        except TaskNotActiveError:
            await self._notice.too_late(caller, request.task_id)
            raise
        if facts.holds_key is not None:  # A2
            if facts.holds_key.request_digest != request.digest:
                raise IdempotencyKeyReusedError
            raise IdempotentResultGoneError(facts.holds_key.lease_id)
        catalog = self._catalogs.current()
        chain = await self._chains.up_to(task.task_id, facts.length)
        around = Around(caller=caller.peer.spiffe_id, task=task, facts=facts, chain=chain, now=now)
        judged = judge_acquisition(
            around, request.role, catalog, policy=self._policy, fingerprint=request.fingerprint
        )  # A3
        context, ruling, role = judged.context, judged.ruling, judged.context.role
        task_type = catalog.task_types.get(task.task_type)
        action = link_of(context, ruling, self._ids.action_id())
        if not ruling.decision.allowed or role is None or task_type is None:
            await self._deny(caller, context, ruling, action, catalog)
        self._steps.reached("acquire.decided")
        try:
            grant = await self._grants.current(task, catalog)  # A4
        except ConflictError as error:
            raise TaskNotActiveError from error
        self._steps.reached("acquire.token-made")
        lease = self._intent(task, role, request, grant, now)
        self._being_made.add(lease.lease_id)
        try:
            await self._record_intent(
                caller, lease, task_type, context, ruling.decision, catalog, action
            )  # A5
        except BaseException:
            self._being_made.discard(lease.lease_id)
            self._notice.missed(task.owner)  # it may be durable all the same
            raise
        self._steps.reached("acquire.intent-durable")
        self._decided("acquire", ruling.decision)
        warnings = await self._watched(caller, lease, decided_event(action, task, catalog))
        return Intent(lease=lease, role=role, grant=grant, warnings=warnings)

    async def _watched(self, caller: Caller, lease: Lease, event: Event) -> tuple[str, ...]:
        """Have the intent noticed; where it goes no further, it is voided: Vault was asked for nothing."""
        given_up = voiding(caller, lease, self._clock.now())
        try:
            return await self._notice(event, request_id=caller.request_id, first=given_up)
        except BaseException:
            self._being_made.discard(lease.lease_id)
            # Voided with the answer, or taken back with the task, or for the sweep.
            with suppress(ConflictError, BrokerError):
                await self._store.commit(given_up)
            raise

    def _intent(
        self, task: Task, role: CredentialRole, request: Acquisition, grant: TokenGrant, now: datetime
    ) -> Lease:
        return Lease(
            lease_id=self._ids.lease_id(),
            task_id=task.task_id,
            role=role.name,
            idempotency_key=request.idempotency_key,
            request_digest=request.digest,
            accessor=grant.accessor,
            intended_at=now,
            max_expires_at=min(now + role.max_ttl, task.deadline),
        )

    async def _deny(
        self, caller: Caller, context: AcquireContext, ruling: Ruling, action: Action, catalog: Catalog
    ) -> NoReturn:
        """Record the refusal and raise it."""
        event = AuditEvent(
            kind=AuditKind.CREDENTIAL_DENIED,
            at=action.at,
            actor=str(caller.peer.spiffe_id),
            task_id=context.task.task_id,
            request_id=caller.request_id,
            facts={
                **as_facts(context),
                **caller.peer.as_facts(),
                **decided_facts(ruling.decision),
                **refusal_facts(ruling),
                "action": action.action_id,
                "catalog": catalog.digest,
            },
        )
        try:
            await self._store.commit([RecordAction(action=action), Append(event=event)])
        except BaseException:
            self._notice.missed(action.owner)  # it may be durable all the same
            raise
        self._chains.add(action)
        self._decided("acquire", ruling.decision)
        decided = decided_event(action, context.task, catalog)
        await self._notice(decided, request_id=caller.request_id)
        refuse(ruling.decision)

    async def _record_intent(  # noqa: PLR0913, PLR0917 - one record's parts
        self,
        caller: Caller,
        lease: Lease,
        task_type: TaskType,
        context: AcquireContext,
        decision: Decision,
        catalog: Catalog,
        action: Action,
    ) -> None:
        event = AuditEvent(
            kind=AuditKind.CREDENTIAL_INTENDED,
            at=lease.intended_at,
            actor=str(caller.peer.spiffe_id),
            task_id=lease.task_id,
            lease_id=lease.lease_id,
            request_id=caller.request_id,
            facts={
                **as_facts(context),
                **decided_facts(decision),
                "action": action.action_id,
                "catalog": catalog.digest,
                "accessor": lease.accessor,
                **caller.peer.as_facts(),
            },
        )
        try:
            await self._store.commit(
                [
                    CreateLease(lease=lease, max_live=task_type.max_leases),
                    RecordAction(action=action),
                    Append(event=event),
                ]
            )
        except ConflictError as error:
            match error.conflict:
                case Conflict.LEASE_LIMIT:
                    raise LeaseLimitReachedError(task_type.max_leases) from error
                case Conflict.LEASE_KEY_TAKEN:
                    raise IdempotencyKeyReusedError from error
                case _:
                    raise
        self._chains.add(action)


def voiding(caller: Caller, lease: Lease, now: datetime) -> tuple[Change, ...]:
    """The end of an intent of which nothing was made, with its audit record: what is committed."""
    event = AuditEvent(
        kind=AuditKind.CREDENTIAL_VOIDED,
        at=now,
        actor=str(caller.peer.spiffe_id),
        task_id=lease.task_id,
        lease_id=lease.lease_id,
        request_id=caller.request_id,
        facts={"role": lease.role},
    )
    return VoidLease(lease_id=lease.lease_id, at=now), Append(event=event)
