"""`tasklease demo`."""

from __future__ import annotations

import typer
from rich.console import Console

from broker.cli.output import fail
from broker.devstack.parts import PartMissingError
from broker.devstack.spire import SpireError
from broker.devstack.stack import StackError
from broker.devstack.state import StateError
from broker.devstack.waiting import NotHealthyError


def demo() -> None:
    """Watch a credential live and die, on real SPIRE, Vault and PostgreSQL; each claim is checked.

    Exit code 0 only if all of them were true.
    """
    try:
        from broker.demo import story  # noqa: PLC0415 - it alone needs a PostgreSQL driver
    except ModuleNotFoundError as error:
        if error.name != "psycopg":
            raise
        fail("the demo reads rows from PostgreSQL with psycopg: pip install 'psycopg[binary]'", code=2)
    try:
        good = story.run(Console(highlight=False, soft_wrap=True))
    except (
        NotHealthyError,
        PartMissingError,
        SpireError,
        StackError,
        StateError,
        story.DemoFailedError,
    ) as error:
        fail(str(error))
    if not good:
        raise typer.Exit(1)
