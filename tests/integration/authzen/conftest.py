"""One stack for this folder, whose broker's own SVID lives for seconds: everything here happens under rotation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.devstack.stack import DevStack
from tests.integration.server.conftest import a_stack
from tests.threats.world import World


@pytest.fixture(scope="session")
def _stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    with a_stack(tmp_path_factory.mktemp("authzen")) as stack:
        yield stack


@pytest.fixture
def world(_stack: DevStack, tmp_path: Path) -> Iterator[World]:
    """The stack, all of it up; a test that breaks a part leaves it whole."""
    _stack.up()
    yield World(_stack, tmp_path)
    _stack.up()
