"""Who answers at the broker's address: a TLS handshake of our own that reads the certificate there.

Python's gRPC compares DNS names and never shows the server's certificate. So two things are done. The channel trusts
the authorities of the agent's *own* trust domain alone, and compares the name `tasklease-broker`, which SPIRE puts
into the broker's SVIDs and nobody else's: that holds for every connection that gRPC ever makes. And before each new
channel, this module connects by itself and compares the SPIFFE ID.

What that leaves open: the handshake is another connection than the channel's. Against somebody who can answer the one
and not the other, and who holds an SVID of the same trust domain with that DNS name, the DNS name alone stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from typing import Final

from broker.client.errors import NotConnected
from broker.client.identity import Svid

DNS_NAME: Final = "tasklease-broker"
NOT_THE_BROKER: Final = "NOT_THE_BROKER"
"""`NotConnected.reason` when somebody answers who is not the broker: not worth trying again."""


async def check_broker(address: str, svid: Svid, expected: str) -> None:
    """Connect to `address` (`host:port` or `unix:PATH`), and compare the SPIFFE ID of who answers with `expected`.

    Raises:
        NotConnected: nobody answers, or somebody else (reason NOT_THE_BROKER).
    """
    try:
        context = _context(svid)
        if address.startswith("unix:"):
            path = address.removeprefix("unix:").removeprefix("//")
            _reader, writer = await asyncio.open_unix_connection(path, ssl=context, server_hostname=DNS_NAME)
        else:
            host, port = split_address(address)
            _reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=DNS_NAME)
    except ssl.SSLCertVerificationError as error:
        message = f"what answers at {address} is no broker of {svid.trust_domain}: {error.verify_message}"
        raise NotConnected(message, reason=NOT_THE_BROKER) from None
    except OSError as error:  # ssl.SSLError is one as well
        message = f"nobody answers at {address} as a broker would ({error.strerror or type(error).__name__})"
        raise NotConnected(message) from None
    certificate = writer.get_extra_info("peercert") or {}
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
    if names != [expected]:
        message = f"what answers at {address} is {', '.join(names) or 'nobody'}, not {expected}"
        raise NotConnected(message, reason=NOT_THE_BROKER)


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port`, `[v6]:port`, or `dns:///host:port`.

    Raises:
        NotConnected: it is neither.
    """
    host, colon, port = address.removeprefix("dns:").removeprefix("///").rpartition(":")
    if not colon or not host or not port.isdecimal():
        message = f"{address!r} is not an address of a broker: give host:port"
        raise NotConnected(message, reason=NOT_THE_BROKER)
    return host.strip("[]"), int(port)


def _context(svid: Svid) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=svid.authorities.decode())
    context.set_alpn_protocols(["h2"])
    if hasattr(os, "memfd_create"):
        # Our own SVID, too: the broker would otherwise log a failed handshake for each of these connections. The
        # ssl module reads keys from files alone; this one is in memory and has no name.
        descriptor = os.memfd_create("svid")
        with os.fdopen(descriptor, "wb") as file:
            file.write(svid.key + svid.chain)
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    return context
