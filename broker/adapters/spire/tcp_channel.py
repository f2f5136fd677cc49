"""A channel to SPIRE's server over TCP, with the SVID of an admin entry.

What always holds: the server has shown a certificate that the trust domain's own authorities signed and whose
one URI is `spiffe://<trust domain>/spire/server`, before a byte is sent; the key of the SVID reaches no disk.

Python's gRPC looks for DNS names in a server's certificate, and SPIRE's server has none. So the TLS is done here, by
Python's `ssl`, and gRPC talks to it over a unix socket in a folder that only this user can enter, for as long as the
channel is open.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from spiffe import TrustDomain, WorkloadApiClient

from broker.adapters.spire.unix_channel import unix_channel
from broker.domain.secret import Secret
from broker.domain.spiffe import SpiffeId
from broker.ports.registry import RegistryRefusedError, RegistryUnavailableError

_PATIENCE: Final = 10.0
_FOR_CLOSING: Final = 1.0
_CHUNK: Final = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminSvid:
    """The identity of whoever registers: an entry of SPIRE with `admin` set."""

    spiffe_id: SpiffeId
    chain_pem: bytes
    key_pem: Secret
    authorities_pem: bytes
    """Those of the trust domain itself, and of no other."""


def fetch_admin_svid(endpoint_socket: str, *, trust_domain: str) -> AdminSvid:
    """This process's own SVID, from the Workload API.

    Raises:
        RegistryRefusedError: SPIRE gives none of that trust domain.
    """
    try:
        with WorkloadApiClient(socket_path=endpoint_socket, default_timeout=_PATIENCE) as client:
            context = client.fetch_x509_context()
    except Exception as error:  # the package lets many kinds through
        message = (
            f"no SVID from {endpoint_socket} ({type(error).__name__}): over TCP, SPIRE's server wants the SVID of an "
            "admin entry for this process"
        )
        raise RegistryRefusedError(message) from error
    bundle = context.x509_bundle_set.get_bundle_for_trust_domain(TrustDomain(trust_domain))
    svid = context.default_svid
    if bundle is None or svid.spiffe_id.trust_domain.name != trust_domain:
        message = f"this process is {svid.spiffe_id}, which is not of the trust domain {trust_domain}"
        raise RegistryRefusedError(message)
    key = svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return AdminSvid(
        spiffe_id=SpiffeId.parse(str(svid.spiffe_id)),
        chain_pem=b"".join(one.public_bytes(Encoding.PEM) for one in svid.cert_chain),
        key_pem=Secret(key.decode()),
        authorities_pem=b"".join(one.public_bytes(Encoding.PEM) for one in bundle.x509_authorities),
    )


@contextlib.asynccontextmanager
async def tcp_channel(host: str, port: int, svid: AdminSvid) -> AsyncIterator[grpc.aio.Channel]:
    """A TLS connection to the server, on which both sides show their SVIDs.

    Raises:
        RegistryUnavailableError: nobody is there, or it is not the trust domain's SPIRE server.
    """
    tunnel = _Tunnel(host, port, svid)
    await tunnel.check()
    with tempfile.TemporaryDirectory(prefix="tasklease-") as folder:
        path = Path(folder) / "spire"
        listener = await asyncio.start_unix_server(tunnel.serve, path)
        try:
            async with unix_channel(str(path)) as channel:
                yield channel
        finally:
            listener.close()
            await tunnel.close()


class _Tunnel:
    """Passes bytes between gRPC and the server, and does the TLS."""

    def __init__(self, host: str, port: int, svid: AdminSvid) -> None:
        self._host = host
        self._port = port
        self._server_id = f"spiffe://{svid.spiffe_id.trust_domain}/spire/server"
        self._context = _context(svid)
        self._work: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def check(self) -> None:
        """Connect once, to say in time what is wrong."""
        _, writer = await self._connect()
        await _closed(writer)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of gRPC's."""
        try:
            there, back = await self._connect()
        except RegistryUnavailableError:
            writer.close()  # gRPC says UNAVAILABLE, and tries again
            return
        pumps = {
            asyncio.create_task(_pass_on(source, sink)) for source, sink in ((reader, back), (there, writer))
        }
        self._work |= pumps
        self._writers |= {back, writer}
        await asyncio.wait(pumps)
        self._work -= pumps
        self._writers -= {back, writer}

    async def close(self) -> None:
        """End all connections."""
        for work in self._work:
            work.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        await asyncio.gather(*map(_closed, self._writers))

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        place = f"{self._host}:{self._port}"
        try:
            async with asyncio.timeout(_PATIENCE):
                reader, writer = await asyncio.open_connection(
                    self._host, self._port, ssl=self._context, server_hostname=""
                )
        except ssl.SSLCertVerificationError as error:
            message = (
                f"what answers at {place} is not this trust domain's SPIRE server: {error.verify_message}"
            )
            raise RegistryUnavailableError(message) from None
        except (OSError, TimeoutError) as error:
            message = f"SPIRE's server does not answer at {place}: {type(error).__name__}"
            raise RegistryUnavailableError(message) from None
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        if _uris(shown) != [self._server_id]:
            await _closed(writer)
            message = f"what answers at {place} is of this trust domain, but is not {self._server_id}"
            raise RegistryUnavailableError(message)
        return reader, writer


def _context(svid: AdminSvid) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the name is a URI: see _connect
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    context.load_verify_locations(cadata=svid.authorities_pem.decode())
    descriptor = os.memfd_create("svid", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as memory:
        memory.write(svid.chain_pem + svid.key_pem.reveal().encode())
        memory.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    return context


def _uris(certificate: bytes | None) -> list[str]:
    if not certificate:
        return []
    try:
        names = x509.load_der_x509_certificate(certificate).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    except (ValueError, x509.ExtensionNotFound):
        return []
    return names.value.get_values_for_type(x509.UniformResourceIdentifier)


async def _closed(writer: asyncio.StreamWriter) -> None:
    """Close, and wait until it is: what is left to a loop that ends is never closed."""
    writer.close()
    try:
        async with asyncio.timeout(_FOR_CLOSING):
            await writer.wait_closed()
    except (OSError, TimeoutError):
        writer.transport.abort()


async def _pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(_CHUNK):
            sink.write(data)
            await sink.drain()
    except OSError:
        pass  # one side went away: so does the other
    finally:
        sink.close()
