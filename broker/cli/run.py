"""`tasklease exec`: run a command with a credential that lives as long as the command."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import re
import secrets
import shutil
import signal
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final

import typer

from broker.cli.output import fail, say
from broker.client import Broker, BrokerError, Credential, NoIdentity, Task, TaskEnded

_FORWARDED: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_GRACE: Final = 10.0
_PR_SET_PDEATHSIG: Final = 1
_ENDED_BY_BROKER: Final = 75  # EX_TEMPFAIL
_DURATION: Final = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def run(
    command: Annotated[list[str], typer.Argument(help="The command, after --.")],
    task: Annotated[str, typer.Option("--task", help="Task type, as in the catalog.")],
    role: Annotated[list[str], typer.Option("--role", help="Credential role; may be given several times.")],
    intent: Annotated[str, typer.Option(help="What it is for; the command's name without it.")] = "",
    environment: Annotated[str, typer.Option(help="Environment; the task type's without it.")] = "",
    deadline: Annotated[str, typer.Option(help="At most so long, as in 90s or 10m.")] = "",
    file: Annotated[
        bool,
        typer.Option(
            "--file",
            help="Put credentials into a JSON file named by TASKLEASE_CREDENTIALS, not the environment.",
        ),
    ] = False,
) -> None:
    """Run COMMAND with a credential in its environment; the task ends when the command does, whatever way."""
    if not command:
        fail("give a command, after --", code=2)
    if shutil.which(command[0]) is None:
        fail(f"there is no command {command[0]!r}", code=127)
    try:
        code = asyncio.run(
            _run(command, task, role, intent or Path(command[0]).name, environment, deadline, file)
        )
    except NoIdentity as error:
        fail(str(error))
    except TaskEnded as error:
        fail(str(error), code=_ENDED_BY_BROKER)
    except BrokerError as error:
        fail(str(error))
    raise typer.Exit(code)


class _CommandFailedError(Exception):
    """Makes the task end as failed; holds the exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


async def _run(  # noqa: PLR0913, PLR0917 - the options
    command: Sequence[str],
    task_type: str,
    roles: Sequence[str],
    intent: str,
    environment: str,
    deadline: str,
    as_file: bool,
) -> int:
    async with Broker.connect() as broker:
        declared = broker.task(
            task_type,
            intent=intent,
            roles=roles,
            environment=environment,
            deadline=_duration(deadline),
            cancel_on_end=False,
        )
        try:
            async with declared as task:
                credentials = [await task.acquire(role) for role in roles]
                async with _environment(credentials, as_file=as_file) as extra:
                    code = await _command(command, {**os.environ, **extra}, task)
                if task.ended.is_set():
                    message = f"task {task.task_id} was ended by the broker ({task.end_cause or 'unknown'})"
                    raise TaskEnded(message)
                if code != 0:
                    raise _CommandFailedError(code)
        except _CommandFailedError as failed:
            return failed.code
    return 0


async def _command(command: Sequence[str], environment: dict[str, str], task: Task) -> int:
    """Run the command to its end; stop it when the task is ended under it. 128 + signal when a signal ended it."""
    parent = os.getpid()
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, preexec_fn=lambda: _die_with(parent)
    )
    loop = asyncio.get_running_loop()
    for how in _FORWARDED:
        loop.add_signal_handler(how, _forward, process, how)
    ended = asyncio.ensure_future(task.ended.wait())
    over = asyncio.ensure_future(process.wait())
    try:
        await asyncio.wait({ended, over}, return_when=asyncio.FIRST_COMPLETED)
        if not over.done():
            say("the broker ended the task: stopping the command")
            _forward(process, signal.SIGTERM)
            await asyncio.wait({over}, timeout=_GRACE)
            if not over.done():
                _forward(process, signal.SIGKILL)
        code = await over
    finally:
        ended.cancel()
        for how in _FORWARDED:
            loop.remove_signal_handler(how)
    return code if code >= 0 else 128 - code


def _forward(process: asyncio.subprocess.Process, how: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(how)


def _die_with(parent: int) -> None:
    """In the child, before exec: be killed when the parent is, so that no command outlives its task unwatched."""
    if ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) == 0 and os.getppid() != parent:
        os._exit(1)


@contextlib.asynccontextmanager
async def _environment(credentials: Sequence[Credential], *, as_file: bool) -> AsyncIterator[dict[str, str]]:
    """The variables that the command is given, and the file behind them for as long as it runs."""
    if not as_file:
        yield {name: value for credential in credentials for name, value in credential.environment().items()}
        return
    memory = Path("/dev/shm")  # noqa: S108 - a folder of our own below it, that nobody else may enter
    folder = (memory if memory.is_dir() else Path("/tmp")) / f"tasklease-{secrets.token_hex(8)}"  # noqa: S108
    folder.mkdir(mode=0o700)
    try:
        path = folder / "credentials.json"
        content = {
            credential.role: {
                "host": credential.host,
                "port": credential.port,
                "scheme": credential.scheme,
                **{name: value.reveal() for name, value in credential.items()},
            }
            for credential in credentials
        }
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(content, file)
        yield {"TASKLEASE_CREDENTIALS": str(path)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _duration(text: str) -> timedelta | None:
    if not text:
        return None
    parts = _DURATION.fullmatch(text)
    hours, minutes, seconds = (int(part or 0) for part in parts.groups()) if parts else (0, 0, 0)
    duration = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    if duration <= timedelta():
        fail("--deadline: give a duration such as 90s or 10m", code=2)
    return duration
