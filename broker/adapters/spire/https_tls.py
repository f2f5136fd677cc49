"""TLS for HTTPS doors, with an SVID that rotates without a restart, and what a connection showed.

The ssl module has no context that changes. So the context of a door looks at each new handshake, before it answers,
whether there is a newer SVID or bundle, and hands the handshake to a context with those. As in tls.py the roots are those
of every trust domain together: this proves that the peer holds a key, and the verifier says who it is.
"""

from __future__ import annotations

import logging
import os
import ssl
from typing import Final, Protocol, cast

from broker.adapters.spire.identity import WorkloadIdentity

logger = logging.getLogger(__name__)

_MOST_SHOWN: Final = 9
"""Certificates that are looked at: one more than the verifier takes is enough for it to refuse."""


class _Certificate(Protocol):
    def public_bytes(self, form: int, /) -> bytes | str: ...


def https_context(identity: WorkloadIdentity, *, demand_certificate: bool = True) -> ssl.SSLContext:
    """A context whose handshakes follow `identity`; a client certificate is required, or not even asked for.

    Raises:
        NoIdentityError: there was never an SVID.
    """
    served = identity.version
    newest = _context(identity, demand_certificate=demand_certificate)

    def follow(connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _first: ssl.SSLContext) -> None:
        """Raising would end the handshake with no word of why: what cannot be served leaves the one before."""
        nonlocal served, newest
        version = identity.version
        if version != served:
            try:
                newest = _context(identity, demand_certificate=demand_certificate)
            except Exception as error:  # noqa: BLE001 - the one before still stands
                logger.error("the new SVID cannot be served: %s", type(error).__name__)
            else:
                served = version
        connection.context = newest

    first = _context(identity, demand_certificate=demand_certificate)
    first.sni_callback = follow  # called at each handshake, with a name or without
    return first


def shown_by(connection: object) -> tuple[bytes | None, list[bytes]]:
    """The leaf that a connection's peer showed and the intermediates beside it, PEM each; nothing when it is no TLS."""
    if not isinstance(connection, ssl.SSLObject | ssl.SSLSocket):
        return None, []
    leaf = connection.getpeercert(binary_form=True)
    if leaf is None:
        return None, []
    above = [der for der in _chain(connection) if der != leaf]
    return ssl.DER_cert_to_PEM_cert(leaf).encode(), [ssl.DER_cert_to_PEM_cert(der).encode() for der in above]


def _chain(connection: ssl.SSLObject | ssl.SSLSocket) -> list[bytes]:
    """What the peer sent, DER each. Public from Python 3.13 on; before, the same is below the surface or not there."""
    public = getattr(connection, "get_unverified_chain", None)
    if public is not None:
        return cast("list[bytes]", public())[:_MOST_SHOWN]
    below = getattr(getattr(connection, "_sslobj", None), "get_unverified_chain", None)
    found = cast("list[_Certificate]", below() or []) if below is not None else []
    return [ssl.PEM_cert_to_DER_cert(str(one.public_bytes(1))) for one in found[:_MOST_SHOWN]]


def _context(identity: WorkloadIdentity, *, demand_certificate: bool) -> ssl.SSLContext:
    svid = identity.svid
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED if demand_certificate else ssl.CERT_NONE
    context.verify_flags |= ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN
    # No tickets: a session lives in this process alone. One of TLS 1.2 that is resumed from its memory shows what was
    # shown when it began, and the verifier looks at that as at any other.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    context.load_verify_locations(cadata=identity.all_roots_pem().decode())
    # The ssl module reads keys from files alone; this one is in memory and has no name.
    descriptor = os.memfd_create("svid")
    with os.fdopen(descriptor, "wb") as file:
        file.write(svid.key_pem.reveal().encode() + svid.chain_pem)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    return context
