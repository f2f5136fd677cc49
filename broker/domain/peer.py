"""The verified caller of one call.

These types are data that was checked: only a `PeerVerifier` makes a `VerifiedPeer` or a `VerifiedIdentity`, only the
gate a `VerifiedOperator`, and everything that acts for a caller asks for one of them, so that an unchecked name cannot
be passed in its place, nor an agent in an operator's (rule R4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from broker.domain.operators import OperatorRole
from broker.domain.spiffe import SpiffeId


class SvidKind(StrEnum):
    """By what kind of SVID somebody showed who they are."""

    X509 = "x509-svid"
    """The certificate of the connection, whose key the peer holds."""
    JWT = "jwt-svid"
    """A token in the call's metadata: whoever has it can show it, until it expires."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedPeer:
    """An agent instance whose SVID was verified for this very call."""

    spiffe_id: SpiffeId
    agent_class: str
    instance: str
    svid_expires_at: datetime
    verified_by: SvidKind
    svid_sha256: str
    """Hex digest of the leaf certificate (DER), or of a token without its signature; tells two SVIDs of one
    instance apart, and is of no use to who has it."""

    def as_facts(self) -> Mapping[str, object]:
        """How the caller was verified, for the audit record of what they did."""
        return {"verified_by": self.verified_by.value, "svid_sha256": self.svid_sha256}


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
