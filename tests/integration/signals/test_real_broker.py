"""Tokens at the door of a whole broker: who brings one shows nothing, and what is refused is refused as the standard has it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.https import Connection, Reply, connected
from tests.integration.signals.conftest import events_port
from tests.threats.world import World, until
from tests.unit.https.pushing import CONTENT_TYPE
from tests.unit.jose.sets import ISSUER, a_set, jwk, write_jwks

UNLISTED = {"format": "uri", "uri": "spiffe://dev.tasklease.test/agent/unlisted/one"}


@pytest.fixture
def door(world: World) -> Iterator[Connection]:
    address = f"127.0.0.1:{events_port(world.stack.broker)}"
    with connected(address, authorities=world.svid().authorities, svid=None) as one:
        yield one


def push(door: Connection, token: str) -> Reply:
    return door.ask("POST", "/events", token.encode(), {"Content_Type": CONTENT_TYPE})


def a_token(**changed: Any) -> str:
    return a_set(**{"iat": int(time.time()), "sub_id": UNLISTED, **changed})


def refused(world: World, jti: str) -> list[dict[str, Any]]:
    rows = world.rows("SELECT facts FROM audit_records WHERE kind = 'signal.received' AND actor = ?", ISSUER)
    return [found for (facts,) in rows if (found := json.loads(facts))["event"] == jti]


def test_an_issuers_word_about_nobody_is_refused_and_written_down(world: World, door: Connection) -> None:
    reply = push(door, a_token(jti="about-nobody"))
    assert (reply.status, reply.body["err"]) == (400, "access_denied")
    (facts,) = refused(world, "about-nobody")
    assert (facts["refused"], facts["key_id"]) == ("access_denied", "ES256")


@pytest.mark.parametrize(
    ("changed", "err"),
    [
        ({"iss": "https://evil.test"}, "invalid_issuer"),
        ({"aud": "https://another.test"}, "invalid_audience"),
        ({"iat": 1}, "invalid_request"),
        ({"header": {"kid": "none"}}, "invalid_key"),
        ({"header": {"typ": "JWT"}}, "invalid_request"),
    ],
)
def test_what_is_no_token_for_this_broker_is_refused_and_leaves_nothing(
    world: World, door: Connection, changed: dict[str, Any], err: str
) -> None:
    reply = push(door, a_token(jti="for-nobody", **changed))
    assert (reply.status, reply.body["err"]) == (400, err)
    assert not refused(world, "for-nobody")


def test_nothing_else_is_behind_that_door(world: World, door: Connection) -> None:
    for path in ("/access/v1/evaluation", "/metrics", "/broker.api.v1.SignalService/ReportSignal"):
        assert door.post(path, {}).status == 404


def test_what_cannot_be_written_down_is_to_be_sent_again(world: World, door: Connection) -> None:
    with world.store_unavailable():
        reply = push(door, a_token(jti="not-durable"))
    assert (reply.status, reply.reason) == (503, "STORE_UNAVAILABLE")
    assert push(door, a_token(jti="not-durable")).status == 400


def test_a_key_that_leaves_the_file_counts_no_more(world: World, door: Connection, jwks: Path) -> None:
    assert push(door, a_token()).body["err"] == "access_denied"
    write_jwks(jwks, jwk("EdDSA"))
    try:
        until(lambda: push(door, a_token()).body["err"] == "invalid_key", "forgotten", patience=20)
    finally:
        write_jwks(jwks)
