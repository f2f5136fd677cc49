"""`tasklease launch` among the other commands. Typed alone it never comes here: see `main`."""

from __future__ import annotations

from typing import Annotated

import typer

from broker.cli import launch_instance


def launch(
    words: Annotated[
        list[str], typer.Argument(metavar="CLASS -- COMMAND", help="See tasklease launch --help.")
    ],
) -> None:
    """Run COMMAND as a new instance of an agent class: with a SPIFFE ID of its own, for as long as it runs.

    Ends with the command's exit code. Options stand before CLASS; typed alone, --help shows them all.
    """
    raise typer.Exit(launch_instance.main(words))
