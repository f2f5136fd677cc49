"""What a new connection sees: the newest SVID and the newest roots, and never a server that asks for nothing."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from broker.adapters.spire.identity import OwnSvid, TrustBundle, WorkloadIdentity
from broker.adapters.spire.tls import server_credentials
from broker.client import Svid
from broker.domain.secret import Secret
from broker.domain.spiffe import SpiffeId
from tests.unit.client.authority import AGENT_ID, BROKER_ID, TRUST_DOMAIN, Authority

OWN = SpiffeId.parse(BROKER_ID)


class Door:
    """A gRPC server behind `server_credentials`, on a Unix socket."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority()
        self.folder = folder
        self.identity = WorkloadIdentity(endpoint_socket="unix:///none", expected_id=OWN)
        self.turn()
        self.server = grpc.server(futures.ThreadPoolExecutor(1))
        self.server.add_secure_port(f"unix:{folder}/door.sock", server_credentials(self.identity))
        self.server.start()

    def turn(self, *, authority: Authority | None = None, key: str = "") -> Svid:
        """Give the identity another SVID, as its thread does."""
        self.authority = authority or self.authority
        svid = self.authority.broker_svid()
        leaf = x509.load_pem_x509_certificate(svid.chain)
        roots = (x509.load_pem_x509_certificate(self.authority.pem),)
        self.identity._bundles = {
            TRUST_DOMAIN: TrustBundle(trust_domain=TRUST_DOMAIN, authorities=roots, digest="")
        }
        self.identity._svid = OwnSvid(
            spiffe_id=OWN,
            chain_pem=svid.chain,
            key_pem=Secret(key or svid.key.decode()),
            expires_at=leaf.not_valid_after_utc,
        )
        self.identity._version += 1
        return svid

    def shows(self, client: Svid | None) -> bytes:
        """Connect as `client`; return the server's leaf once it has answered.

        Raises:
            ssl.SSLError, ConnectionError: it refused.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=self.authority.pem.decode())
        context.set_alpn_protocols(["h2"])
        if client is not None:
            chain, key = self.folder / "client.pem", self.folder / "client-key.pem"
            chain.write_bytes(client.chain)
            key.write_bytes(client.key)
            context.load_cert_chain(chain, key)
        plain = socket.socket(socket.AF_UNIX)
        plain.settimeout(10)
        plain.connect(str(self.folder / "door.sock"))
        with context.wrap_socket(plain) as connection:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0")
            if not connection.recv(1):  # in TLS 1.3 a refusal is seen by reading
                raise ConnectionResetError
            leaf = connection.getpeercert(binary_form=True)
        assert leaf is not None
        return x509.load_der_x509_certificate(leaf).public_bytes(Encoding.PEM)


@pytest.fixture
def door(folder: Path) -> Iterator[Door]:
    door = Door(folder)
    yield door
    door.server.stop(0).wait()


def test_an_instance_sees_the_brokers_svid(door: Door) -> None:
    assert door.shows(door.authority.svid(AGENT_ID)) == door.identity.svid.chain_pem


def test_after_a_rotation_a_new_connection_sees_the_new_svid(door: Door) -> None:
    client = door.authority.svid(AGENT_ID)
    door.shows(client)
    for _rotation in range(2):
        newer = door.turn()
        assert door.shows(client) == newer.chain
        assert door.shows(client) == newer.chain


def test_a_client_without_a_certificate_gets_no_answer(door: Door) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        door.shows(None)


def test_a_client_of_a_foreign_authority_gets_no_answer(door: Door) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        door.shows(Authority().svid(AGENT_ID))


def test_a_client_of_a_replaced_authority_gets_no_answer_on_a_new_connection(door: Door) -> None:
    old = door.authority.svid(AGENT_ID)
    door.shows(old)
    door.turn(authority=Authority())
    with pytest.raises((ssl.SSLError, ConnectionError)):
        door.shows(old)
    door.shows(door.authority.svid(AGENT_ID))


def test_an_svid_that_cannot_be_served_leaves_the_one_before_until_a_good_one_comes(door: Door) -> None:
    client = door.authority.svid(AGENT_ID)
    before = door.identity.svid.chain_pem
    assert door.shows(client) == before
    door.identity._svid = None
    door.identity._version += 1
    assert door.shows(client) == before
    newer = door.turn()
    assert door.shows(client) == newer.chain


def test_without_an_svid_there_are_no_credentials_at_all() -> None:
    identity = WorkloadIdentity(endpoint_socket="unix:///none", expected_id=OWN)
    with pytest.raises(Exception, match="has not answered yet"):
        server_credentials(identity)
