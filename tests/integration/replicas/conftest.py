"""Two brokers on one database, with the rest of the stack beside them; a test that breaks one leaves both whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.devstack.stack import DevStack
from tests.threats.world import World, until


@pytest.fixture(scope="session")
def _stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    stack = DevStack(tmp_path_factory.mktemp("replicas") / "dev", say=print)
    try:
        stack.up(with_broker=False, replicas=2)
        (catalog,) = stack.broker.catalog.iterdir()
        catalog.write_text(catalog.read_text().replace("heartbeat: 10s", "heartbeat: 3s"))
        stack.up()
        yield stack
    finally:
        stack.down(purge=True)


@pytest.fixture
def world(_stack: DevStack, tmp_path: Path) -> Iterator[World]:
    _stack.up()
    world = World(_stack, tmp_path)
    unfinished = "SELECT 1 FROM tasks WHERE state <> 'ended'"
    until(lambda: not world.users() and not world.rows(unfinished), "the tasks of the test before have ended")
    yield world
    _stack.up()
    world.complete_what_is_left()
