"""Revoke leases: the one path by which anything is taken back (steps 5 and 6 of a credential's life).

    V1  the lease is revoking, durably (whoever asked for it did that)
    V2  revoke at Vault, synchronously, and see that Vault no longer knows the lease; where the role says by whom, the
        backend itself is asked whether it refuses the credential (`CredentialRole.verified_by`)
    V3  revoked, with its audit record, durable

A failure is recorded, alarmed and tried again with backoff and jitter, without limit (rule R3). A lease in doubt
has no Vault lease id: the token under which it was asked for is revoked instead (rule R2), once Vault can no longer
be at work on it and no other lease lives under that token. Until then nobody holds its secret, and nobody renews it.

What always holds: no lease is worked on twice at once in this process; `revoked` is recorded after V2 only; a task with
many leases keeps no other waiting (`fair_slots`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from broker.domain.audit import AuditEvent, AuditKind
from broker.domain.changes import Append, Change, ConfirmRevoked, FinishTask, PostponeRevocation
from broker.domain.errors import BrokerError, CredentialBackendUnavailableError
from broker.domain.identifiers import LeaseId, TaskId, TokenAccessor, VaultLeaseId
from broker.domain.lease import Lease, LeaseState, RevokeCause
from broker.domain.spiffe import SpiffeId
from broker.domain.task import Task, TaskState
from broker.ports.issuing import CredentialIssuer
from broker.ports.policy import CatalogSource
from broker.ports.store import ConflictError, Store
from broker.ports.system import Clock, Ids, Steps
from broker.ports.verifying import RevocationVerifier
from broker.usecases.fair_slots import FairSlots
from broker.usecases.task_events import EventKind, TaskEvent, TaskEvents

logger = logging.getLogger(__name__)

IN_DOUBT_GRACE: Final = timedelta(seconds=3)
"""How long a lease without a Vault lease id is left alone after we gave up on it: Vault gives up a request whose
client is gone, but not in the same instant, and a credential made after its token was revoked would be missed."""

_TOKENS: Final = ""
"""Where tokens are revoked, beside the mounts."""

_FIRST_PAUSE: Final = timedelta(milliseconds=500)
_LONGEST_PAUSE: Final = timedelta(minutes=1)
_AT_ONCE: Final = 2
"""Revocations at once for each mount of the backend, so that it has the next one when it has done with one. Engines do one
thing after another: more only wait there; and a mount whose backend does not answer keeps no other waiting."""
_AT_ONCE_BESIDE_ISSUES: Final = 1
"""While something is being issued, and shortly after: whoever waits for that has one revocation before it, and not two
(rule R10)."""
_BESIDE_ISSUES: Final = timedelta(milliseconds=250)


class RevokeLeases:
    """See the module."""

    def __init__(  # noqa: PLR0913 - the ports of one path
        self,
        *,
        store: Store,
        issuer: CredentialIssuer,
        clock: Clock,
        ids: Ids,
        steps: Steps,
        events: TaskEvents,
        actor: SpiffeId,
        timeout: timedelta,
        catalogs: CatalogSource,
        verifier: RevocationVerifier,
    ) -> None:
        self._catalogs = catalogs
        self._verifier = verifier
        self._store = store
        self._issuer = issuer
        self._clock = clock
        self._ids = ids
        self._steps = steps
        self._events = events
        self._actor = actor
        self._timeout = timeout
        self._slots: defaultdict[str, FairSlots] = defaultdict(lambda: FairSlots(self._at_once))
        self._seen_issuing: datetime | None = None
        self._working: dict[LeaseId, asyncio.Future[bool]] = {}
        self._background: set[asyncio.Task[None]] = set()
        self.being_made: Callable[[], AbstractSet[LeaseId]] = frozenset
        """The leases that are being issued at this moment in this process; set by the wiring."""

    async def drive(self, task_id: TaskId) -> Task | None:
        """Try once to revoke everything an ending task holds, and finish it when nothing is left.

        Returns the task as it is afterwards: ended, or still ending when a backend is away.

        Raises:
            StoreUnavailableError: the store; the sweep goes on later.
        """
        leases = await self._store.leases_of(task_id)
        revoking = [lease for lease in leases if lease.state is LeaseState.REVOKING]
        await asyncio.gather(*(self.attempt(lease) for lease in revoking if lease.vault_lease_id is not None))
        await asyncio.gather(*(self.attempt(lease) for lease in revoking if lease.vault_lease_id is None))
        await self.finish(task_id)
        return await self._store.task(task_id)

    async def finish(self, task_id: TaskId) -> bool:
        """Revoke the tokens of an ending task that holds no lease any more, and say that it has ended."""
        leases = await self._store.lease_counts(task_id)
        if leases.unfinished:
            return False
        try:
            for accessor in await self._store.task_tokens(task_id):
                async with self._slots[_TOKENS].slot(task_id):
                    await self._issuer.revoke_token(accessor, timeout=self._timeout)
            now = self._clock.now()
            event = AuditEvent(
                kind=AuditKind.TASK_ENDED,
                at=now,
                actor=str(self._actor),
                task_id=task_id,
                facts={"leases": leases.ever},
            )
            await self._store.commit([FinishTask(task_id=task_id, at=now), Append(event=event)])
        except ConflictError:
            task = await self._store.task(task_id)  # another driver was first
            return task is not None and task.state is TaskState.ENDED
        except BrokerError as error:
            logger.error("task %s holds nothing but cannot be finished: %s", task_id, error.reason)
            return False
        self._events.publish(task_id, TaskEvent(kind=EventKind.TASK_ENDED, at=now))
        return True

    async def attempt(self, lease: Lease) -> bool:
        """Try once to revoke a lease that is revoking; True when the backend no longer accepts it.

        Joins an attempt that is under way. Never raises: a failure is recorded and tried again by the sweep.
        """
        return await asyncio.shield(self.begin(lease))

    def begin(self, lease: Lease) -> asyncio.Future[bool]:
        """Begin an attempt, or return the one that is under way; it goes on whether somebody waits for it or not."""
        under_way = self._working.get(lease.lease_id)
        if under_way is not None:
            return under_way
        work = asyncio.ensure_future(self._attempt(lease))
        self._working[lease.lease_id] = work
        work.add_done_callback(lambda _done: self._working.pop(lease.lease_id, None))
        return work

    async def hold(self) -> None:
        """Keep other replicas away from what is made and revoked here, for as long as it takes."""
        mine = self.under_way | self.being_made()
        if mine:
            await self._store.hold(mine)

    @property
    def under_way(self) -> frozenset[LeaseId]:
        """Leases that are being worked on, or that wait for their turn, in this process."""
        return frozenset(self._working)

    async def take_back(self, lease_id: LeaseId, vault_lease_id: VaultLeaseId | None) -> None:
        """Revoke what an issue left behind, now, even if the store is away.

        When the store knows the lease as revoking, this is `attempt`. When it does not answer, Vault is asked all
        the same, in the background and without limit; what the store says is put right by the sweep later.
        """
        try:
            lease = await self._store.lease(lease_id)
        except BrokerError:
            lease = None
        if lease is not None and lease.state is LeaseState.REVOKING:
            await self.attempt(lease)
        elif vault_lease_id is not None:
            work = asyncio.create_task(self._insist(lease_id, vault_lease_id), name="take-back")
            self._background.add(work)
            work.add_done_callback(self._background.discard)

    async def drain(self) -> None:
        """Wait for attempts under way (not for ones that insist while Vault is away)."""
        await asyncio.gather(*self._working.values(), return_exceptions=True)

    def _at_once(self) -> int:
        now = self._clock.now()
        if self.being_made():
            self._seen_issuing = now
        beside = self._seen_issuing is not None and now - self._seen_issuing < _BESIDE_ISSUES
        return _AT_ONCE_BESIDE_ISSUES if beside else _AT_ONCE

    async def _attempt(self, lease: Lease) -> bool:
        if not await self._may_begin(lease, self._clock.now()):
            return False
        try:
            async with self._slots[_mount_of(lease)].slot(lease.task_id):
                await self._revoke_at_backend(lease.vault_lease_id, lease.accessor)
            if lease.vault_lease_id is not None:
                await self._issuer.see_that_it_is_gone(lease.vault_lease_id, timeout=self._timeout)
            await self._see_that_it_is_refused(lease)
        except BrokerError as error:
            await self._record_failure(lease, error)
            return False
        self._steps.reached("revoke.vault-revoked")
        now = self._clock.now()
        event = AuditEvent(
            kind=AuditKind.LEASE_REVOKED,
            at=now,
            actor=str(self._actor),
            task_id=lease.task_id,
            lease_id=lease.lease_id,
            facts={
                "role": lease.role,
                "cause": lease.revoke_cause.value if lease.revoke_cause else "",
                "vault_lease_id": lease.vault_lease_id or "",
                "by": "lease" if lease.vault_lease_id else "token",
                "attempts": lease.attempts + 1,
            },
        )
        try:
            await self._store.commit([ConfirmRevoked(lease_id=lease.lease_id, at=now), Append(event=event)])
        except ConflictError:
            return True  # recorded by somebody else
        except BrokerError as error:
            logger.error("lease %s is revoked but not recorded: %s", lease.lease_id, error.reason)
            return False
        self._steps.reached("revoke.durable")
        self._events.publish(
            lease.task_id,
            TaskEvent(kind=EventKind.LEASE_REVOKED, at=now, lease=lease.revoked(now)),
        )
        return True

    async def _may_begin(self, lease: Lease, now: datetime) -> bool:
        if lease.vault_lease_id is None:
            since = lease.revoking_since or lease.intended_at
            return (
                lease.lease_id not in self.being_made()
                and now >= since + IN_DOUBT_GRACE
                and await self._is_made_nowhere(lease)
                and not await self._others_live_under_its_token(lease)
            )
        if lease.revoke_cause is RevokeCause.LOST and lease.expires_at is not None and now < lease.expires_at:
            await self._wait_until(lease, lease.expires_at)
            return False
        return True

    async def _is_made_nowhere(self, lease: Lease) -> bool:
        """Whether no other replica is at work on it: that one knows its Vault lease id in a moment, or is dead."""
        try:
            return lease.lease_id in await self._store.hold([lease.lease_id])
        except BrokerError:
            return False

    async def _others_live_under_its_token(self, lease: Lease) -> bool:
        try:
            leases = await self._store.leases_of(lease.task_id)
        except BrokerError:
            return True
        return any(
            other.accessor == lease.accessor
            and not other.state.is_final
            and (
                other.vault_lease_id is not None
                or other.state is LeaseState.INTENDED  # here or in another replica
                or other.lease_id in self.being_made()
            )
            for other in leases
        )

    async def _revoke_at_backend(self, vault_lease_id: VaultLeaseId | None, accessor: TokenAccessor) -> None:
        if vault_lease_id is not None:
            await self._issuer.revoke(vault_lease_id, timeout=self._timeout)
        else:
            await self._issuer.revoke_token(accessor, timeout=self._timeout)

    async def _see_that_it_is_refused(self, lease: Lease) -> None:
        roles = self._catalogs.current().credential_roles
        role = roles.get(lease.role)
        verifier = roles.get(role.verified_by or "") if role is not None else None
        if verifier is None or lease.account is None:
            return
        if not await self._verifier.refuses(verifier, lease.account, timeout=self._timeout):
            logger.error(
                "Vault says that it revoked lease %s, but its backend still accepts it", lease.lease_id
            )
            raise CredentialBackendUnavailableError

    async def _wait_until(self, lease: Lease, at: datetime) -> None:
        """The backend forgot the lease, and so cannot end it: only its own expiry does."""
        with suppress(ConflictError, BrokerError):
            await self._store.commit([PostponeRevocation(lease_id=lease.lease_id, next_attempt_at=at)])

    async def _record_failure(self, lease: Lease, error: BrokerError) -> None:
        now = self._clock.now()
        pause = self._pause(lease.attempts)
        logger.error(
            "lease %s of task %s is NOT revoked (%s, attempt %d); next attempt in %.1f s",
            lease.lease_id,
            lease.task_id,
            error.reason,
            lease.attempts + 1,
            pause.total_seconds(),
        )
        changes: list[Change] = [PostponeRevocation(lease_id=lease.lease_id, next_attempt_at=now + pause)]
        if (
            lease.attempts & (lease.attempts - 1) == 0
        ):  # 0, 1, 2, 4, 8 …: the trail stays readable in an outage
            event = AuditEvent(
                kind=AuditKind.LEASE_REVOCATION_FAILED,
                at=now,
                actor=str(self._actor),
                task_id=lease.task_id,
                lease_id=lease.lease_id,
                facts={"reason": error.reason, "attempts": lease.attempts + 1},
            )
            changes.append(Append(event=event))
        try:
            await self._store.commit(changes)
        except (ConflictError, BrokerError) as failure:
            logger.warning("lease %s: failure not recorded: %s", lease.lease_id, type(failure).__name__)

    async def _insist(self, lease_id: LeaseId, vault_lease_id: VaultLeaseId) -> None:
        attempts = 0
        while True:
            try:
                await self._issuer.revoke(vault_lease_id, timeout=self._timeout)
                await self._issuer.see_that_it_is_gone(vault_lease_id, timeout=self._timeout)
            except BrokerError as error:
                pause = self._pause(attempts)
                logger.error(
                    "lease %s is NOT taken back (%s); next attempt in %.1f s",
                    lease_id,
                    error.reason,
                    pause.total_seconds(),
                )
                attempts += 1
                await self._clock.sleep(pause)
            else:
                logger.warning("lease %s was taken back without the store", lease_id)
                return

    def _pause(self, attempts: int) -> timedelta:
        """Exponential with full jitter in its upper half, bounded."""
        whole = min(_FIRST_PAUSE * 2 ** min(attempts, 10), _LONGEST_PAUSE)
        return timedelta(seconds=whole.total_seconds() * (0.5 + self._ids.fraction() / 2))


def _mount_of(lease: Lease) -> str:
    """What does one thing after another: the first part of a lease's path; tokens have their own."""
    return _TOKENS if lease.vault_lease_id is None else lease.vault_lease_id.partition("/")[0]
