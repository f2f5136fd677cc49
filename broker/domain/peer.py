"""The verified caller of one call.

`VerifiedPeer` is data that was checked: only a `PeerVerifier` makes one, and everything that acts for a caller
asks for this type, so that an unchecked name cannot be passed in its place (rule R4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

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
