"""An address is the same for each connection of a peer."""

from __future__ import annotations

import pytest

from broker.server.peer_address import address_of


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:50412", "127.0.0.1"),
        ("ipv6:%5B::1%5D:50412", "::1"),
        ("ipv6:[2001:db8::7]:443", "2001:db8::7"),
        ("unix:", ""),
        ("unix:/run/broker.sock", ""),
        ("", ""),
    ],
)
def test_it_is_the_ip_address_and_nothing_else(peer: str, address: str) -> None:
    assert address_of(peer) == address
