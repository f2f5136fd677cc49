"""What a host's name says by itself."""

from __future__ import annotations

from ipaddress import ip_address


def is_loopback(host: str) -> bool:
    """Whether it is this machine, by a network that nobody else is on."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
