"""A channel over a unix socket: to SPIRE's server itself, or to where `tcp_channel` does the TLS."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Final

import grpc.aio

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.enable_http_proxy", 0),
    # A server that was away is tried again at once, by each new channel and soon by this one.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


@contextlib.asynccontextmanager
async def unix_channel(path: str) -> AsyncIterator[grpc.aio.Channel]:
    """The server's own socket: whoever can open it may register."""
    async with grpc.aio.insecure_channel(f"unix:{path}", options=_OPTIONS) as channel:
        yield channel
