"""Stands on loopback between the broker and a server, and can keep to itself what either says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto


class Mode(Enum):
    """What is passed on."""

    ALL = auto()
    NOTHING = auto()
    QUESTIONS = auto()
    """The server is asked; its answer is lost, and the connection with it."""


class Relay:
    """Passes bytes between whoever connects and one port."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._mode = Mode.ALL
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._work: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
        for work in self._work:
            work.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)

    @contextmanager
    def passing(self, mode: Mode) -> Iterator[None]:
        self._mode = mode
        try:
            yield
        finally:
            self._mode = Mode.ALL

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        self._writers |= {writer, back}
        for source, sink, kept in (
            (reader, back, {Mode.NOTHING}),
            (there, writer, {Mode.NOTHING, Mode.QUESTIONS}),
        ):
            work = asyncio.create_task(self._pass_on(source, sink, kept))
            self._work.add(work)

    async def _pass_on(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, kept: set[Mode]
    ) -> None:
        try:
            while data := await source.read(65536):
                if self._mode not in kept:
                    sink.write(data)
                    await sink.drain()
                elif self._mode is Mode.QUESTIONS:
                    break
        except OSError:
            pass  # one side went away: so does the other
        finally:
            sink.close()
