"""What stands behind an HTTPS door, and what it is given: a request that was admitted, and its body."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from broker.domain.errors import BrokerError
from broker.domain.identifiers import RequestId
from broker.domain.operators import OperatorRole
from broker.domain.peer import VerifiedOperator, VerifiedPeer

Body = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One request, admitted: who makes it was verified for it."""

    who: VerifiedPeer | VerifiedOperator
    """An agent instance, or an operator with a role that the endpoint takes."""
    request_id: RequestId
    time_left: timedelta
    cost: int
    """What it cost whoever makes it, of its rate."""
    origin: str
    """The `Host` by which the door was reached."""
    record_refusal: Callable[[BrokerError], Awaitable[None]]
    """Makes durable that a part of the request was refused, when an operator makes it. A request that fails as a whole
    is recorded by the door."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One line of a door's table: an agent instance may call it, and an operator with one of `roles`."""

    method: Literal["GET", "POST"]
    path: str
    name: str
    """For metrics and traces."""
    cost: int
    """How much of the caller's rate limit one request takes."""
    roles: frozenset[OperatorRole]
    serve: Callable[[Visit, Body], Awaitable[Body]]
    outline: Callable[[Body], str]
    """What of a refused request is kept in the audit trail. Never an argument's value; never raises."""
