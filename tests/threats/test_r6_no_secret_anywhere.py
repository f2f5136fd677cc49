"""R6: a secret appears in no log, error, repr, audit record or database row."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Final

from broker.devstack import broker_process, vault
from broker.devstack.parts import REPOSITORY
from broker.devstack.state import BROKER_ID
from tests.threats.world import ROLE, World

A_JWT: Final = re.compile(rb"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.")
"""Header and claims, both JSON in base64url (RFC 7515): three letters alone come up in digests by chance."""

A_VAULT_TOKEN: Final = re.compile(rb"hvs\.[\w-]{20,}")


def _written(world: World) -> dict[str, bytes]:
    """Everything that the broker wrote, and what its commands print of it."""
    found = {str(file): file.read_bytes() for file in world.stack.broker.folder.rglob("*") if file.is_file()}
    found |= {str(log): log.read_bytes() for log in world.stack.log_files([broker_process.NAME])}
    url = world.stack.broker.store_url
    shown = subprocess.run(
        [sys.executable, "-m", "broker", "audit", "list", "--json", "--limit", "100000", "--store", url],
        capture_output=True,
        check=True,
        cwd=REPOSITORY,
    )
    return found | {"audit list": shown.stdout}


async def test_the_password_is_written_nowhere(world: World) -> None:
    configuration = world.stack.broker.config_file
    before = configuration.read_text()
    world.stack.stop_part(broker_process.NAME)
    talkative = before.replace("\nlog:\n", "\nlog:\n  level: debug\n")
    assert talkative != before
    configuration.write_text(talkative)
    world.stack.broker.start()
    secrets: list[str] = []
    async with world.sdk() as broker, broker.task("reconcile-invoices", intent="R6", roles=[ROLE]) as task:
        credential = await task.acquire(ROLE)
        password = credential["password"].reveal()
        secrets.append(password)
        for text in (repr(credential), str(credential), f"{credential['password']}", repr(dict(credential))):
            assert password not in text
        # Trouble, of the kinds that make logs talk.
        world.stack.kill_part(vault.NAME)
        with world.calling() as caller:
            assert not world.try_declare(caller).ok
        world.stack.start_part(vault.NAME)
        await credential.release()
    assert world.kinds(task.task_id)[-1] == "task.ended"
    for name, content in _written(world).items():
        for secret in secrets:
            assert secret.encode() not in content, name
        assert not A_VAULT_TOKEN.search(content), f"a Vault token is in {name}"
        assert not A_JWT.search(content), f"a JWT is in {name}"
        assert b"PRIVATE KEY" not in content, name


def test_the_search_finds_what_is_there(world: World) -> None:
    """The test above could not fail if it looked in the wrong places."""
    with world.calling() as caller:
        task_id = world.declare(caller)
        lease_id = world.acquire(caller, task_id).lease.lease_id
        world.complete(caller, task_id)
    world.until_ended(task_id)
    found = _written(world)
    assert any(lease_id.encode() in content for name, content in found.items() if "broker.db" in name)
    assert lease_id.encode() in found["audit list"]
    assert any(
        b"serving on port" in content for name, content in found.items() if name.endswith("broker.log")
    )
    jwt = world.stack.spire.mint_jwt(BROKER_ID, audience="vault", ttl=timedelta(minutes=1))
    assert A_JWT.search(jwt.encode())
    assert A_VAULT_TOKEN.search(str(world.stack.vault.admin().token).encode())


def test_no_file_of_the_broker_is_readable_by_others(world: World) -> None:
    folder: Path = world.stack.broker.folder
    assert folder.stat().st_mode & 0o077 == 0


def test_an_error_of_vault_is_not_passed_on(world: World) -> None:
    """Vault's and the driver's texts can hold connection strings."""
    admin = world.stack.vault.admin()
    name = "orders-readonly"
    role = admin.secrets.database.read_role(name)["data"]
    broken = {**role, "creation_statements": ["SELECT 'let-me-out' FROM no_such_table"]}
    with world.calling() as caller:
        task_id = world.declare(caller)
        try:
            admin.adapter.post(f"/v1/database/roles/{name}", json=broken)
            answer = world.try_acquire(caller, task_id)
        finally:
            admin.adapter.post(f"/v1/database/roles/{name}", json=role)
        assert (answer.code.name, answer.reason) == ("UNAVAILABLE", "CREDENTIAL_BACKEND_UNAVAILABLE")
        assert "no_such_table" not in answer.text
        assert "let-me-out" not in answer.text
        log = world.stack.log_files([broker_process.NAME])[0].read_text()
        assert "no_such_table" not in log
        assert world.lets_in(world.acquire(caller, task_id)), "and the next one works again"
