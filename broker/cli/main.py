"""Assembles `tasklease` from its nouns."""

from __future__ import annotations

import sys

import typer

from broker import __version__
from broker.cli import audit, catalog, demo, dev, health, serve, workload
from broker.cli.exec import exec_command

app = typer.Typer(
    name="tasklease",
    help="Tasklease: credentials for AI agents that live as long as the task.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(dev.app, name="dev")
app.add_typer(catalog.app, name="catalog")
app.add_typer(workload.app, name="workload")
app.add_typer(audit.app, name="audit")
app.command("serve")(serve.serve)
app.command("exec", context_settings={"allow_interspersed_args": False})(exec_command)
app.command("demo")(demo.demo)
app.command("health")(health.health)


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def main() -> None:
    """Run the command."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
