"""What commands print: results to standard output, everything about them to standard error."""

from __future__ import annotations

from typing import NoReturn

import typer
from rich.console import Console
from rich.text import Text

out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def say(text: str) -> None:
    """One line of progress."""
    err.print(Text(text, style="dim"))


def fail(text: str, *, code: int = 1) -> NoReturn:
    """Say what went wrong, and end with `code`."""
    err.print(Text("error: ", style="bold red") + Text(text))
    raise typer.Exit(code)
