"""One stack for this folder, whose broker takes tokens of one issuer and tells one receiver; its own SVID lives for seconds."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import pytest

from broker.devstack.broker_process import BrokerProcess
from tests.integration.server.conftest import a_stack
from tests.threats.world import World
from tests.unit.jose.sets import AUDIENCE, ISSUER, write_jwks

SECRET: Final = b"s" * 32


class Receiver:
    """Takes what the broker tells, and checks nothing."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        got = self.got

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                got.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    one = Receiver()
    yield one
    one.close()


def _with_signals(before: str, jwks: Path, port: int, url: str, secret: Path) -> str:
    return f"""{before}tell:
  soc: {{kind: webhook, url: '{url}', secret_file: {secret}, from: low}}
signals:
  listen: 127.0.0.1:{port}
  transmitters:
    - issuer: {ISSUER}
      audience: {AUDIENCE}
      jwks_file: {jwks}
"""


@pytest.fixture(scope="session")
def jwks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jwks(tmp_path_factory.mktemp("keys") / "jwks.json")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, jwks: Path, receiver: Receiver) -> Iterator[World]:
    configuration = BrokerProcess._configuration
    secret = tmp_path_factory.mktemp("secrets") / "soc"
    secret.write_text("whsec_" + base64.b64encode(SECRET).decode())

    folder = tmp_path_factory.mktemp("signals")

    def with_signals(broker: BrokerProcess) -> str:
        if not broker.folder.is_relative_to(folder):
            return configuration(broker)  # of another stack of this session
        return _with_signals(configuration(broker), jwks, events_port(broker), receiver.url, secret)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(BrokerProcess, "_configuration", with_signals)
        with a_stack(folder) as stack:
            yield World(stack, tmp_path_factory.mktemp("world"))


def events_port(broker: BrokerProcess) -> int:
    """Where that broker takes tokens."""
    return broker._port("broker-events")
