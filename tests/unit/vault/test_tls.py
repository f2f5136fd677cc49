"""Vault over TLS: nothing, and above all no token, is sent to who cannot show that it is Vault."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from broker.adapters.vault.connection import VaultCallError, VaultConnection
from broker.domain.secret import Secret
from tests.unit.client.authority import Authority
from tests.unit.vault.tiny_vault import Answer, TinyVault

SOON = timedelta(seconds=5)
AUTHORITY = Authority()


def served(folder: Path, name: str) -> TinyVault:
    """A Vault with a certificate for `name`."""
    shown = AUTHORITY.svid("spiffe://example.org/vault", dns_names=(name,))
    file = folder / "vault.pem"
    file.write_bytes(shown.key + shown.chain)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(file)
    vault = TinyVault(tls)
    vault.on("thing", Answer(body={"data": 1}))
    return vault


@pytest.fixture
def vault(socket_enabled: None, tmp_path: Path) -> Iterator[TinyVault]:
    vault = served(tmp_path, "localhost")
    yield vault
    vault.stop()


@pytest.fixture
def elsewhere(socket_enabled: None, tmp_path: Path) -> Iterator[TinyVault]:
    vault = served(tmp_path, "elsewhere.test")
    yield vault
    vault.stop()


async def call(vault: TinyVault, ca_file: Path | None) -> object:
    connection = VaultConnection(address=vault.address, ca_file=ca_file)
    try:
        return await connection.call("get", "thing", token=Secret("planted-token"), timeout=SOON)
    finally:
        connection.close()


def ca_file(folder: Path, authority: Authority = AUTHORITY) -> Path:
    file = folder / "ca.pem"
    file.write_bytes(authority.pem)
    return file


async def test_a_vault_of_the_given_authority_is_called(vault: TinyVault, tmp_path: Path) -> None:
    assert await call(vault, ca_file(tmp_path)) == {"data": 1}


async def test_a_vault_of_another_authority_is_sent_nothing(vault: TinyVault, tmp_path: Path) -> None:
    with pytest.raises(VaultCallError):
        await call(vault, ca_file(tmp_path, Authority()))
    assert vault.asked == []


async def test_without_an_authority_only_public_ones_count(vault: TinyVault) -> None:
    with pytest.raises(VaultCallError):
        await call(vault, None)
    assert vault.asked == []


async def test_a_certificate_for_another_name_is_sent_nothing(elsewhere: TinyVault, tmp_path: Path) -> None:
    with pytest.raises(VaultCallError):
        await call(elsewhere, ca_file(tmp_path))
    assert elsewhere.asked == []
