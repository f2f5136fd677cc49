"""What a call sends, and what its failures mean: done nothing for sure, or in doubt."""

from __future__ import annotations

import asyncio
import socket
import threading
import traceback
from collections.abc import Iterator
from datetime import timedelta

import pytest

from broker.adapters.vault.connection import VaultCallError, VaultConnection
from broker.domain.secret import Secret
from tests.unit.client.conftest import eventually
from tests.unit.vault.tiny_vault import HANG_UP, Answer, TinyVault, refusal

SOON = timedelta(seconds=5)
TOKEN = Secret("planted-token")
BODY = {"x": "planted-body"}


async def failure(connection: VaultConnection, *, timeout: timedelta = SOON) -> VaultCallError:
    """How a call to `thing` ends."""
    with pytest.raises(VaultCallError) as caught:
        await connection.call("post", "thing", token=TOKEN, body=BODY, timeout=timeout)
    return caught.value


async def test_a_call_carries_its_own_token_and_body_and_the_tasks_id(
    vault: TinyVault, connection: VaultConnection
) -> None:
    vault.on("thing", Answer(body={"data": {"a": 1}}))
    answer = await connection.call(
        "put", "thing", token=TOKEN, body={"x": 1}, correlation="task-1", timeout=SOON
    )
    assert answer == {"data": {"a": 1}}
    (asked,) = vault.asked
    assert (asked.method, asked.path, asked.body) == ("PUT", "/v1/thing", {"x": 1})
    assert asked.token == "planted-token"
    assert asked.headers["x-correlation-id"] == "task-1"
    assert asked.headers["x-vault-request"] == "true"


async def test_a_token_goes_with_its_call_alone(vault: TinyVault, connection: VaultConnection) -> None:
    vault.on("thing", Answer(body={}))
    tokens = [None if number % 3 == 0 else f"token-{number}" for number in range(30)]
    await asyncio.gather(
        *(
            connection.call(
                "post",
                "thing",
                token=None if token is None else Secret(token),
                body={"sent": token},
                timeout=SOON,
            )
            for token in tokens
        )
    )
    assert len(vault.asked) == 30
    assert all(asked.token == asked.body["sent"] for asked in vault.asked)


async def test_the_namespace_is_sent(vault: TinyVault) -> None:
    vault.on("thing", Answer(body={}))
    connection = VaultConnection(address=vault.address, namespace="team")
    await connection.call("get", "thing", token=None, timeout=SOON)
    connection.close()
    assert vault.asked[0].headers["x-vault-namespace"] == "team"


async def test_an_answer_without_content_is_empty(vault: TinyVault, connection: VaultConnection) -> None:
    vault.on("thing", Answer(status=204))
    assert await connection.call("post", "thing", token=TOKEN, timeout=SOON) == {}


@pytest.mark.parametrize("status", [400, 403, 404, 405, 412, 429])
async def test_a_refusal_did_nothing(vault: TinyVault, connection: VaultConnection, status: int) -> None:
    vault.on("thing", refusal(status, "planted words"))
    error = await failure(connection)
    assert (error.status, error.refused) == (status, True)
    assert error.says("planted")
    assert not error.says("other")


@pytest.mark.parametrize("status", [307, 500, 502, 503, 504])
async def test_any_other_status_is_in_doubt(
    vault: TinyVault, connection: VaultConnection, status: int
) -> None:
    vault.on("thing", refusal(status, "Vault is sealed"))
    error = await failure(connection)
    assert (error.status, error.refused) == (status, False)


async def test_a_call_that_reached_nobody_did_nothing(socket_enabled: None) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        connection = VaultConnection(address=f"http://127.0.0.1:{taken.getsockname()[1]}")
        error = await failure(connection)
        connection.close()
    assert (error.status, error.refused) == (None, True)


@pytest.fixture
def full() -> Iterator[str]:
    """An address that lets no connection come about, and refuses none."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        for _ in range(4):  # more than its queue holds: what comes now is not answered
            client = socket.socket()
            client.settimeout(0)
            client.connect_ex(listener.getsockname())
            waiting.append(client)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        for client in waiting:
            client.close()


async def test_a_connection_that_does_not_come_about_in_time_did_nothing(
    socket_enabled: None, full: str
) -> None:
    connection = VaultConnection(address=full)
    error = await failure(connection, timeout=timedelta(seconds=0.3))
    connection.close()
    assert (error.status, error.refused) == (None, True)


async def test_no_answer_in_time_is_in_doubt(vault: TinyVault, connection: VaultConnection) -> None:
    late = threading.Event()
    vault.on("thing", Answer(body={}, after=late))
    error = await failure(connection, timeout=timedelta(seconds=0.2))
    late.set()
    assert len(vault.asked) == 1
    assert (error.status, error.refused) == (None, False)


async def test_a_connection_that_is_lost_is_in_doubt_and_not_tried_again(
    vault: TinyVault, connection: VaultConnection
) -> None:
    vault.on("thing", Answer(body={}), HANG_UP)
    await connection.call("post", "thing", token=TOKEN, timeout=SOON)
    error = await failure(connection)
    assert (error.status, error.refused) == (None, False)
    assert len(vault.asked) == 2


@pytest.mark.parametrize("status", [200, 403, 502])
async def test_an_answer_that_is_no_json_is_in_doubt(
    vault: TinyVault, connection: VaultConnection, status: int
) -> None:
    vault.on("thing", Answer(status=status, raw=b"<html>planted</html>"))
    assert not (await failure(connection)).refused


@pytest.mark.parametrize("body", [[], "text", 7])
async def test_an_answer_that_is_no_object_is_in_doubt(
    vault: TinyVault, connection: VaultConnection, body: object
) -> None:
    vault.on("thing", Answer(body=body))
    assert not (await failure(connection)).refused


@pytest.mark.parametrize("errors", [None, "text", 7, {"a": "b"}, [None, 7]])
async def test_errors_of_any_shape_are_a_refusal_all_the_same(
    vault: TinyVault, connection: VaultConnection, errors: object
) -> None:
    vault.on("thing", Answer(status=400, body={"errors": errors}))
    error = await failure(connection)
    assert error.refused
    assert not error.says("text")


async def test_no_error_shows_what_was_sent_or_what_vault_said(
    vault: TinyVault, connection: VaultConnection
) -> None:
    vault.on(
        "thing",
        refusal(500, "planted words"),
        Answer(status=400, raw=b"planted words"),
        HANG_UP,
    )
    for _ in range(3):
        error = await failure(connection)
        shown = "".join(traceback.format_exception(error))
        assert "POST thing" in shown
        assert "planted" not in str(error) + repr(error) + shown


async def test_a_redirect_is_not_followed(vault: TinyVault, connection: VaultConnection) -> None:
    vault.on("thing", Answer(status=307, headers={"location": f"{vault.address}/v1/elsewhere"}))
    vault.on("elsewhere", Answer(body={}))
    assert (await failure(connection)).status == 307
    assert not vault.on_path("elsewhere")


async def test_the_environment_sends_no_call_elsewhere(
    vault: TinyVault, connection: VaultConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("VAULT_ADDR", "VAULT_NAMESPACE", "VAULT_TOKEN"):
        monkeypatch.setenv(name, "planted")
    vault.on("thing", Answer(body={}))
    await connection.call("get", "thing", token=None, timeout=SOON)
    (asked,) = vault.asked
    assert not {"x-vault-token", "x-vault-namespace"} & set(asked.headers)


async def test_calls_that_issue_do_not_hold_up_those_that_revoke(
    vault: TinyVault, connection: VaultConnection
) -> None:
    late = threading.Event()
    vault.on("slow", Answer(body={}, after=late))
    vault.on("quick", Answer(body={}))
    slow = [asyncio.create_task(connection.call("get", "slow", token=TOKEN, timeout=SOON)) for _ in range(6)]
    await eventually(lambda: len(vault.on_path("slow")) == 2)  # all the workers there are
    await connection.call("get", "quick", token=TOKEN, timeout=SOON, pool=connection.revoking)
    assert not any(work.done() for work in slow)
    late.set()
    await asyncio.gather(*slow)
