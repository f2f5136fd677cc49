"""A tiny Vault on loopback for each test, and what talks to it. Sockets are on in this folder, for that server alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from broker.adapters.vault.as_broker import AsBroker
from broker.adapters.vault.connection import VaultConnection
from broker.adapters.vault.issuer import VaultCredentialIssuer
from broker.adapters.vault.login import VaultLogin
from broker.domain.secret import Secret
from tests.fakes.system import FakeClock
from tests.unit.vault.tiny_vault import Answer, TinyVault

JWT_SVID = "planted.jwt.svid"
BROKER_TOKEN = "planted-broker-token"


def logged_in(token: str = BROKER_TOKEN, seconds: int = 3600) -> Answer:
    return Answer(body={"auth": {"client_token": token, "lease_duration": seconds}})


async def jwt_svid(audience: str) -> Secret:
    assert audience == "vault"
    return Secret(JWT_SVID)


@pytest.fixture
def vault(socket_enabled: None) -> Iterator[TinyVault]:
    vault = TinyVault()
    vault.on("auth/jwt/login", logged_in())
    yield vault
    vault.stop()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def connection(vault: TinyVault) -> Iterator[VaultConnection]:
    connection = VaultConnection(address=vault.address, issue_workers=2, revoke_workers=2)
    yield connection
    connection.close()


@pytest.fixture
def login(connection: VaultConnection, clock: FakeClock) -> VaultLogin:
    return VaultLogin(
        connection=connection,
        fetch_jwt_svid=jwt_svid,
        auth_mount="jwt",
        auth_role="tasklease-broker",
        audience="vault",
        clock=clock,
    )


@pytest.fixture
def issuer(connection: VaultConnection, login: VaultLogin) -> VaultCredentialIssuer:
    return VaultCredentialIssuer(
        as_broker=AsBroker(connection=connection, login=login), token_role="tasklease-task", store="tests"
    )
