"""Who calls, in which call: what every use case that serves an agent is given."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from broker.domain.identifiers import RequestId
from broker.domain.peer import VerifiedPeer


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A verified peer in one call."""

    peer: VerifiedPeer
    request_id: RequestId
    time_left: timedelta | None = None
    """Until the caller's own deadline; None when it set none."""

    def patience(self, most: timedelta) -> timedelta:
        """How long this call may wait for something: `most`, or what the caller's deadline leaves."""
        return most if self.time_left is None else min(most, self.time_left)
