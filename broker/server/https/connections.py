"""The connections of an HTTPS door: how many there are, how long they may idle, and what is no HTTP."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final

from aiohttp import web

from broker.server.https import answers

_MOST_CONNECTIONS: Final = 4096
_IDLE: Final = timedelta(seconds=30)
"""Until the headers of the next request are whole, from the one before or from the start."""
_FOR_A_HANDSHAKE: Final = timedelta(seconds=5)
_FOR_THE_REST: Final = timedelta(seconds=1)
"""How long what is still sent of a refused body is taken, so that the answer is read."""

_silent: Final = logging.getLogger(f"{__name__}.library")
"""The library would log what a client sent."""
_silent.setLevel(logging.CRITICAL + 1)


class _Connection(web.RequestHandler):
    """The library's, with an answer of ours to what is no HTTP."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002
        status: int = 500,
        exc: BaseException | None = None,  # noqa: ARG002
        message: str | None = None,  # noqa: ARG002
    ) -> web.StreamResponse:
        """Nothing of what was sent is said again."""
        return answers.malformed(status)


class _Closing(asyncio.Protocol):
    """For a connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close it."""
        transport.close()


class Connections:
    """Listens, and hands each request to `handle`. Of one event loop."""

    def __init__(self, handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = web.Server(handle)
        self._listener: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """Where it listens; 0 for a socket of Unix's."""
        sockets = self._listener.sockets if self._listener is not None else ()
        return next((one.getsockname()[1] for one in sockets if one.family != socket.AF_UNIX), 0)

    async def listen(self, address: str, tls: ssl.SSLContext) -> None:
        """Accept connections at `HOST:PORT`, or `unix:PATH`.

        Raises:
            OSError: it cannot be listened on.
        """
        within = _FOR_A_HANDSHAKE.total_seconds()
        if address.startswith("unix:"):
            self._listener = await self._loop.create_unix_server(
                self._next, address.removeprefix("unix:"), ssl=tls, ssl_handshake_timeout=within
            )
            return
        host, _, port = address.rpartition(":")
        self._listener = await self._loop.create_server(
            self._next, host.strip("[]"), int(port), ssl=tls, ssl_handshake_timeout=within
        )

    async def close(self, grace: timedelta) -> None:
        """Accept no more; let what is under way finish within `grace`."""
        if self._listener is not None:
            self._listener.close()
        self._server.pre_shutdown()
        await self._server.shutdown(grace.total_seconds())

    def _next(self) -> asyncio.Protocol:
        if len(self._server.connections) >= _MOST_CONNECTIONS:
            return _Closing()
        return _Connection(
            self._server,
            loop=self._loop,
            keepalive_timeout=_IDLE.total_seconds(),
            logger=_silent,
            access_log=_silent,
            lingering_time=_FOR_THE_REST.total_seconds(),
            auto_decompress=False,
        )
