"""Sightings: from where, and with which SVID an instance called, each time that was another place or SVID than before."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

MOST_SIGHTINGS: Final = 64
"""Of one instance, that are kept: the newest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """One of them."""

    at: datetime
    address: str
    """The peer's IP address, without its port."""
    svid_sha256: str
    key_fingerprint: str = ""
    """Digest of the key that the peer showed it holds; empty where none was shown."""
