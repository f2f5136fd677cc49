"""`tasklease dev`: the whole stack on this machine, for development."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from broker.cli.output import err, fail, out, say
from broker.devstack import parts as devparts
from broker.devstack.instances import InstanceError
from broker.devstack.spire import AGENT, SERVER, SpireError
from broker.devstack.stack import PARTS, DevStack, StackError
from broker.devstack.state import StateError
from broker.devstack.waiting import NotHealthyError

app = typer.Typer(help="Run SPIRE, Vault, PostgreSQL and a broker on loopback.", no_args_is_help=True)

StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state",
        envvar="TASKLEASE_DEV_STATE",
        help="State folder (root: /var/lib/tasklease/dev, else below $XDG_STATE_HOME).",
    ),
]


@contextmanager
def _expected() -> Iterator[None]:
    try:
        yield
    except (
        InstanceError,
        NotHealthyError,
        SpireError,
        StackError,
        StateError,
        devparts.PartMissingError,
    ) as error:
        fail(str(error))


@app.command()
def up(
    state: StateOption = None,
    without_broker: Annotated[bool, typer.Option("--without-broker", help="All but the broker.")] = False,
    replicas: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=8,
            help="So many brokers, which share a database (as before, or 1). State is not moved.",
        ),
    ] = None,
) -> None:
    """Start everything and wait until it is healthy. Twice is harmless."""
    with _expected():
        stack = DevStack(state, say=say)
        began = time.monotonic()
        with err.status("bringing the stack up"):  # moves on a terminal, says nothing elsewhere
            stack.up(with_broker=not without_broker, replicas=replicas)
        say(f"all up after {time.monotonic() - began:.1f} s; state in {stack.state.folder}")
        for name, value in stack.agent_environment().items():
            out.print(f"export {name}={value}")


@app.command()
def status(state: StateOption = None) -> None:
    """Show each part; exit code 1 unless all are healthy."""
    with _expected():
        found = DevStack(state).status()
    table = Table("part", "pid", "address", "health", box=None)
    for part in found:
        health = (
            "[green]healthy[/]" if part.healthy else "[red]not healthy[/]" if part.pid else "[dim]stopped[/]"
        )
        table.add_row(part.name, str(part.pid or "-"), part.address or "-", health)
    out.print(table)
    if not all(part.healthy for part in found):
        raise typer.Exit(1)


@app.command()
def logs(
    part: Annotated[str, typer.Argument(help=f"One of {', '.join(PARTS)}, broker-2 …; all without it.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they grow.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many lines of each.")] = 40,
    state: StateOption = None,
) -> None:
    """Show the parts' logs."""
    stack = DevStack(state)
    if part and part not in stack.parts:
        fail(f"there is no part {part!r}: give one of {', '.join(stack.parts)}", code=2)
    files = [file for file in stack.log_files([part] if part else ()) if file.exists()]
    if not files:
        fail("there are no logs yet: tasklease dev up")
    os.execvp("tail", ["tail", f"-n{lines}", *(["-F"] if follow else []), *map(str, files)])  # noqa: S606, S607  # noqa: S606, S607


@app.command()
def down(
    state: StateOption = None,
    purge: Annotated[bool, typer.Option("--purge", help="Delete the state as well.")] = False,
) -> None:
    """Stop everything that `up` started."""
    with _expected():
        DevStack(state, say=say).down(purge=purge)
    say("all stopped" + (", state deleted" if purge else ""))


@app.command("parts")
def parts_() -> None:
    """Find or get the binaries, and say where they are."""
    with _expected():
        found = DevStack(say=say).find_parts()
    for name, path in found.items():
        out.print(f"{name}: {path}")


@app.command("agent", context_settings={"allow_interspersed_args": False})
def agent(
    agent_class: Annotated[str, typer.Argument(help="Agent class, as in the catalog.")],
    command: Annotated[list[str], typer.Argument(help="The command, after --.")],
    name: Annotated[str, typer.Option(help="Name of the instance; one is made up without it.")] = "",
    state: StateOption = None,
) -> None:
    """Run COMMAND as a new agent instance of the development stack, with an SVID of its own."""
    words = command[1:] if command[:1] == ["--"] else command
    if not words or shutil.which(words[0]) is None:
        fail(f"there is no command {words[0]!r}" if words else "give a command, after --", code=2)
    with _expected():
        stack = DevStack(state, say=say)
        if not stack.is_running(SERVER) or not stack.is_running(AGENT):
            fail("SPIRE is not running: tasklease dev up")
        code = stack.instances.run(
            agent_class,
            words,
            instance=name,
            environment={**os.environ, **stack.agent_environment()},
            started=lambda entry: say(f"instance {entry.spiffe_id}"),
        )
    raise typer.Exit(code)
