"""The whole stack in containers: identities from labels, and a credential's life."""

from __future__ import annotations

from typing import Final

import pytest

from tests.integration.containers.conftest import Stack

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]

INSTANCE: Final = {"tasklease.instance": "compose-1"}
BROKER: Final = {"tasklease.workload": "broker"}
SVID: Final = """
from spiffe import WorkloadApiClient
with WorkloadApiClient() as client:
    print([str(svid.spiffe_id) for svid in client.fetch_x509_svids()])
"""
LOGIN: Final = """
import requests
from spiffe import WorkloadApiClient
with WorkloadApiClient() as client:
    svid = client.fetch_jwt_svid(audience={"vault"})
print("svid of", svid.spiffe_id)
answer = requests.post(
    "http://vault:8200/v1/auth/jwt/login", json={"role": "tasklease-broker", "jwt": svid.token}, timeout=10
)
print("status", answer.status_code, answer.json().get("errors"))
print("policies", (answer.json().get("auth") or {}).get("token_policies"))
"""


def test_a_container_with_the_label_gets_its_own_identity_and_no_other(stack: Stack) -> None:
    code, said = stack.run(SVID, labels=INSTANCE, networks=("broker",))
    assert (code, said.strip()) == (0, "['spiffe://dev.tasklease.test/agent/invoice-bot/compose-1']")


@pytest.mark.parametrize(
    "labels", [{}, {"tasklease.instance": "compose-2"}], ids=["no label", "another label"]
)
def test_a_container_without_the_label_gets_none(stack: Stack, labels: dict[str, str]) -> None:
    code, said = stack.run(SVID, labels=labels, networks=("broker",))
    assert code != 0
    assert "no identity issued" in said
    assert "spiffe://" not in said


def test_the_brokers_identity_logs_in_to_vault(stack: Stack) -> None:
    code, said = stack.run(LOGIN, labels=BROKER, networks=("vault",))
    assert code == 0, said
    assert "svid of spiffe://dev.tasklease.test/tasklease/broker" in said
    assert "status 200" in said
    assert "tasklease-broker" in said.split("policies", 1)[1]


def test_an_instances_identity_does_not_log_in_to_vault(stack: Stack) -> None:
    code, said = stack.run(LOGIN, labels=INSTANCE, networks=("vault",))
    assert code == 0, said
    assert "svid of spiffe://dev.tasklease.test/agent/invoice-bot/compose-1" in said
    assert "status 400" in said
    assert "invalid subject (sub) claim" in said
    assert "policies None" in said


def test_an_instance_reads_rows_and_postgresql_refuses_the_credential_afterwards(stack: Stack) -> None:
    agent = stack.service("agent")
    code = agent.wait(timeout=120)["StatusCode"]
    said = agent.logs().decode()
    assert code == 0, said
    assert said.splitlines()[-3:] == [
        "i am spiffe://dev.tasklease.test/agent/invoice-bot/compose-1",
        "read 250 orders",
        "refused after completion",
    ]
    question = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'"
    answer = stack.service("postgres").exec_run(
        [
            "bash",
            "-c",
            f'PGPASSWORD=$(cat /run/tasklease-secrets/superuser) psql -h 127.0.0.1 -U postgres -d orders -Atc "{question}"',
        ]
    )
    assert (answer.exit_code, answer.output.decode().strip()) == (0, "0")


def test_what_need_not_be_privileged_is_not(stack: Stack) -> None:
    for name in (
        "spire-server",
        "spire-agent",
        "oidc-discovery-provider",
        "postgres",
        "vault",
        "broker",
        "agent",
    ):
        host = stack.service(name).attrs["HostConfig"]
        assert not host["Privileged"], name
        assert host["ReadonlyRootfs"], name
        assert host["CapDrop"] == ["ALL"], name
        assert any("docker.sock" in bind for bind in host["Binds"]) == (name == "spire-agent"), name
