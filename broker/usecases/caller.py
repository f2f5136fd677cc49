"""Who calls, in which call: what every use case that serves an agent or an operator is given."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from broker.domain.identifiers import RequestId
from broker.domain.peer import VerifiedOperator, VerifiedPeer


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


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorCaller(_Call):
    """A verified operator in one call, with a role that its RPC takes."""

    operator: VerifiedOperator
