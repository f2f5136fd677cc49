"""What the stack of docker-compose.yml needs once: keys, secrets, Vault's setup, SPIRE's entries.

Run as one of `prepare`, `register`, `vault`. What always holds: a second run changes nothing that is there; secrets
are made here, kept in volumes, readable by their one user, and never in a command line or a log.
"""

# ruff: noqa: INP001, S603, T201 - a program, not a package; it runs spire-server alone
from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from string import Template
from typing import Final

import hvac
import requests

from broker.adapters.vault import provisioning
from broker.config.catalog import load_catalog
from broker.devstack.spire import make_node_certificate

HERE: Final = Path(__file__).parent
TRUST_DOMAIN: Final = "dev.tasklease.test"
NODE: Final = "compose-node"
NODE_ID: Final = f"spiffe://{TRUST_DOMAIN}/spire/agent/x509pop/{NODE}"
BROKER_ID: Final = f"spiffe://{TRUST_DOMAIN}/tasklease/broker"
VAULT: Final = "http://vault:8200"
KEYS: Final = "http://oidc-discovery-provider:8080/keys"
PATIENCE: Final = 120.0

ROOT, SPIRE, POSTGRES, VAULT_USER, TASKLEASE = 0, 1000, 999, 100, 10001
NODE_VOLUME: Final = Path("/volumes/node")
AUTHORITY: Final = Path("/volumes/node-authority")
POSTGRES_SECRETS: Final = Path("/volumes/postgres-secrets")
VAULT_CONFIG: Final = Path("/volumes/vault-config")
VAULT_KEYS: Final = Path("/volumes/vault-keys")
CATALOG: Final = Path("/volumes/catalog")
BUNDLE: Final = Path("/volumes/bundle/bundle.pem")
SERVER_SOCKET: Final = "/volumes/spire-server-socket/api.sock"


def keep(path: Path, text: str, *, owner: int = ROOT, mode: int = 0o600) -> None:
    """Write a file as a whole, or leave what was there before."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.chmod(mode)
    os.chown(new, owner, owner)
    new.replace(path)


def prepare() -> None:
    """Certificates for node attestation, passwords, Vault's configuration, the catalog, owners of the volumes."""
    for folder, owner, mode in (
        ("spire-server-data", SPIRE, 0o700),
        ("spire-server-socket", SPIRE, 0o700),
        ("spire-agent-socket", ROOT, 0o755),
        ("vault-data", VAULT_USER, 0o700),
    ):
        path = Path("/volumes") / folder
        path.chmod(mode)
        os.chown(path, owner, owner)
    if not (NODE_VOLUME / "node.pem").exists():
        certificate, authority, key = make_node_certificate(NODE)
        keep(AUTHORITY / "node-ca.pem", authority, mode=0o644)
        keep(NODE_VOLUME / "node-key.pem", key)
        keep(NODE_VOLUME / "node.pem", certificate, mode=0o644)  # last: it says that all three are there
    for name in ("superuser", "vault"):
        if not (POSTGRES_SECRETS / name).exists():
            keep(POSTGRES_SECRETS / name, secrets.token_urlsafe(32), owner=POSTGRES)
    server = Template((HERE / "vault/server.hcl").read_text())
    keep(
        VAULT_CONFIG / "server.hcl",
        server.substitute(VAULT_API_ADDRESS=VAULT, VAULT_DATA="/vault/file", VAULT_LISTEN="0.0.0.0:8200"),
        mode=0o644,
    )
    for file in (HERE / "catalog").iterdir():
        if not (CATALOG / file.name).exists():  # the user's, once it is there
            keep(
                CATALOG / file.name, file.read_text().replace("host: 127.0.0.1", "host: postgres"), mode=0o644
            )
    policies = CATALOG / "policies"
    policies.mkdir(exist_ok=True)
    policies.chmod(0o755)
    for file in (HERE / "policies").iterdir():
        if not (policies / file.name).exists():
            keep(policies / file.name, file.read_text(), mode=0o644)


def register() -> None:
    """SPIRE's entries, and the bundle by which the agent knows its server."""
    bundle = spire("bundle", "show", "-format", "pem")
    keep(BUNDLE, bundle, mode=0o644)
    entry(BROKER_ID, "tasklease.workload:broker", "-dns", "tasklease-broker")
    entry(f"spiffe://{TRUST_DOMAIN}/agent/invoice-bot/compose-1", "tasklease.instance:compose-1")


def entry(spiffe_id: str, label: str, *more: str) -> None:
    """Make an entry for containers with that label, unless there is one."""
    chosen = ("-parentID", NODE_ID, "-spiffeID", spiffe_id, "-selector", f"docker:label:{label}")
    if not json.loads(spire("entry", "show", *chosen, "-output", "json")).get("entries"):
        spire("entry", "create", *chosen, "-x509SVIDTTL", "600", "-jwtSVIDTTL", "300", *more)
    print(f"registered {spiffe_id}", flush=True)


def spire(*arguments: str) -> str:
    """Run a command of spire-server against its socket."""
    command = ["/opt/spire/bin/spire-server", *arguments, "-socketPath", SERVER_SOCKET]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.exit(
            f"spire-server {arguments[0]} {arguments[1]}: {result.stderr.strip() or result.stdout.strip()}"
        )
    return result.stdout


def vault() -> None:
    """Initialise and unseal Vault, and set up what the platform team would."""
    wait("Vault", lambda: requests.get(f"{VAULT}/v1/sys/seal-status", timeout=2).ok)
    wait("SPIRE's keys", lambda: bool(requests.get(KEYS, timeout=2).json()["keys"]))
    client = hvac.Client(url=VAULT, token="")
    init = VAULT_KEYS / "init.json"
    if not client.sys.is_initialized():
        keep(init, json.dumps(client.sys.initialize(secret_shares=1, secret_threshold=1)))
    made = json.loads(init.read_text())
    if client.sys.is_sealed():
        client.sys.submit_unseal_key(made["keys"][0])
    client.token = made["root_token"]
    wait("an active Vault", lambda: requests.get(f"{VAULT}/v1/sys/health", timeout=2).status_code == 200)
    if "jwt/" not in client.sys.list_auth_methods()["data"]:
        client.sys.enable_auth_method("jwt")
    client.write_data("auth/jwt/config", data={"jwks_url": KEYS})
    if "database/" not in client.sys.list_mounted_secrets_engines()["data"]:
        client.sys.enable_secrets_engine("database")
    connection = {
        "plugin_name": "postgresql-database-plugin",
        "allowed_roles": ["orders-readonly"],
        "connection_url": "postgresql://{{username}}:{{password}}@postgres:5432/orders?sslmode=disable",
        "username": "vault_admin",
        "password": (POSTGRES_SECRETS / "vault").read_text(),
        "password_authentication": "scram-sha-256",
    }
    client.write_data("database/config/orders", data=connection)
    statements = HERE / "vault/database"
    role = {
        "db_name": "orders",
        "creation_statements": [(statements / "orders-readonly.creation.sql").read_text()],
        "revocation_statements": [(statements / "orders-readonly.revocation.sql").read_text()],
        "renew_statements": [(statements / "orders-readonly.renew.sql").read_text()],
        "default_ttl": "60s",
        "max_ttl": "25h",
    }
    client.write_data("database/roles/orders-readonly", data=role)
    plan = provisioning.plan(client, load_catalog(CATALOG), provisioning.Names(broker_id=BROKER_ID))
    for item in plan.items:
        provisioning.apply(client, item)
    print("Vault is set up", flush=True)


def wait(what: str, ready: Callable[[], bool]) -> None:
    """Ask until the answer is yes."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            if ready():
                return
        except (requests.RequestException, ValueError, KeyError):
            pass
        if time.monotonic() > end:
            sys.exit(f"{what}: no answer within {PATIENCE:.0f} s")
        time.sleep(0.25)


if __name__ == "__main__":
    {"prepare": prepare, "register": register, "vault": vault}[sys.argv[1]]()
