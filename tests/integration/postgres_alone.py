"""A real PostgreSQL without the rest of the stack."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker.devstack import postgres
from broker.devstack.stack import DevStack


@contextmanager
def postgres_alone(folder: Path) -> Iterator[DevStack]:
    stack = DevStack(folder, say=print)
    try:
        with stack.state.locked():
            stack.state.make()
            stack.start_part(postgres.NAME)
        yield stack
    finally:
        stack.down(purge=True)
