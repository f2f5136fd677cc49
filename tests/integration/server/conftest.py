"""One stack for this folder, whose broker's own SVID lives for seconds: everything here happens under rotation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from broker.devstack.spire import BROKER_DNS_NAME
from broker.devstack.stack import DevStack
from broker.devstack.state import BROKER_GROUP, BROKER_ID
from tests.threats.world import World

SVID_TTL = timedelta(seconds=20)


@contextmanager
def a_stack(folder: Path) -> Iterator[DevStack]:
    """A stack whose broker has an SVID of `SVID_TTL`."""
    stack = DevStack(folder / "dev", say=print)
    try:
        stack.up(with_broker=False)
        spire = stack.spire
        spire.deregister(spire.register_broker())
        spire._create(BROKER_ID, BROKER_GROUP, x509_ttl=SVID_TTL, dns_names=[BROKER_DNS_NAME])
        stack.up()
        yield stack
    finally:
        stack.down(purge=True)


@pytest.fixture(scope="session")
def _stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    with a_stack(tmp_path_factory.mktemp("server")) as stack:
        yield stack


@pytest.fixture
def world(_stack: DevStack, tmp_path: Path) -> Iterator[World]:
    """The stack, all of it up; a test that breaks a part leaves it whole."""
    _stack.up()
    yield World(_stack, tmp_path)
    _stack.up()


@pytest.fixture
def catalog(_stack: DevStack) -> Iterator[Path]:
    """The broker's catalog file, as it was again afterwards."""
    (file,) = _stack.broker.catalog.iterdir()
    text = file.read_text()
    yield file
    file.write_text(text)
