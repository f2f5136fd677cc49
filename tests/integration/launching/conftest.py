"""One SPIRE for the tests of this folder; each test has a node of its own, and leaves it clean."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.devstack.stack import DevStack
from tests.integration.launching.node import Node, eventually
from tests.integration.registry.spire_alone import spire_alone


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    with spire_alone(tmp_path_factory.mktemp("launching") / "dev", agent=True) as stack:
        yield stack


@pytest.fixture
def node(stack: DevStack, tmp_path: Path) -> Iterator[Node]:
    node = Node(stack, tmp_path)
    yield node
    node.kill_launchers()
    node.write(ready=0)
    if not node.is_clean():  # pools leave what waits to the next of them
        for identity in node.identities():
            stack.spire.delete(identity.entry_id) if identity.entry_id in node.entries() else None
    eventually(lambda: not node.entries() and not node.groups_in_use() and not node.processes())
