"""What the configured parts do together: a log-in without a secret, and a credential that is really taken back."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import hvac
import hvac.exceptions
import psycopg
import pytest

from broker.devstack.stack import DevStack
from broker.devstack.state import BROKER_GROUP, BROKER_ID


def jwt_of(stack: DevStack, group: int, audience: str = "vault") -> str:
    """The JWT-SVID that SPIRE gives to a process of the group."""
    agent = stack.find_parts()["spire-agent"]
    socket = stack.spire.agent_socket
    result = subprocess.run(
        [agent, "api", "fetch", "jwt", "-audience", audience, "-socketPath", socket, "-output", "json"],
        extra_groups=[group],
        capture_output=True,
        text=True,
        check=True,
    )
    token: str = json.loads(result.stdout)[0]["svids"][0]["svid"]
    return token


def log_in(stack: DevStack, jwt: str) -> hvac.Client:
    client = hvac.Client(url=stack.vault.address, token="")
    answer = client.auth.jwt.jwt_login(role="tasklease-broker", jwt=jwt)
    client.token = answer["auth"]["client_token"]
    return client


def test_the_broker_logs_in_with_its_svid_and_gets_its_policy_alone(stack: DevStack) -> None:
    client = log_in(stack, jwt_of(stack, BROKER_GROUP))
    with pytest.raises(hvac.exceptions.Forbidden):
        client.read("database/creds/orders-readonly")
    with pytest.raises(hvac.exceptions.Forbidden):
        client.read("auth/token/lookup-self")  # not even the default policy
    made = client.write_data(
        "auth/token/create/tasklease-task", data={"policies": ["tasklease-role-orders-readonly"]}
    )
    assert made["auth"]["policies"] == ["tasklease-role-orders-readonly"]


def test_a_token_of_any_other_policy_is_refused(stack: DevStack) -> None:
    client = log_in(stack, jwt_of(stack, BROKER_GROUP))
    for policy in ("root", "default", "tasklease-broker"):
        with pytest.raises(hvac.exceptions.VaultError):
            client.write_data("auth/token/create/tasklease-task", data={"policies": [policy]})


def test_an_instance_cannot_log_in_as_the_broker(stack: DevStack) -> None:
    entry = stack.spire.register_instance("invoice-bot", "imposter")
    try:
        stack.spire.wait_for_identity(entry)
        with pytest.raises(hvac.exceptions.VaultError, match="invalid subject"):
            log_in(stack, jwt_of(stack, entry.group))
    finally:
        stack.spire.deregister(entry)


def test_a_token_for_another_audience_is_refused(stack: DevStack) -> None:
    with pytest.raises(hvac.exceptions.VaultError, match="audience"):
        log_in(stack, jwt_of(stack, BROKER_GROUP, audience="somebody-else"))


def test_a_process_without_the_group_has_no_identity(stack: DevStack) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        jwt_of(stack, BROKER_GROUP + 1)


def test_every_instance_has_an_identity_of_its_own(stack: DevStack) -> None:
    first = stack.spire.register_instance("invoice-bot", "one", x509_ttl=timedelta(minutes=1))
    second = stack.spire.register_instance("invoice-bot", "two")
    try:
        assert first.group != second.group
        assert first.spiffe_id == "spiffe://dev.tasklease.test/agent/invoice-bot/one"
        for entry in (first, second):
            stack.spire.wait_for_identity(entry)
            assert json_of(jwt_of(stack, entry.group))["sub"] == entry.spiffe_id
        assert json_of(jwt_of(stack, BROKER_GROUP))["sub"] == BROKER_ID
    finally:
        stack.spire.deregister(first)
        stack.spire.deregister(second)


def json_of(jwt: str) -> dict[str, Any]:
    import base64

    body = jwt.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return claims


def credential(stack: DevStack) -> tuple[str, str]:
    """A lease, and a DSN with its credential."""
    made = stack.vault.admin().read("database/creds/orders-readonly")
    return made["lease_id"], stack.postgres.dsn(made["data"]["username"], made["data"]["password"])


def revoke(stack: DevStack, lease: str) -> None:
    stack.vault.admin().write_data("sys/leases/revoke", data={"lease_id": lease, "sync": True})


def test_a_revoked_credential_is_refused_and_its_open_session_is_gone(stack: DevStack) -> None:
    lease, dsn = credential(stack)
    session = psycopg.connect(dsn, autocommit=True)
    assert session.execute("SELECT count(*) FROM orders").fetchone() == (250,)
    revoke(stack, lease)
    with pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match=r"authentication failed|does not exist"):
        psycopg.connect(dsn)


def test_a_credential_reads_and_does_nothing_else(stack: DevStack) -> None:
    lease, dsn = credential(stack)
    with psycopg.connect(dsn, autocommit=True) as session:
        for statement in (
            "DELETE FROM orders",
            "UPDATE orders SET amount_cents = 1",
            "CREATE TABLE mine (n integer)",
            "CREATE TEMPORARY TABLE mine (n integer)",
            "CREATE ROLE mine",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(statement)
    revoke(stack, lease)


def test_a_client_that_reconnects_all_the_time_keeps_no_session_that_reads_anything(stack: DevStack) -> None:
    for _ in range(5):
        lease, dsn = credential(stack)
        over = threading.Event()
        sessions: list[psycopg.Connection[Any]] = []

        def reconnect(dsn: str, over: threading.Event, sessions: list[psycopg.Connection[Any]]) -> None:
            while not over.is_set():
                try:
                    sessions.append(psycopg.connect(dsn, autocommit=True))
                except psycopg.OperationalError:
                    continue

        threads = [threading.Thread(target=reconnect, args=(dsn, over, sessions)) for _ in range(6)]
        for thread in threads:
            thread.start()
        while len(sessions) < 20:
            time.sleep(0.005)
        revoke(stack, lease)
        over.set()
        for thread in threads:
            thread.join()
        alive = 0
        for session in sessions:
            try:
                session.execute("SELECT count(*) FROM orders")
                alive += 1
            except psycopg.Error:
                continue
            finally:
                session.close()
        assert alive == 0


def test_a_revocation_that_was_cut_off_after_the_database_did_it_can_be_repeated(stack: DevStack) -> None:
    lease, dsn = credential(stack)
    user = dsn.split("user=")[1].split()[0]
    with psycopg.connect(stack.postgres.admin_dsn, autocommit=True) as administrator:
        administrator.execute(f'DROP OWNED BY "{user}"')
        administrator.execute(f'DROP ROLE "{user}"')
    revoke(stack, lease)
    with pytest.raises(hvac.exceptions.InvalidRequest, match="invalid lease"):
        stack.vault.admin().sys.read_lease(lease_id=lease)


def test_an_svid_minted_for_tests_is_signed_by_the_stacks_authority(stack: DevStack, tmp_path: Path) -> None:
    from cryptography import x509

    svid, key, bundle = stack.spire.mint(
        "spiffe://dev.tasklease.test/agent/invoice-bot/minted",
        ttl=timedelta(minutes=1),
        folder=tmp_path / "svid",
    )
    leaf = x509.load_pem_x509_certificate(svid.read_bytes())
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(bundle.read_bytes()))
    assert "PRIVATE KEY" in key.read_text()
