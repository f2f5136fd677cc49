"""A transmitter as there are many: an ordinary HTTPS client, over TCP, that trusts an authority and shows nothing."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from tests.unit.https.doors import Door, Limits
from tests.unit.https.pushing import CONTENT_TYPE, Events
from tests.unit.server.served import Authority


@pytest_asyncio.fixture
async def events() -> AsyncIterator[Events]:
    with tempfile.TemporaryDirectory(prefix="tl-") as name:
        folder = Path(name)
        found = Events(Door(folder, Authority(), Limits()), folder, Limits(), "127.0.0.1:0")
        await found.start()
        yield found
        await found.door.stop(timedelta(seconds=1))


def trusting(events: Events) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=events.behind.authority.pem.decode())
    return context


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "EdDSA"])
async def test_a_push_is_acknowledged_as_the_standard_has_it(events: Events, algorithm: str) -> None:
    connector = aiohttp.TCPConnector(ssl=trusting(events))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.post(
            f"https://127.0.0.1:{events.door.port}/events",
            data=events.a_set(algorithm),
            headers={"Content-Type": CONTENT_TYPE, "Accept": "application/json"},
            server_hostname="tasklease-broker",
        ) as response,
    ):
        assert (response.status, await response.read()) == (202, b"")
    assert len(events.answers.recorded) == 1


async def test_several_pushes_share_a_connection_and_a_refusal_does_not_end_it(events: Events) -> None:
    connector = aiohttp.TCPConnector(ssl=trusting(events), limit=1)
    statuses = []
    async with aiohttp.ClientSession(connector=connector) as session:
        for body in (events.a_set(), "no token", events.a_set(jti="event-2")):
            async with session.post(
                f"https://127.0.0.1:{events.door.port}/events",
                data=body,
                headers={"Content-Type": CONTENT_TYPE},
                server_hostname="tasklease-broker",
            ) as response:
                statuses.append(response.status)
                assert response.headers["Cache-Control"] == "no-store"
    assert statuses == [202, 400, 202]


async def test_a_client_that_speaks_no_tls_is_not_heard(events: Events) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.post(f"http://127.0.0.1:{events.door.port}/events", data=events.a_set())
    assert not events.answers.asked
