"""One stack for the tests of this folder, and what looks at it from outside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.devstack.stack import DevStack
from tests.threats.world import World


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    stack = DevStack(tmp_path_factory.mktemp("operators") / "dev", say=print)
    try:
        stack.up()
        yield stack
    finally:
        stack.down(purge=True)


@pytest.fixture
def world(stack: DevStack, tmp_path: Path) -> World:
    return World(stack, tmp_path)
