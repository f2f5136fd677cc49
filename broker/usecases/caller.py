"""Who calls, in which call: what every use case that serves an agent or an operator is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from broker.domain.identifiers import RequestId
from broker.domain.peer import SvidKind, VerifiedOperator, VerifiedPeer
from broker.domain.spiffe import SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One call, whoever makes it."""

    request_id: RequestId
    time_left: timedelta | None = None
    """Until the caller's own deadline; None when it set none."""

    def patience(self, most: timedelta) -> timedelta:
        """How long this call may wait for something: `most`, or what the caller's deadline leaves."""
        return most if self.time_left is None else min(most, self.time_left)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller(_Call):
    """A verified agent instance in one call."""

    peer: VerifiedPeer
    address: str = ""
    """The peer's IP address, without its port; empty where it is not known."""

    @property
    def subject(self) -> SpiffeId:
        """For whom it asks: for itself."""
        return self.peer.spiffe_id

    @property
    def actor(self) -> str:
        """Who asks, for the audit record."""
        return str(self.peer.spiffe_id)

    def as_facts(self) -> Mapping[str, object]:
        """How it was verified, for the audit record."""
        return self.peer.as_facts()


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorCaller(_Call):
    """A verified operator in one call, with a role that its RPC takes."""

    operator: VerifiedOperator


@dataclass(frozen=True, slots=True, kw_only=True)
class EnforcingCaller(_Call):
    """A verified enforcer in one call, on behalf of an agent instance that it named.

    No `Caller`: it can ask for decisions about the subject's tasks, and what needs the subject's own SVID does not take
    it. Only `EnforceFor` makes one.
    """

    enforcer: VerifiedOperator
    subject: SpiffeId

    @property
    def actor(self) -> str:
        """Who asks, for the audit record."""
        return str(self.enforcer.spiffe_id)

    def as_facts(self) -> Mapping[str, object]:
        """For whom it asked and how it was verified, for the audit record."""
        return {
            "subject": str(self.subject),
            "verified_by": SvidKind.X509.value,
            "svid_sha256": self.enforcer.svid_sha256,
        }


AskingCaller = Caller | EnforcingCaller
"""Who may ask for decisions: an instance for itself, or an enforcer for one."""
