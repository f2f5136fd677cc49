"""Leases and their state machine.

    intended ──issue──▶ live ──revoke──▶ revoking ──refused──▶ revoked
        │                                    ▲
        ├──in doubt──────────────────────────┘
        └──void──▶ void

`intended` is durable before Vault is asked; `live` is durable before the secret leaves (rule R1). A lease whose
issue may have happened (crash, time-out) is *in doubt*: it goes to `revoking` without a Vault lease id, and is
revoked together with the token under which it was asked for (R2). `revoked` is said only of what the backend
no longer accepts (R3).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from broker.domain.errors import IllegalTransitionError
from broker.domain.identifiers import LeaseId, TaskId, TokenAccessor, VaultLeaseId


class LeaseState(StrEnum):
    """Where a lease is in its life."""

    INTENDED = "intended"
    LIVE = "live"
    REVOKING = "revoking"
    REVOKED = "revoked"
    VOID = "void"

    @property
    def is_final(self) -> bool:
        """Whether nothing can be left of it at the backend."""
        return self in {LeaseState.REVOKED, LeaseState.VOID}


class RevokeCause(StrEnum):
    """Why a lease is revoked."""

    RELEASED = "released"
    TASK_ENDED = "task-ended"
    EXPIRED = "expired"
    IN_DOUBT = "in-doubt"
    UNDELIVERED = "undelivered"
    OPERATOR = "operator"
    LOST = "lost"
    """The backend no longer knows it, and nobody here asked for that: a restore, or somebody else's hand. It is said to be
    revoked when it has expired at its backend, and not before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One credential that was, or may have been, handed out."""

    lease_id: LeaseId
    task_id: TaskId
    role: str
    idempotency_key: str
    request_digest: str
    accessor: TokenAccessor
    """Accessor of the task's Vault token under which it was asked for."""
    intended_at: datetime
    max_expires_at: datetime
    """Role's maximum and task's deadline, whichever is first; no renewal goes beyond."""
    state: LeaseState = LeaseState.INTENDED
    vault_lease_id: VaultLeaseId | None = None
    renewable: bool = False
    issued_at: datetime | None = None
    expires_at: datetime | None = None
    revoke_cause: RevokeCause | None = None
    revoking_since: datetime | None = None
    revoked_at: datetime | None = None
    attempts: int = 0
    next_attempt_at: datetime | None = None
    account: str | None = None
    """As whom the backend knows whoever logs in with it, where there is such a name. No secret."""

    @property
    def holds_key(self) -> bool:
        """Whether the idempotency key is used up: not when nothing was ever delivered under it."""
        return self.state is not LeaseState.VOID and self.revoke_cause not in {
            RevokeCause.IN_DOUBT,
            RevokeCause.UNDELIVERED,
        }

    def issued(
        self,
        *,
        vault_lease_id: VaultLeaseId,
        at: datetime,
        expires_at: datetime,
        renewable: bool,
        account: str | None = None,
    ) -> Lease:
        """Intended to live.

        Raises:
            IllegalTransitionError: the lease is not intended.
        """
        self._require(LeaseState.INTENDED, to=LeaseState.LIVE)
        return replace(
            self,
            state=LeaseState.LIVE,
            vault_lease_id=vault_lease_id,
            issued_at=at,
            expires_at=expires_at,
            renewable=renewable,
            account=account,
        )

    def revoking(self, cause: RevokeCause, at: datetime) -> Lease:
        """Intended (in doubt) or live to revoking; due at once.

        Raises:
            IllegalTransitionError: the lease is in another state.
        """
        if self.state not in {LeaseState.INTENDED, LeaseState.LIVE}:
            raise IllegalTransitionError(self.lease_id, self.state, LeaseState.REVOKING)
        return replace(
            self, state=LeaseState.REVOKING, revoke_cause=cause, revoking_since=at, next_attempt_at=at
        )

    def revoked(self, at: datetime) -> Lease:
        """Revoking to revoked; the caller has checked with the backend.

        Raises:
            IllegalTransitionError: the lease is not revoking.
        """
        self._require(LeaseState.REVOKING, to=LeaseState.REVOKED)
        return replace(self, state=LeaseState.REVOKED, revoked_at=at, next_attempt_at=None)

    def voided(self, at: datetime) -> Lease:
        """Intended to void: the backend was never asked, or answered that it made nothing.

        Raises:
            IllegalTransitionError: the lease is not intended.
        """
        self._require(LeaseState.INTENDED, to=LeaseState.VOID)
        return replace(self, state=LeaseState.VOID, revoked_at=at)

    def _require(self, state: LeaseState, *, to: LeaseState) -> None:
        if self.state is not state:
            raise IllegalTransitionError(self.lease_id, self.state, to)
