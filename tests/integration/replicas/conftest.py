"""Two brokers on one database, with the rest of the stack beside them; a test that breaks one leaves both whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.devstack.stack import DevStack
from tests.threats.world import World, wants_heartbeats


@pytest.fixture(scope="session")
def _stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    stack = DevStack(tmp_path_factory.mktemp("replicas") / "dev", say=print)
    try:
        stack.up(with_broker=False, replicas=2)
        wants_heartbeats(stack, "3s")
        stack.up()
        yield stack
    finally:
        stack.down(purge=True)


@pytest.fixture
def world(_stack: DevStack, tmp_path: Path) -> Iterator[World]:
    with World.whole(_stack, tmp_path) as world:
        yield world
