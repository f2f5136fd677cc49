"""`tasklease exec`: run a command with a credential that lives as long as the command.

What always holds: the task ends when the command does, and the command when the task does. The exit code is the
command's own, 128 + N where signal N ended it; 75 when the broker ended the task; 125 when it could not be started,
126 and 127 when the command cannot be executed or found; 2 for bad usage. Should this process be killed with SIGKILL,
the kernel kills the command, and the broker misses the heartbeat and ends the task.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final

import typer

from broker.cli.child import Interrupted, Interruptible, Signals, run_child
from broker.cli.handover import Handover, HandoverError
from broker.cli.output import fail, say
from broker.client import Broker, BrokerError, Outcome, Task

_NOT_STARTED: Final = 125
_NOT_FOUND: Final = 127
_ENDED_BY_BROKER: Final = 75  # EX_TEMPFAIL
_DURATION: Final = re.compile(r"(?:(\d{1,4})h)?(?:(\d{1,6})m)?(?:(\d{1,8})s)?")
_PREFIX: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What is to be done."""

    command: Sequence[str]
    task_type: str
    roles: Sequence[str]
    intent: str
    environment: str
    deadline: timedelta | None
    grace: timedelta
    handover: Handover


def exec_command(
    command: Annotated[list[str], typer.Argument(help="The command, after --.")],
    task: Annotated[str, typer.Option("--task", help="Task type, as in the catalog.")],
    role: Annotated[list[str], typer.Option("--role", help="Credential role; may be given several times.")],
    intent: Annotated[str, typer.Option(help="What it is for; the command's name without it.")] = "",
    environment: Annotated[str, typer.Option(help="Environment; the task type's without it.")] = "",
    deadline: Annotated[str, typer.Option(help="End after this long, as in 90s or 1h30m.")] = "",
    env_prefix: Annotated[
        str,
        typer.Option(help="Variables <PREFIX>_HOST, <PREFIX>_USERNAME, ... instead of the usual names."),
    ] = "",
    file: Annotated[
        Path | None,
        typer.Option(help="No variables: all as JSON in this new file, with mode 0600, removed at the end."),
    ] = None,
    files: Annotated[
        Path | None,
        typer.Option(help="No variables: a new folder of files <role>/<field>, removed at the end."),
    ] = None,
    private_file: Annotated[
        bool,
        typer.Option("--private-file", help="As --file, in memory; TASKLEASE_CREDENTIALS says where."),
    ] = False,
    grace: Annotated[
        str, typer.Option(help="From SIGTERM to SIGKILL, when the broker ends the task first.")
    ] = "10s",
) -> None:
    """Run COMMAND with a credential in its environment; the task ends when the command does, whatever way."""
    if not command:
        fail("give a command, after --", code=2)
    if sum(map(bool, (env_prefix, file, files, private_file))) > 1:
        fail("--env-prefix, --file, --files and --private-file exclude each other", code=2)
    if env_prefix and not _PREFIX.fullmatch(env_prefix):
        fail("--env-prefix: letters, digits and _, not a digit first", code=2)
    if len(set(role)) != len(role):
        fail("--role: each role once", code=2)
    plan = _Plan(
        command=command,
        task_type=task,
        roles=role,
        intent=intent or f"run {Path(command[0]).name}",
        environment=environment,
        deadline=_duration(deadline, "--deadline") if deadline else None,
        grace=_duration(grace, "--grace"),
        handover=Handover(env_prefix=env_prefix, file=file, files=files, private_file=private_file),
    )
    if shutil.which(command[0]) is None:
        fail(f"there is no command {command[0]!r}", code=_NOT_FOUND)
    signals = Signals()
    try:
        code = asyncio.run(_run(plan, signals))
    except Interrupted as interruption:
        fail(str(interruption), code=interruption.exit_code)
    except (BrokerError, HandoverError) as error:
        fail(str(error), code=_NOT_STARTED)
    raise typer.Exit(code)


async def _run(plan: _Plan, signals: Signals) -> int:
    with Interruptible(signals) as interruptible:
        async with (
            Broker.connect() as broker,
            broker.task(
                plan.task_type,
                intent=plan.intent,
                roles=plan.roles,
                environment=plan.environment,
                deadline=plan.deadline,
                cancel_on_end=False,
            ) as task,
        ):
            credentials = [await task.acquire(role) for role in plan.roles]
            with plan.handover.given(credentials) as extra:
                code, stopped = await run_child(
                    plan.command,
                    environment={**os.environ, **extra},
                    signals=signals,
                    stop=task.ended,
                    on_stop=lambda: say(f"{_why(task)}: stopping the command"),
                    grace=plan.grace,
                )
            interruptible.finish()
            if code != 0:
                task.say_outcome(Outcome.FAILED, f"the command ended with exit code {code}")
            return _ENDED_BY_BROKER if stopped else code


def _why(task: Task) -> str:
    return f"the broker ended task {task.task_id}" + (f" ({task.end_cause})" if task.end_cause else "")


def _duration(text: str, option: str) -> timedelta:
    parts = _DURATION.fullmatch(text)
    hours, minutes, seconds = (int(part or 0) for part in parts.groups()) if parts else (0, 0, 0)
    duration = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    if duration <= timedelta():
        fail(f"{option}: give a duration such as 90s or 10m", code=2)
    return duration
