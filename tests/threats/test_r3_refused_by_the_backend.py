"""R3: "revoked" means refused. Where Vault only believes that it revoked, PostgreSQL itself is asked, and is not believed to
have refused what it accepts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from broker.api.v1 import tasks_pb2
from broker.devstack.stack import DevStack
from broker.devstack.vault import database_role
from tests.threats.world import World

OBSERVER = """\
credential_roles:
  orders-observer:
    engine: postgresql
    mount: database
    path: creds/orders-observer
    classification: internal
    destination: {{host: 127.0.0.1, port: {port}, scheme: postgresql}}
    ttl: 60s
    max_ttl: 1h
    revocation: revocable
"""
ROLE = "database/roles/orders-readonly"


@pytest.fixture(scope="module")
def _stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    stack = DevStack(tmp_path_factory.mktemp("refused") / "dev", say=print)
    try:
        stack.up(with_broker=False)
        stack.vault.admin().write_data(
            "database/roles/orders-observer",
            data={
                "db_name": "orders",
                "creation_statements": [
                    "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"
                ],
                "revocation_statements": ['DROP ROLE IF EXISTS "{{name}}"'],
                "default_ttl": "60s",
                "max_ttl": "1h",
            },
        )
        (catalog,) = stack.broker.catalog.iterdir()
        text = catalog.read_text().replace("heartbeat: 10s", "heartbeat: 60s")
        text = text.replace(
            "revocation: revocable", "revocation: revocable\n    verified_by: orders-observer"
        )
        catalog.write_text(text.replace("credential_roles:\n", OBSERVER.format(port=stack.postgres.port)))
        stack.up()
        yield stack
    finally:
        stack.down(purge=True)


@pytest.fixture
def world(_stack: DevStack, tmp_path: Path) -> Iterator[World]:
    yield World(_stack, tmp_path)
    _stack.vault.admin().write_data(ROLE, data=database_role())


def test_what_was_revoked_is_refused_and_said_to_be(world: World) -> None:
    with world.calling() as caller:
        task_id = world.declare(caller)
        held = [world.acquire(caller, task_id) for _ in range(20)]
        assert all(world.lets_in(credential) for credential in held[:3])
        task = world.complete(caller, task_id).message.task
        assert task.state == tasks_pb2.TASK_STATE_ENDED
    assert not any(world.lets_in(credential) for credential in held)
    accounts = {name for (name,) in world.rows("SELECT account FROM leases WHERE task_id = ?", task_id)}
    assert accounts == {credential.secret["username"] for credential in held}


def test_what_vault_forgot_to_revoke_is_not_said_to_be_revoked(world: World) -> None:
    """Revocation statements that do nothing: Vault is content, and the credential goes on to work."""
    world.stack.vault.admin().write_data(
        ROLE, data={**database_role(), "revocation_statements": ["SELECT 1"]}
    )
    with world.calling() as caller:
        task_id = world.declare(caller)
        credential = world.acquire(caller, task_id)
        task = world.complete(caller, task_id).message.task
        assert task.state == tasks_pb2.TASK_STATE_ENDING
    time.sleep(3)
    assert world.lets_in(credential)
    assert "task.ended" not in world.kinds(task_id)
    assert world.kinds(task_id).count("lease.revocation-failed") > 1, "alarmed, and tried again"
    assert world.rows("SELECT state FROM leases WHERE task_id = ?", task_id) == [("revoking",)]
    username = credential.secret["username"]
    with psycopg.connect(world.stack.postgres.admin_dsn, autocommit=True) as admin:
        admin.execute(f'DROP OWNED BY "{username}"; DROP ROLE "{username}"')
    world.until_ended(task_id)


def test_a_session_that_outlives_its_credential_is_not_said_to_be_over(world: World) -> None:
    """The role goes, its session stays: whoever is in is still in."""
    world.stack.vault.admin().write_data(
        ROLE, data={**database_role(), "revocation_statements": ['ALTER ROLE "{{name}}" NOLOGIN']}
    )
    with world.calling() as caller:
        task_id = world.declare(caller)
        credential = world.acquire(caller, task_id)
        dsn = world.stack.postgres.dsn(credential.secret["username"], credential.secret["password"])
        with psycopg.connect(dsn) as session:
            assert world.complete(caller, task_id).message.task.state == tasks_pb2.TASK_STATE_ENDING
            assert not world.lets_in(credential)
            assert session.execute("SELECT count(*) FROM orders").fetchone() == (250,)
    world.until_ended(task_id)


def test_the_broker_gets_no_more_in_vault_than_the_observer(world: World) -> None:
    policy = world.stack.vault.admin().sys.read_policy("tasklease-broker")["data"]["rules"]
    assert 'path "database/creds/orders-observer" {\n  capabilities = ["read"]\n}' in policy
    assert "database/creds/orders-readonly" not in policy
