"""The broker's own token: got by its JWT-SVID, kept alive, and got again whatever happened to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from broker.adapters.vault.connection import VaultConnection
from broker.adapters.vault.login import VaultLogin
from broker.domain.errors import CredentialBackendUnavailableError
from broker.domain.secret import Secret
from tests.fakes.system import FakeClock
from tests.unit.client.conftest import eventually
from tests.unit.vault.conftest import BROKER_TOKEN, JWT_SVID, logged_in
from tests.unit.vault.tiny_vault import HANG_UP, Answer, TinyVault, refusal

LOGIN = "auth/jwt/login"
RENEW = "auth/token/renew-self"


def logins(vault: TinyVault) -> int:
    return len(vault.on_path(LOGIN))


@asynccontextmanager
async def kept(login: VaultLogin) -> AsyncIterator[None]:
    """While `keep` runs, as it does in the broker."""
    work = asyncio.create_task(login.keep())
    try:
        yield
        assert not work.done(), "keeping the token must never end by itself"
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def test_the_jwt_svid_is_shown_for_the_role_and_without_any_token(
    vault: TinyVault, login: VaultLogin
) -> None:
    assert (await login.token()).reveal() == BROKER_TOKEN
    (asked,) = vault.asked
    assert asked.path == f"/v1/{LOGIN}"
    assert asked.body == {"role": "tasklease-broker", "jwt": JWT_SVID}
    assert asked.token is None


async def test_many_who_need_a_token_at_once_share_one_log_in(vault: TinyVault, login: VaultLogin) -> None:
    tokens = await asyncio.gather(*(login.token() for _ in range(20)))
    assert {token.reveal() for token in tokens} == {BROKER_TOKEN}
    assert logins(vault) == 1


@pytest.mark.parametrize(
    "answer",
    [
        refusal(400, "error validating token: invalid audience"),
        refusal(403, "permission denied"),
        refusal(429),
        refusal(500),
        refusal(503, "Vault is sealed"),
        HANG_UP,
        Answer(raw=b"no json"),
        Answer(body={}),
        Answer(body={"auth": None}),
        Answer(body={"auth": {"client_token": "t"}}),
        Answer(body={"auth": {"client_token": 7, "lease_duration": 60}}),
    ],
    ids=str,
)
async def test_without_a_token_from_vault_the_backend_is_unavailable(
    vault: TinyVault, login: VaultLogin, answer: Answer
) -> None:
    vault.on(LOGIN, answer)
    with pytest.raises(CredentialBackendUnavailableError):
        await login.token()
    assert not login.healthy
    vault.on(LOGIN, logged_in())
    await login.token()


async def test_without_a_jwt_svid_the_backend_is_unavailable_and_vault_is_not_asked(
    vault: TinyVault, connection: VaultConnection, clock: FakeClock
) -> None:
    async def none(_audience: str) -> Secret:
        message = "planted"
        raise RuntimeError(message)

    login = VaultLogin(
        connection=connection,
        fetch_jwt_svid=none,
        auth_mount="jwt",
        auth_role="tasklease-broker",
        audience="vault",
        clock=clock,
    )
    with pytest.raises(CredentialBackendUnavailableError):
        await login.token()
    assert not vault.asked


async def test_no_log_holds_a_token_or_what_vault_said(
    vault: TinyVault, login: VaultLogin, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="broker")
    vault.on(LOGIN, refusal(400, "planted words"), logged_in())
    with pytest.raises(CredentialBackendUnavailableError):
        await login.token()
    login.reject(await login.token())
    assert "status 400" in caplog.text
    assert "planted" not in caplog.text


async def test_a_rejected_token_is_not_used_again(vault: TinyVault, login: VaultLogin) -> None:
    vault.on(LOGIN, logged_in("first"), logged_in("second"))
    first = await login.token()
    login.reject(first)
    assert not login.healthy
    assert (await login.token()).reveal() == "second"


async def test_a_late_rejection_of_an_old_token_leaves_the_new_one(
    vault: TinyVault, login: VaultLogin
) -> None:
    vault.on(LOGIN, logged_in("first"), logged_in("second"), logged_in("third"))
    first = await login.token()
    login.reject(first)
    await login.token()
    login.reject(first)
    assert (await login.token()).reveal() == "second"


async def test_while_vault_is_away_the_pauses_grow_to_ten_seconds_and_no_further(
    vault: TinyVault, login: VaultLogin, clock: FakeClock
) -> None:
    vault.on(LOGIN, refusal(503))
    pauses = []
    async with kept(login):
        for attempt in range(1, 8):
            await eventually(lambda: clock.next_wake is not None)
            assert logins(vault) == attempt
            assert clock.next_wake is not None
            pause = clock.next_wake - clock.now()
            pauses.append(pause.total_seconds())
            clock.advance(seconds=pause.total_seconds())
        assert pauses == [0.5, 1, 2, 4, 8, 10, 10]


async def test_after_an_outage_the_first_pause_is_short_again(
    vault: TinyVault, login: VaultLogin, clock: FakeClock
) -> None:
    vault.on(LOGIN, refusal(503), refusal(503), logged_in(), refusal(503))
    async with kept(login):
        for pause in (0.5, 1):
            await eventually(lambda: clock.next_wake is not None)
            clock.advance(seconds=pause)
        await eventually(lambda: login.healthy)
        login.reject(await login.token())
        await eventually(lambda: clock.next_wake is not None)
        assert clock.next_wake is not None
        assert clock.next_wake - clock.now() == timedelta(seconds=0.5)


async def test_a_rejected_token_is_replaced_without_anybody_asking(
    vault: TinyVault, login: VaultLogin
) -> None:
    async with kept(login):
        await eventually(lambda: login.healthy)
        login.reject(await login.token())
        await eventually(lambda: logins(vault) == 2 and login.healthy)


async def test_at_half_of_its_life_the_token_is_renewed_with_itself(
    vault: TinyVault, login: VaultLogin
) -> None:
    vault.on(LOGIN, logged_in(seconds=1))
    vault.on(RENEW, logged_in(seconds=3600))
    async with kept(login):
        await eventually(lambda: bool(vault.on_path(RENEW)))
        assert vault.on_path(RENEW)[0].token == BROKER_TOKEN
        assert logins(vault) == 1
        assert (await login.token()).reveal() == BROKER_TOKEN


@pytest.mark.parametrize(
    "answer",
    [refusal(403, "permission denied"), refusal(500), HANG_UP, Answer(body={}), logged_in(seconds=0)],
    ids=["refused", "failed", "no answer", "no token", "at its maximum"],
)
async def test_a_token_that_cannot_be_renewed_is_replaced_by_a_new_log_in(
    vault: TinyVault, login: VaultLogin, answer: Answer
) -> None:
    vault.on(LOGIN, logged_in("first", seconds=1), logged_in("second"))
    vault.on(RENEW, answer)
    async with kept(login):
        await eventually(lambda: logins(vault) == 2 and login.healthy)
        assert (await login.token()).reveal() == "second"
