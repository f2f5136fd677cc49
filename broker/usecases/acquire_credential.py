"""Acquire a credential (step 3 of a credential's life).

    A1  load the task; it must be the caller's, and active
    A2  an idempotency key that was used before: the same answer, or a refusal
    A3  decide with the full context; a denial is durable before it is answered (another fingerprint than at the
        declaration ends the task as well)
    A4  the task's token (after a restart, or a doubt, another one)
    A5  decision and intent durable, with that token's accessor          ── rule R1
        what the chain shows now is noticed and answered; where that stops the task, the intent is void (usecases.notice)
    A6  Vault makes the credential
    A7  the Vault lease id and the audit record of the issue durable     ── rule R1
    A8  the secret leaves the process

Whatever fails from A5 on, what Vault made or may have made is revoked: by lease id when it is known, else by the
accessor of the token (rule R2). From A5 on a caller that goes away no longer stops it: the work runs to its end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Protocol

from broker.domain.audit import AuditEvent, AuditKind
from broker.domain.catalog import CredentialRole, Destination
from broker.domain.changes import Append, Change, IssueLease
from broker.domain.changes import RevokeLease as RevokeLeaseChange
from broker.domain.errors import (
    BrokerError,
    CredentialBackendUnavailableError,
    FingerprintChangedError,
    IdempotencyKeyReusedError,
    InstanceQuarantinedError,
    LeaseNotLiveError,
    TaskNotActiveError,
)
from broker.domain.identifiers import LeaseId, TaskId, VaultLeaseId
from broker.domain.lease import Lease, LeaseState, RevokeCause
from broker.domain.secret import Secret
from broker.domain.spiffe import SpiffeId
from broker.domain.task import EndCause, Task, TaskEnd, TaskState
from broker.ports.issuing import (
    CredentialIssuer,
    IssuedCredential,
    IssueInDoubtError,
    IssueRefusedError,
    TokenGoneError,
    TokenGrant,
)
from broker.ports.observing import Decided, nobody_is_told
from broker.ports.policy import CatalogSource, PolicyEngine
from broker.ports.store import Conflict, ConflictError, Store
from broker.ports.system import Clock, Ids, Steps
from broker.usecases.caller import Caller
from broker.usecases.chains import Chains
from broker.usecases.decide_acquisition import Acquisition, DecideAcquisition, voiding
from broker.usecases.noticing import Notices
from broker.usecases.ownership import on_hold, own_lease
from broker.usecases.revoke_leases import RevokeLeases
from broker.usecases.task_grants import TaskGrants

logger = logging.getLogger(__name__)

REPLAY_WINDOW: Final = timedelta(seconds=60)
"""How long the same idempotency key gets the same secret again, from memory."""
_MOST_REPLAYS: Final = 10_000
_Key = tuple[SpiffeId, TaskId, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquired:
    """A live lease with its secret, on the way to its owner."""

    lease: Lease
    secret: Mapping[str, Secret]
    destination: Destination
    warnings: tuple[str, ...] = ()
    """What was found at it that does not stop the task."""


@dataclass(slots=True, kw_only=True)
class _UnderKey:
    digest: str
    work: asyncio.Task[Acquired]
    forget_at: datetime


class TaskEnder(Protocol):
    """What ends tasks: usecases.end_task."""

    async def __call__(
        self, task_id: TaskId, end: TaskEnd, *, actor: str, request_id: str = ""
    ) -> Task | None:
        """End it, and revoke what it holds."""
        ...


class AcquireCredential:
    """See the module."""

    def __init__(  # noqa: PLR0913 - every port of the longest path
        self,
        *,
        store: Store,
        catalogs: CatalogSource,
        policy: PolicyEngine,
        issuer: CredentialIssuer,
        grants: TaskGrants,
        revoke_leases: RevokeLeases,
        clock: Clock,
        ids: Ids,
        steps: Steps,
        timeout: timedelta,
        chains: Chains,
        notice: Notices,
        decided: Decided = nobody_is_told,
    ) -> None:
        self._chains = chains
        self._store = store
        self._issuer = issuer
        self._grants = grants
        self._revoke_leases = revoke_leases
        self._clock = clock
        self._steps = steps
        self._timeout = timeout
        self._under_key: dict[_Key, _UnderKey] = {}
        self._being_made: set[LeaseId] = set()
        self.end_task: TaskEnder | None = None
        """Ends a task whose agent is no longer what it was; set by EndTask, which needs this one first."""
        self._decide = DecideAcquisition(
            store=store,
            catalogs=catalogs,
            policy=policy,
            grants=grants,
            chains=chains,
            clock=clock,
            ids=ids,
            steps=steps,
            being_made=self._being_made,
            notice=notice,
            decided=decided,
        )

    async def __call__(self, caller: Caller, request: Acquisition) -> Acquired:
        """Return a live lease and its secret.

        Raises:
            TaskNotFoundError: not a task of the caller's.
            TaskNotActiveError: the task is ending or has ended, perhaps for what was found at this very call.
            TaskOnHoldError: because of what was found, the task gets nothing new.
            DeniedError: not allowed; the denial is audited.
            IdempotencyKeyReusedError: the key belongs to another request.
            IdempotentResultGoneError: the secret of this key is no longer in memory.
            LeaseLimitReachedError: too many live leases.
            LeaseNotLiveError: the lease of this key was released, if only while it was being made.
            UnavailableError: store or Vault; nothing was handed out, and nothing is left behind.
        """
        await self.forget_old()
        key = (caller.peer.spiffe_id, request.task_id, request.idempotency_key)
        entry = self._under_key.get(key)
        if entry is None:
            work = asyncio.create_task(self._acquire(caller, request), name="acquire")
            entry = _UnderKey(digest=request.digest, work=work, forget_at=self._clock.now() + REPLAY_WINDOW)
            self._under_key[key] = entry
            work.add_done_callback(lambda done: self._settle(key, done))
            return await asyncio.shield(work)
        if entry.digest != request.digest:  # A2
            raise IdempotencyKeyReusedError
        acquired = await asyncio.shield(entry.work)
        lease, task = await own_lease(self._store, caller.peer, acquired.lease.lease_id)
        if task.state is not TaskState.ACTIVE:
            raise TaskNotActiveError
        if lease.state is not LeaseState.LIVE:
            raise LeaseNotLiveError
        return replace(acquired, lease=lease)

    @property
    def being_made(self) -> frozenset[LeaseId]:
        """The leases that this process is issuing at this moment."""
        return frozenset(self._being_made)

    async def drain(self) -> None:
        """Wait until every acquire under way has reached its end."""
        pending = [entry.work for entry in self._under_key.values() if not entry.work.done()]
        await asyncio.gather(*pending, return_exceptions=True)

    def forget_task(self, task_id: TaskId) -> None:
        """Drop the secrets of a task that is ending."""
        for key in [key for key, entry in self._under_key.items() if key[1] == task_id and entry.work.done()]:
            del self._under_key[key]

    async def _acquire(self, caller: Caller, request: Acquisition) -> Acquired:
        try:
            intent = await self._chains.decided(request.task_id, lambda: self._decide(caller, request))
        except FingerprintChangedError:
            if self.end_task is not None:
                end = TaskEnd(cause=EndCause.FINGERPRINT_CHANGED, at=self._clock.now())
                actor = str(caller.peer.spiffe_id)
                await self.end_task(request.task_id, end, actor=actor, request_id=caller.request_id)
            raise
        lease, role = intent.lease, intent.role
        try:
            credential = await self._issue(caller, lease, intent.grant, role)  # A6
            self._steps.reached("acquire.vault-issued")
            lease = await self._record_issue(caller, lease, role, credential)  # A7
        finally:
            self._being_made.discard(lease.lease_id)
        self._steps.reached("acquire.issued-durable")
        return Acquired(
            lease=lease,
            secret=credential.secret,
            destination=role.destination,
            warnings=intent.warnings,
        )  # A8

    async def _issue(
        self, caller: Caller, lease: Lease, grant: TokenGrant, role: CredentialRole
    ) -> IssuedCredential:
        try:
            return await self._issuer.issue(grant, lease.task_id, role, timeout=self._timeout)
        except IssueRefusedError as error:
            logger.error("Vault refused to issue role %s: %s", role.name, error)
            await self._void(caller, lease)
            raise CredentialBackendUnavailableError from error
        except TokenGoneError as error:
            logger.warning(
                "Vault no longer takes the token of %s; the next acquire makes another", lease.task_id
            )
            self._grants.retire(lease.task_id, lease.accessor)
            await self._void(caller, lease)
            raise CredentialBackendUnavailableError from error
        except IssueInDoubtError as error:
            logger.error("issue of role %s is in doubt: %s", role.name, error)
            self._grants.retire(lease.task_id, lease.accessor)
            await self._take_back(lease, RevokeCause.IN_DOUBT, None)
            raise CredentialBackendUnavailableError from error

    async def _record_issue(
        self, caller: Caller, lease: Lease, role: CredentialRole, credential: IssuedCredential
    ) -> Lease:
        now = self._clock.now()
        account = credential.account(role.engine) if role.verified_by is not None else None
        issued = lease.issued(
            vault_lease_id=credential.vault_lease_id,
            at=now,
            expires_at=min(now + credential.ttl, lease.max_expires_at),
            renewable=credential.renewable,
            account=account,
        )
        event = AuditEvent(
            kind=AuditKind.CREDENTIAL_ISSUED,
            at=now,
            actor=str(caller.peer.spiffe_id),
            task_id=lease.task_id,
            lease_id=lease.lease_id,
            request_id=caller.request_id,
            facts={
                "role": role.name,
                "vault_lease_id": credential.vault_lease_id,
                "ttl_seconds": int(credential.ttl.total_seconds()),
                "fields": sorted(credential.secret),
                **caller.peer.as_facts(),
            },
        )
        change = IssueLease(
            lease_id=lease.lease_id,
            vault_lease_id=credential.vault_lease_id,
            at=now,
            expires_at=min(now + credential.ttl, lease.max_expires_at),
            renewable=credential.renewable,
            account=account,
        )
        try:
            await self._store.commit([change, Append(event=event)])
        except ConflictError as error:  # the task ended, or the lease was released, while Vault was at work
            await self._take_back(lease, RevokeCause.UNDELIVERED, credential.vault_lease_id)
            if error.conflict is Conflict.LEASE_STATE:
                raise LeaseNotLiveError from error
            if error.conflict is Conflict.OWNER_QUARANTINED:
                raise InstanceQuarantinedError from error
            if error.conflict is Conflict.TASK_ON_HOLD:
                raise await on_hold(self._store, lease.task_id) from error
            raise TaskNotActiveError from error
        except BrokerError:
            await self._take_back(lease, RevokeCause.UNDELIVERED, credential.vault_lease_id)
            raise
        return issued

    async def _void(self, caller: Caller, lease: Lease) -> None:
        try:
            await self._store.commit(voiding(caller, lease, self._clock.now()))
        except (ConflictError, BrokerError) as error:
            # Still intended, or already being revoked: the sweep takes it up either way.
            logger.warning("lease %s could not be voided: %s", lease.lease_id, type(error).__name__)

    async def _take_back(self, lease: Lease, cause: RevokeCause, vault_lease_id: VaultLeaseId | None) -> None:
        """Revoke what Vault made or may have made; never raises, whatever is down."""
        change: Change = RevokeLeaseChange(
            lease_id=lease.lease_id, cause=cause, at=self._clock.now(), vault_lease_id=vault_lease_id
        )
        try:
            await self._store.commit([change])
        except ConflictError:
            pass  # ending the task has moved it already; the id is used below all the same
        except BrokerError as error:
            logger.error("lease %s: %s; revoking without the store", lease.lease_id, error.reason)
        await self._revoke_leases.take_back(lease.lease_id, vault_lease_id)

    def _settle(self, key: _Key, done: asyncio.Task[Acquired]) -> None:
        """Keep only a success for replay; a failure leaves the key free."""
        if done.cancelled() or done.exception() is not None:
            self._under_key.pop(key, None)

    async def forget_old(self) -> None:
        """Drop the secrets whose replay window is over; a round of the broker, and before each acquire."""
        now = self._clock.now()
        for key, entry in list(self._under_key.items()):  # insertion order is time order
            if not entry.work.done():
                continue
            if entry.forget_at > now and len(self._under_key) <= _MOST_REPLAYS:
                break
            del self._under_key[key]
