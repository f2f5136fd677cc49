"""Assembles `tasklease` from its nouns.

Only the noun that is asked for is imported: the others' libraries would take longer than most commands.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Final

from broker import __version__

if TYPE_CHECKING:
    import typer

_GROUPS: Final = (
    "dev",
    "catalog",
    "policy",
    "access",
    "workload",
    "instance",
    "lease",
    "anomaly",
    "signals",
    "audit",
)
"""Nouns with commands of their own: `app` in the module of that name."""

_COMMANDS: Final = {
    "serve": "broker.cli.serve:serve",
    "exec": "broker.cli.exec:exec_command",
    "demo": "broker.cli.demo:demo",
    "health": "broker.cli.health:health",
    "launch": "broker.cli.launch_command:launch",
    "pool": "broker.cli.pool:pool",
}
_SETTINGS: Final[dict[str, dict[str, object]]] = {
    # What follows the words of `exec` is the command's.
    "exec": {"allow_interspersed_args": False},
    # Reads its words itself.
    "launch": {"ignore_unknown_options": True, "allow_interspersed_args": False},
}
_NAMES: Final = (*_GROUPS, *_COMMANDS)


def assemble(names: Iterable[str] = _NAMES) -> typer.Typer:
    """The command line with those nouns, all when none is named."""
    import typer  # noqa: PLC0415 - `launch` does without

    app = typer.Typer(
        name="tasklease",
        help="Tasklease: credentials for AI agents that live as long as the task.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name in names:
        if name in _GROUPS:
            app.add_typer(import_module(f"broker.cli.{name}").app, name=name)
        else:
            module, _, function = _COMMANDS[name].partition(":")
            settings = _SETTINGS.get(name)
            app.command(name, context_settings=settings)(getattr(import_module(module), function))
    app.command()(version)
    return app


def version() -> None:
    """Print the version."""
    print(__version__)


def main() -> None:
    """Run the command."""
    asked = sys.argv[1:2]
    if asked == ["launch"]:  # agents wait for it: nothing is loaded that it does not need
        from broker.cli import launch_instance  # noqa: PLC0415

        sys.exit(launch_instance.main(sys.argv[2:]))
    app = assemble(asked) if asked and asked[0] in _NAMES else assemble()
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
