"""One stack for all threats; a test that breaks a part leaves it whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.devstack.stack import DevStack
from tests.threats.world import World, until


@pytest.fixture(scope="session")
def _stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    stack = DevStack(tmp_path_factory.mktemp("threats") / "dev", say=print)
    try:
        stack.up()
        # Signs of life are missed soon.
        (catalog,) = stack.broker.catalog.iterdir()
        catalog.write_text(catalog.read_text().replace("heartbeat: 10s", "heartbeat: 1s"))
        stack.stop_part("broker")
        stack.up()
        yield stack
    finally:
        stack.down(purge=True)


@pytest.fixture
def world(_stack: DevStack, tmp_path: Path) -> Iterator[World]:
    """The stack, all of it up, with no task left of the test before, and none after this one."""
    _stack.up()
    world = World(_stack, tmp_path)
    unfinished = "SELECT 1 FROM tasks WHERE state <> 'ended'"
    until(lambda: not world.users() and not world.rows(unfinished), "the tasks of the test before have ended")
    yield world
    _stack.up()
    world.complete_what_is_left()
