"""Compare what the store says with what the backend holds, in both directions, and put right what differs (step 6).

    orphan    a token of a task that has ended, or that this store does not know and that is older than the grace: revoked,
              with its leases
    lost      a live lease that the backend does not know, although nobody here asked for that: somebody revoked it there, or
              the backend was restored from an older copy. Nobody can renew or revoke it any more. It is followed until it
              has expired at its backend; its task goes on and may acquire anew
    stranded  a lease that the backend gave up to revoke: revoked once more, now and in every round

What always holds: a token of another store is left alone, whatever it looks like; nothing that an active task holds and the
backend knows is touched; nothing is said to be revoked because the backend forgot it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from broker.domain.audit import AuditEvent, AuditKind
from broker.domain.changes import Append, RevokeLease
from broker.domain.errors import BrokerError
from broker.domain.lease import Lease, LeaseState, RevokeCause
from broker.domain.task import TaskState
from broker.ports.issuing import CredentialIssuer
from broker.ports.reconciling import BackendToken, BackendView, MayNotLookError
from broker.ports.store import ConflictError, LeaseFilter, Store
from broker.ports.system import Clock

logger = logging.getLogger(__name__)

ORPHAN_GRACE: Final = timedelta(minutes=2)
"""A token may be made before its task is durable, and the backend's clock may differ by a minute."""

_PAGE: Final = 200
_PAUSE: Final = 4
"""How long the broker's own round rests after each page of leases, as a multiple of what the page took."""
_AT_ONCE: Final = 4


class FindingKind(StrEnum):
    """See the module."""

    ORPHAN = "orphan"
    LOST = "lost"
    STRANDED = "stranded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One difference."""

    kind: FindingKind
    subject: str
    """An accessor, the broker's id of a lease, or the backend's. Never a secret."""
    task_id: str = ""
    trouble: str = ""
    """Why it is not put right; empty when it is, or when it was only looked."""


@dataclass(slots=True, kw_only=True)
class Reconciliation:
    """What one round found."""

    findings: list[Finding] = field(default_factory=list)
    leases: int = 0
    """Live leases that were looked up at the backend."""
    tokens: int = 0
    """Tokens of this store's tasks that the backend holds."""
    not_looked_at: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnBehalfOf:
    """Whose doing it is, for the audit trail."""

    actor: str
    request_id: str = ""
    reason: str = ""
    asked_for: bool = False
    """Somebody asked: that is in the audit trail whatever was found."""


class Reconcile:
    """See the module."""

    def __init__(  # noqa: PLR0913 - the ports of one path
        self,
        *,
        store: Store,
        view: BackendView,
        issuer: CredentialIssuer,
        clock: Clock,
        actor: str,
        timeout: timedelta,
        heard: Callable[[Reconciliation], None] = lambda _found: None,
    ) -> None:
        self._store = store
        self._view = view
        self._issuer = issuer
        self._clock = clock
        self._actor = actor
        self._timeout = timeout
        self._one_at_a_time = asyncio.Lock()
        self.heard = heard
        """Is told what was found; not of a dry run."""

    async def round(self) -> int:
        """One round of the broker's own; how much differed."""
        found = await self(by=OnBehalfOf(actor=self._actor))
        return len(found.findings)

    async def __call__(self, *, by: OnBehalfOf, dry_run: bool = False) -> Reconciliation:
        """Look at everything; put right what differs unless `dry_run`.

        Raises:
            CredentialBackendUnavailableError, StoreUnavailableError: what was found until then is put right.
        """
        async with self._one_at_a_time:
            found = Reconciliation()
            identity = await self._store.identity()
            await self._look_at_leases(found, by, dry_run=dry_run)
            for look in (self._look_at_tokens, self._look_at_stranded):
                try:
                    await look(found, by, identity, dry_run=dry_run)
                except MayNotLookError as error:
                    found.not_looked_at.append(str(error))
            if by.asked_for or (found.findings and not dry_run):
                await self._store.commit([Append(event=self._summary(found, by, dry_run=dry_run))])
            for text in found.not_looked_at:
                logger.warning("not reconciled: %s", text)
            if not dry_run:
                self.heard(found)
            return found

    # Store to backend.

    async def _look_at_leases(self, found: Reconciliation, by: OnBehalfOf, *, dry_run: bool) -> None:
        token = ""
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def is_lost(lease: Lease) -> bool:
            async with at_once:
                assert lease.vault_lease_id is not None  # noqa: S101 - a live one has it
                return not await self._view.knows(lease.vault_lease_id, timeout=self._timeout)

        while True:
            began = self._clock.now()
            wanted = LeaseFilter(states=frozenset({LeaseState.LIVE}))
            page = await self._store.lease_page(wanted, page_size=_PAGE, page_token=token)
            leases = [one.lease for one in page.leases]
            for lease, lost in zip(leases, await asyncio.gather(*map(is_lost, leases)), strict=True):
                found.leases += 1
                if lost and (finding := await self._lost(lease, by, dry_run=dry_run)):
                    found.findings.append(finding)
            token = page.next_token
            if not token:
                return
            if not by.asked_for and (spent := self._clock.now() - began) > timedelta():
                await self._clock.sleep(
                    spent * _PAUSE
                )  # nobody waits for it, and issuing must not wait either

    async def _lost(self, lease: Lease, by: OnBehalfOf, *, dry_run: bool) -> Finding | None:
        finding = Finding(kind=FindingKind.LOST, subject=lease.lease_id, task_id=lease.task_id)
        now = self._clock.now()
        event = AuditEvent(
            kind=AuditKind.LEASE_REVOKING,
            at=now,
            actor=by.actor,
            task_id=lease.task_id,
            lease_id=lease.lease_id,
            request_id=by.request_id,
            facts={"role": lease.role, "cause": RevokeCause.LOST.value, "reason": by.reason},
        )
        change = RevokeLease(lease_id=lease.lease_id, cause=RevokeCause.LOST, at=now)
        if dry_run:
            still = await self._store.lease(lease.lease_id)
            return finding if still is not None and still.state is LeaseState.LIVE else None
        try:
            await self._store.commit([change, Append(event=event)])
        except ConflictError:
            return None  # it was revoked meanwhile, by the usual way
        logger.error("lease %s of task %s is not known to Vault any more", lease.lease_id, lease.task_id)
        return finding

    # Backend to store.

    async def _look_at_tokens(
        self, found: Reconciliation, by: OnBehalfOf, identity: str, *, dry_run: bool
    ) -> None:
        async for token in self._view.task_tokens(timeout=self._timeout):
            if token.store != identity:
                continue
            found.tokens += 1
            if await self._is_orphan(token, self._clock.now()):
                found.findings.append(await self._revoke_orphan(token, by, dry_run=dry_run))

    async def _is_orphan(self, token: BackendToken, now: datetime) -> bool:
        task = await self._store.task_of_token(token.accessor)
        if task is not None:
            return task.state is TaskState.ENDED
        return now - token.made_at >= ORPHAN_GRACE

    async def _revoke_orphan(self, token: BackendToken, by: OnBehalfOf, *, dry_run: bool) -> Finding:
        trouble = ""
        if not dry_run:
            event = AuditEvent(
                kind=AuditKind.ORPHAN_REVOKED,
                at=self._clock.now(),
                actor=by.actor,
                task_id=token.task_id,
                request_id=by.request_id,
                facts={"accessor": token.accessor, "reason": by.reason},
            )
            try:
                await self._issuer.revoke_token(token.accessor, timeout=self._timeout)
                await self._store.commit([Append(event=event)])
            except BrokerError as error:
                trouble = error.reason
        return Finding(
            kind=FindingKind.ORPHAN, subject=token.accessor, task_id=token.task_id, trouble=trouble
        )

    async def _look_at_stranded(
        self,
        found: Reconciliation,
        by: OnBehalfOf,  # noqa: ARG002 - the same for all
        identity: str,  # noqa: ARG002
        *,
        dry_run: bool,
    ) -> None:
        for vault_lease_id in await self._view.stranded(timeout=self._timeout):
            trouble = ""
            if not dry_run:
                try:
                    await self._issuer.revoke(vault_lease_id, timeout=self._timeout)
                    await self._issuer.see_that_it_is_gone(vault_lease_id, timeout=self._timeout)
                except BrokerError as error:
                    trouble = error.reason
            found.findings.append(Finding(kind=FindingKind.STRANDED, subject=vault_lease_id, trouble=trouble))

    def _summary(self, found: Reconciliation, by: OnBehalfOf, *, dry_run: bool) -> AuditEvent:
        counts = {kind.value: sum(one.kind is kind for one in found.findings) for kind in FindingKind}
        left = sum(bool(one.trouble) for one in found.findings)
        facts = {**counts, "left": left, "reason": by.reason, "dry_run": dry_run}
        return AuditEvent(
            kind=AuditKind.RECONCILED,
            at=self._clock.now(),
            actor=by.actor,
            request_id=by.request_id,
            facts=facts,
        )
