"""The verified caller of one call.

`VerifiedPeer` is data that was checked: only a `PeerVerifier` makes one, and everything that acts for a caller
asks for this type, so that an unchecked name cannot be passed in its place (rule R4).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

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
