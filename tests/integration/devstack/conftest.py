"""One stack for the tests of this folder; those that break it bring it up again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.devstack.stack import DevStack


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stack") / "dev"


@pytest.fixture(scope="session")
def shared_stack(folder: Path) -> Iterator[DevStack]:
    stack = DevStack(folder, say=print)
    try:
        stack.up()
        yield stack
    finally:
        stack.down(purge=True)


@pytest.fixture
def stack(shared_stack: DevStack) -> DevStack:
    shared_stack.up()
    return shared_stack
