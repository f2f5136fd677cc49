"""A real SPIRE without the rest of the stack, and the SVID of an admin for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from broker.adapters.spire.tcp_channel import AdminSvid
from broker.devstack import spire
from broker.devstack.stack import DevStack
from broker.devstack.state import NODE_ID, TRUST_DOMAIN
from broker.domain.secret import Secret
from broker.domain.spiffe import SpiffeId


@contextmanager
def spire_alone(folder: Path, *, agent: bool) -> Iterator[DevStack]:
    stack = DevStack(folder, say=print)
    try:
        with stack.state.locked():
            stack.state.make()
            stack.start_part(spire.SERVER)
            if agent:
                stack.start_part(spire.AGENT)
        yield stack
    finally:
        stack.down(purge=True)


def server_port(stack: DevStack) -> int:
    return int(stack.state.read()["ports"][spire.SERVER])


def minted(stack: DevStack, path: str, folder: Path) -> AdminSvid:
    """An SVID that the server signed. Whether it is an admin's is up to its entry."""
    spiffe_id = f"spiffe://{TRUST_DOMAIN}{path}"
    files = stack.spire.mint(spiffe_id, ttl=timedelta(minutes=10), folder=folder)
    chain, key, authorities = (file.read_bytes() for file in files)
    return AdminSvid(
        spiffe_id=SpiffeId.parse(spiffe_id),
        chain_pem=chain,
        key_pem=Secret(key.decode()),
        authorities_pem=authorities,
    )


def make_admin(stack: DevStack, path: str, *selectors: str) -> None:
    """An entry by which whoever has that SPIFFE ID may register."""
    words = ["-spiffeID", f"spiffe://{TRUST_DOMAIN}{path}", "-parentID", NODE_ID, "-admin"]
    for selector in selectors:
        words += ["-selector", selector]
    stack.spire._server("entry", "create", *words)
