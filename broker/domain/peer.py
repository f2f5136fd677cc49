"""The verified caller of one call.

These types are data that was checked: only a `PeerVerifier` makes a `VerifiedPeer` or a `VerifiedIdentity`, only the
gate a `VerifiedOperator`, and everything that acts for a caller asks for one of them, so that an unchecked name cannot
be passed in its place, nor an agent in an operator's (rule R4).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from broker.domain.operators import OperatorRole
from broker.domain.spiffe import SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedPeer:
    """An agent instance whose X.509-SVID was verified for this very call."""

    spiffe_id: SpiffeId
    agent_class: str
    instance: str
    svid_expires_at: datetime
    leaf_sha256: str
    """Hex digest of the leaf certificate (DER); tells two SVIDs of one instance apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedIdentity:
    """Whoever shows an X.509-SVID that was verified for this very call: perhaps no agent instance at all."""

    spiffe_id: SpiffeId
    svid_expires_at: datetime
    svid_sha256: str
    """Hex digest of the leaf certificate (DER)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedOperator:
    """An operator, verified for this very call, with the roles that the settings give."""

    spiffe_id: SpiffeId
    roles: frozenset[OperatorRole]
    svid_sha256: str
