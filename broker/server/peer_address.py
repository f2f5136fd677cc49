"""From where a call comes, as gRPC says it."""

from __future__ import annotations

from functools import lru_cache
from typing import Final
from urllib.parse import unquote

_FAMILIES: Final = frozenset({"ipv4", "ipv6"})


@lru_cache(maxsize=1024)  # each call of a connection asks
def address_of(peer: str) -> str:
    """The IP address without its port; empty for a peer that has none, on a socket of this machine."""
    family, _, rest = peer.partition(":")
    if family not in _FAMILIES:
        return ""
    return unquote(rest.rpartition(":")[0]).strip("[]")
