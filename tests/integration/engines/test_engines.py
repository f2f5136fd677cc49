"""Credentials of other engines than PostgreSQL, on the real Vault: handed out for a task, and refused after it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import hvac
import pytest
import requests

from broker.adapters.vault import provisioning
from broker.api.v1 import credentials_pb2, tasks_pb2
from broker.config.catalog import load_catalog
from broker.devstack.stack import DevStack
from broker.devstack.state import BROKER_ID
from tests.threats.world import World

DESTINATION: Final = "destination: {host: 127.0.0.1, port: 1, scheme: https}"
LIVES: Final = "ttl: 1m\n    max_ttl: 5m\n    revocation: revocable"
CATALOG: Final = f"""version: 1
agent_classes:
  engine-bot:
    task_types: [engines]
task_types:
  engines:
    environment: staging
    roles: [service-certificate, host-login, queue-token]
    max_duration: 10m
credential_roles:
  service-certificate:
    engine: pki
    mount: pki
    path: issue/service
    method: update
    parameters: {{common_name: worker.agents.test}}
    classification: internal
    {DESTINATION}
    {LIVES}
  host-login:
    engine: ssh-otp
    mount: ssh
    path: creds/login
    method: update
    parameters: {{ip: 127.0.0.1}}
    classification: internal
    {DESTINATION}
    {LIVES}
  queue-token: # any path that answers with a lease
    engine: generic
    mount: database
    path: creds/orders-readonly
    classification: internal
    {DESTINATION}
    {LIVES}
"""


SERVICE: Final = {
    "allowed_domains": ["agents.test"],
    "allow_subdomains": True,
    "generate_lease": True,
    "ttl": "1m",
    "max_ttl": "5m",
}


def mounted(admin: hvac.Client) -> None:
    """What a platform team does in Vault."""
    admin.sys.enable_secrets_engine("pki", path="pki")
    admin.write_data("pki/root/generate/internal", data={"common_name": "agents.test", "ttl": "24h"})
    admin.write_data("pki/roles/service", data=SERVICE)
    admin.sys.enable_secrets_engine("ssh", path="ssh")
    login = {"key_type": "otp", "default_user": "agent", "cidr_list": "127.0.0.0/8"}
    admin.write_data("ssh/roles/login", data=login)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    stack = DevStack(tmp_path_factory.mktemp("engines") / "dev", say=print)
    try:
        stack.up()
        mounted(stack.vault.admin())
        (stack.broker.catalog / "engines.yaml").write_text(CATALOG)
        stack.broker.apply_catalog()
        time.sleep(2.5)  # the broker takes it up by itself
        yield stack
    finally:
        stack.down(purge=True)


class Holding:
    """A task of an agent that holds one credential."""

    def __init__(self, world: World, caller: Any, role: str) -> None:
        self._world, self._caller = world, caller
        declared = world.try_declare(
            caller, task_type="engines", scope=tasks_pb2.Scope(roles=[role]), intent="engines"
        )
        assert declared.ok, declared
        self.task_id = declared.message.task.task_id
        answer = world.try_acquire(caller, self.task_id, role=role)
        assert answer.ok, answer
        self.response: credentials_pb2.AcquireCredentialResponse = answer.message
        self.secret = dict(self.response.secret)

    def complete(self) -> None:
        done = self._world.complete(self._caller, self.task_id)
        assert done.message.task.state == tasks_pb2.TASK_STATE_ENDED, done


@pytest.fixture
def world(stack: DevStack, tmp_path: Path) -> World:
    return World(stack, tmp_path)


def is_accepted(certificate: str, stack: DevStack, folder: Path) -> bool:
    """Whether somebody who looks at the CRL takes the certificate, as OpenSSL does."""
    address = stack.vault.address
    leaf, authority = folder / "leaf.pem", folder / "authority.pem"
    leaf.write_text(certificate)
    root = requests.get(f"{address}/v1/pki/ca/pem", timeout=5).text
    crl = requests.get(f"{address}/v1/pki/crl/pem", timeout=5).text
    authority.write_text(f"{root}\n{crl}\n")
    done = subprocess.run(
        ["openssl", "verify", "-crl_check", "-CAfile", str(authority), str(leaf)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 or "certificate revoked" in done.stderr, done.stderr
    return done.returncode == 0


def test_a_certificate_is_on_the_crl_when_its_task_has_ended(
    world: World, stack: DevStack, tmp_path: Path
) -> None:
    with world.calling(world.svid(path="agent/engine-bot")) as caller:
        holding = Holding(world, caller, "service-certificate")
        assert "PRIVATE KEY" in holding.secret["private_key"]
        certificate = holding.secret["certificate"]
        assert is_accepted(certificate, stack, tmp_path)
        holding.complete()
        assert not is_accepted(certificate, stack, tmp_path)


def verified(stack: DevStack, password: str) -> bool:
    """What a host asks Vault when somebody logs in; a password counts once."""
    answer = requests.post(f"{stack.vault.address}/v1/ssh/verify", json={"otp": password}, timeout=5)
    assert answer.status_code in {200, 400}, answer.text
    return answer.status_code == 200


def test_a_one_time_password_that_was_not_used_is_refused_when_its_task_has_ended(
    world: World, stack: DevStack
) -> None:
    with world.calling(world.svid(path="agent/engine-bot")) as caller:
        used = Holding(world, caller, "host-login")
        assert verified(stack, used.secret["key"])
        assert not verified(stack, used.secret["key"]), "it counts once"
        used.complete()
        unused = Holding(world, caller, "host-login")
        unused.complete()
        assert not verified(stack, unused.secret["key"])


def test_any_path_that_answers_with_a_lease(world: World) -> None:
    with world.calling(world.svid(path="agent/engine-bot")) as caller:
        holding = Holding(world, caller, "queue-token")
        assert world.lets_in(holding.response)
        holding.complete()
        assert not world.lets_in(holding.response)


def test_neither_is_renewed_beyond_its_life_and_each_is_seen_by_operators(world: World) -> None:
    with world.calling(world.svid(path="agent/engine-bot")) as caller:
        holding = Holding(world, caller, "service-certificate")
        renewal = caller.call(
            "RenewCredential",
            credentials_pb2.RenewCredentialRequest(lease_id=holding.response.lease.lease_id),
        )
        assert renewal.reason == "LEASE_NOT_RENEWABLE"
        holding.complete()


def test_a_role_without_leases_is_warned_of(stack: DevStack) -> None:
    admin = stack.vault.admin()
    names = provisioning.Names(broker_id=BROKER_ID)
    catalog = load_catalog(stack.broker.catalog)
    assert provisioning.plan(admin, catalog, names).warnings == ()
    admin.write_data("pki/roles/service", data={"generate_lease": False, "allowed_domains": ["agents.test"]})
    try:
        (warning,) = provisioning.plan(admin, catalog, names).warnings
        assert "has no generate_lease" in warning
    finally:
        admin.write_data("pki/roles/service", data=SERVICE)
