"""`tasklease pool`: keeps identities ready on this node, and ends those that nobody ends. One process a node."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Final

import typer

from broker.adapters.node.doorbell import DONE, SOCKET
from broker.adapters.node.ledger import DEFAULT_FOLDER
from broker.cli.node import EXPECTED, NodeWork, node_work
from broker.cli.output import fail, say

logger = logging.getLogger(__name__)

_ROUND: Final = 0.5
_LONGEST_PAUSE: Final = 10.0


def pool(
    config: Annotated[
        Path, typer.Option("--config", "-c", envvar="TASKLEASE_CONFIG", help="The broker's configuration.")
    ],
    state: Annotated[
        Path,
        typer.Option(envvar="TASKLEASE_NODE_STATE", help="Folder of the node's ledger: root's alone."),
    ] = DEFAULT_FOLDER,
    parent: Annotated[
        str,
        typer.Option(help="SPIFFE ID, or its path, of this node's SPIRE agent. Default: registry.parent."),
    ] = "",
    once: Annotated[
        bool, typer.Option("--once", help="End what was left behind, renew what lives, and stop.")
    ] = False,
) -> None:
    """Keep identities ready for `tasklease launch`, as many as each class of the catalog says. Needs root."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        code = asyncio.run(_once(config, state, parent) if once else _serve(config, state, parent))
    except EXPECTED as error:
        fail(str(error))
    raise typer.Exit(code)


async def _once(config: Path, state: Path, parent: str) -> int:
    async with node_work(config, state, parent=parent) as work:
        ended = await work.keep.end_lost()
        ended += await work.keep.trim(work.classes())
        await work.keep.renew(work.classes())
        freed = work.keep.cool_down()
    left = [one for one in ended if one.trouble]
    for one in left:
        say(f"{one.identity.spiffe_id} is left: {one.trouble}")
    say(f"{len(ended) - len(left)} ended, {freed} groups free again, {len(left)} left")
    return 1 if left else 0


async def _serve(config: Path, state: Path, parent: str) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with node_work(config, state, parent=parent) as work:
        with _alone(state):
            await _Pool(work).run(stop)
    return 0


@contextlib.contextmanager
def _alone(state: Path):  # type: ignore[no-untyped-def]  # noqa: ANN202
    lock = os.open(state / "pool.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fail(f"a pool runs in {state} already: there is one on each node")
        yield
    finally:
        os.close(lock)


class _Pool:
    """One that runs."""

    def __init__(self, work: NodeWork) -> None:
        self._work = work
        self._ready: dict[str, int] = {}
        self._said = ""
        self._wakes: list[asyncio.Event] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Rounds and requests, until `stop`."""
        path = self._work.ledger.folder / SOCKET
        path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            server = await asyncio.start_unix_server(self._answer, path)
        finally:
            os.umask(before)
        rounds = [
            asyncio.create_task(self._rounds(self._tidy, name="tidy")),
            # Apart: of what cannot be looked at, a round takes as long as SPIRE may take to tell its agents.
            asyncio.create_task(self._rounds(lambda: self._fill(can_be_probed=True), name="fill")),
            asyncio.create_task(self._rounds(lambda: self._fill(can_be_probed=False), name="fill")),
        ]
        try:
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait({stopped, *rounds}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            server.close()
            path.unlink(missing_ok=True)
            for one in rounds:
                one.cancel()
            await asyncio.gather(*rounds, return_exceptions=True)

    async def _rounds(self, one_round: Callable[[], Awaitable[None]], *, name: str) -> None:
        wake = asyncio.Event()
        self._wakes.append(wake)
        pause = _ROUND
        while True:
            wake.clear()
            try:
                await one_round()
                pause = _ROUND
            except EXPECTED as error:
                pause = min(pause * 2, _LONGEST_PAUSE)
                logger.warning("%s: %s", name, error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wake.wait(), pause)

    async def _tidy(self) -> None:
        for one in await self._work.keep.end_lost():
            if one.trouble:
                logger.warning("%s is left: %s", one.identity.spiffe_id, one.trouble)
        self._work.keep.cool_down()
        classes = self._work.classes()
        await self._work.keep.renew(classes)
        await self._work.keep.trim(classes)

    async def _fill(self, *, can_be_probed: bool) -> None:
        classes = self._work.classes()
        mine = {name: one for name, one in classes.items() if one.can_be_probed is can_be_probed}
        pools = await self._work.keep.fill(mine, holder=self._work.node.myself())
        for name, trouble in pools.trouble.items():
            logger.warning("%s: %s", name, trouble)
        self._ready = {name: count for name, count in self._ready.items() if name in classes} | pools.ready
        said = ", ".join(
            f"{name} {self._ready.get(name, 0)} of {one.ready}" for name, one in classes.items() if one.ready
        )
        if said != self._said:
            self._said = said
            say(f"ready: {said or 'no class wants any'}")

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            match (await reader.readline()).decode().split():
                case ["end", *names]:
                    ended = await self._work.end_named(names)
                    answer = "; ".join(one.trouble for one in ended if one.trouble) or DONE
                case _:
                    answer = "end NAME ..."
        except EXPECTED as error:
            answer = str(error).replace("\n", " ")
        except ValueError:
            answer = "a line that is too long"
        finally:
            for wake in self._wakes:
                wake.set()
        with contextlib.suppress(OSError):
            writer.write(f"{answer}\n".encode())
            await writer.drain()
            writer.close()
            await writer.wait_closed()
