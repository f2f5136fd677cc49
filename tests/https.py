"""Requests to an HTTPS door as anybody: with an SVID, somebody else's, or none; over TCP or a Unix socket."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cryptography import x509

from broker.client import Svid

EVALUATION = "/access/v1/evaluation"
EVALUATIONS = "/access/v1/evaluations"
RESOURCES = "/access/v1/search/resource"
ACTIONS = "/access/v1/search/action"
METADATA = "/.well-known/authzen-configuration"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def reason(self) -> str:
        """Of a refusal."""
        return str(self.body["error"]["reason"])

    @property
    def fields(self) -> dict[str, str]:
        """Which fields were refused, and what to do."""
        return {one["field"]: one["remedy"] for one in self.body["error"].get("fields", [])}


class Connection:
    """One connection; requests follow each other on it."""

    def __init__(self, plain: ssl.SSLSocket) -> None:
        self.tls = plain
        self._http = http.client.HTTPConnection("tasklease-broker")
        self._http.sock = plain
        self._http.auto_open = 0

    @property
    def leaf(self) -> x509.Certificate:
        """What the door shows."""
        der = self.tls.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der)

    def post(self, path: str, body: object, **headers: str) -> Reply:
        """`body` as it is when it is bytes, else as JSON; a `_` in a header's name is a `-`."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.ask("POST", path, data, {"Content_Type": "application/json", **headers})

    def get(self, path: str) -> Reply:
        return self.ask("GET", path, None, {})

    def ask(self, method: str, path: str, data: Any, headers: Mapping[str, str]) -> Reply:
        """Any request. `data` may be an iterator of bytes, which is sent in chunks."""
        named = {name.replace("_", "-"): value for name, value in headers.items() if value}
        self._http.request(method, path, data, named, encode_chunked=not isinstance(data, bytes | None))
        return self._reply()

    def raw(self, data: bytes) -> Reply:
        """Whatever bytes, and what is answered to them."""
        self.tls.sendall(data)
        response = http.client.HTTPResponse(self.tls)
        response.begin()
        return _reply_of(response)

    def _reply(self) -> Reply:
        return _reply_of(self._http.getresponse())


@contextmanager
def connected(address: str, *, authorities: bytes, svid: Svid | None) -> Iterator[Connection]:
    """A connection to `HOST:PORT` or `unix:PATH`; `authorities` is what is trusted, `svid` what is shown.

    Raises:
        ssl.SSLError, OSError: the door refused the handshake. In TLS 1.3 the first answer raises it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authorities.decode())
    context.set_alpn_protocols(["http/1.1"])
    if svid is not None:
        descriptor = os.memfd_create("svid")
        with os.fdopen(descriptor, "wb") as file:
            file.write(svid.key + svid.chain)
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    family = socket.AF_UNIX if address.startswith("unix:") else socket.AF_INET
    with (
        socket.socket(family) as plain,
        _connect(plain, address),
        context.wrap_socket(plain, server_hostname="tasklease-broker") as tls,
    ):
        yield Connection(tls)


def an_evaluation(subject: str, task: str, tool: str = "read-orders", **changed: Any) -> dict[str, Any]:
    """A question that is as it has to be; `changed` replaces whole parts of it."""
    return {
        "subject": {"type": "instance", "id": subject},
        "action": {"name": "call"},
        "resource": {"type": "tool", "id": tool},
        "context": {"task": task},
        **changed,
    }


def _connect(plain: socket.socket, address: str) -> socket.socket:
    plain.settimeout(20)
    host, _, port = address.rpartition(":")
    plain.connect(address.removeprefix("unix:") if plain.family == socket.AF_UNIX else (host, int(port)))
    return plain


def _reply_of(response: http.client.HTTPResponse) -> Reply:
    return Reply(
        status=response.status, headers=dict(response.headers), body=json.loads(response.read() or b"null")
    )
