"""One stack for this folder, whose broker takes tokens of one issuer; its own SVID lives for seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.devstack.broker_process import BrokerProcess
from tests.integration.server.conftest import a_stack
from tests.threats.world import World
from tests.unit.jose.sets import AUDIENCE, ISSUER, write_jwks


def _with_signals(before: str, jwks: Path, port: int) -> str:
    return f"""{before}signals:
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
def world(tmp_path_factory: pytest.TempPathFactory, jwks: Path) -> Iterator[World]:
    configuration = BrokerProcess._configuration

    def with_signals(broker: BrokerProcess) -> str:
        return _with_signals(configuration(broker), jwks, events_port(broker))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(BrokerProcess, "_configuration", with_signals)
        with a_stack(tmp_path_factory.mktemp("signals")) as stack:
            yield World(stack, tmp_path_factory.mktemp("world"))


def events_port(broker: BrokerProcess) -> int:
    """Where that broker takes tokens."""
    return broker._port("broker-events")
