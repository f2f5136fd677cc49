"""One stack for all threats; a test that breaks a part leaves it whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.devstack.stack import DevStack
from tests.threats.world import World, wants_heartbeats


@pytest.fixture(scope="session")
def _stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    stack = DevStack(tmp_path_factory.mktemp("threats") / "dev", say=print)
    try:
        stack.up()
        # Signs of life are missed soon.
        wants_heartbeats(stack, "1s")
        stack.stop_part("broker")
        stack.up()
        yield stack
    finally:
        stack.down(purge=True)


@pytest.fixture
def world(_stack: DevStack, tmp_path: Path) -> Iterator[World]:
    with World.whole(_stack, tmp_path) as world:
        yield world
