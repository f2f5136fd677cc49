"""One stack for the tests of this folder; those that break it bring it up again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from broker.devstack.stack import DevStack


@pytest.fixture(scope="package")
def shared_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    stack = DevStack(tmp_path_factory.mktemp("spire") / "dev", say=print)
    try:
        yield stack
    finally:
        stack.down(purge=True)


@pytest.fixture
def stack(shared_stack: DevStack) -> DevStack:
    shared_stack.up()
    return shared_stack
