"""One stack for the tests of this folder, without a broker: they take its part."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from broker.devstack.stack import DevStack


@pytest.fixture(scope="package")
def shared_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    stack = DevStack(tmp_path_factory.mktemp("vault") / "dev", say=print)
    try:
        yield stack
    finally:
        stack.down(purge=True)


@pytest.fixture
def stack(shared_stack: DevStack) -> DevStack:
    """Everything up, and Vault as the sample catalog has it."""
    shared_stack.up(with_broker=False)
    shared_stack.spire.wait_for_identity(shared_stack.spire.register_broker())
    return shared_stack
