"""`tasklease exec` as a real process, with a scripted broker and Workload API around it; and the real stack."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.unit.client.authority import AGENT_ID, Authority
from tests.unit.client.fake_broker import FakeBroker
from tests.unit.client.workload_api import WorkloadApi

PROGRAM = (sys.executable, "-m", "broker")
WORDS = ("exec", "--task", "reconcile", "--role", "orders")


class Exec:
    """Starts `tasklease exec`, and looks at what it and its command do."""

    def __init__(self, fake: FakeBroker, api: WorkloadApi, folder: Path) -> None:
        self.fake = fake
        self.folder = folder
        self.environment = {
            **os.environ,
            "TASKLEASE_BROKER": fake.address,
            "SPIFFE_ENDPOINT_SOCKET": api.address,
        }
        self._started: list[asyncio.subprocess.Process] = []

    async def start(
        self,
        *command: str,
        words: tuple[str, ...] = WORDS,
        nohup: bool = False,
        program: tuple[str, ...] = PROGRAM,
    ) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *(["nohup"] if nohup else []),
            *program,
            *words,
            "--",
            *command,
            env=self.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            process_group=0,  # as a shell starts it: a stop signal means nothing in a group that nobody could continue
        )
        self._started.append(process)
        return process

    async def run(
        self, *command: str, words: tuple[str, ...] = WORDS, program: tuple[str, ...] = PROGRAM
    ) -> tuple[int, str, str]:
        """Its exit code, output and errors."""
        process = await self.start(*command, words=words, program=program)
        async with asyncio.timeout(30):
            out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def shell(self, script: str, words: tuple[str, ...] = WORDS) -> asyncio.subprocess.Process:
        """Start a shell script that says `ready` when it is; wait for that."""
        process = await self.start("sh", "-c", script, words=words)
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 15) == b"ready\n"
        return process

    async def stop(self) -> None:
        for process in self._started:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGKILL)
                await process.communicate()


async def eventually(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not what():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tl-") as name:
        yield Path(name)


@pytest_asyncio.fixture
async def tasklease(socket_folder: Path, tmp_path: Path) -> AsyncIterator[Exec]:
    authority = Authority()
    api = WorkloadApi(socket_folder / "agent.sock")
    api.give(authority.svid(AGENT_ID))
    fake = FakeBroker(authority, socket_folder / "broker.sock")
    await fake.start()
    runner = Exec(fake, api, tmp_path)
    # Whoever runs the tests may ignore them, as nohup and a shell's & do, and the command would inherit that.
    before = {
        number: signal.signal(number, how)
        for number, how in (
            (signal.SIGHUP, signal.SIG_DFL),
            (signal.SIGQUIT, signal.SIG_DFL),
            (signal.SIGINT, signal.default_int_handler),
        )
    }
    yield runner
    for number, how in before.items():
        signal.signal(number, how)
    await runner.stop()
    await fake.stop()
    api.break_streams()
    await asyncio.to_thread(api.server.stop(0).wait)
