"""A real Vault server, initialised and unsealed, with the engines that the sample catalog needs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from string import Template
from typing import Any, Final

import hvac

from broker.devstack.parts import REPOSITORY
from broker.devstack.processes import Processes
from broker.devstack.state import State
from broker.devstack.waiting import answers, wait_for

NAME: Final = "vault"
_ANY_STATE: Final = (200, 429, 472, 473, 501, 503)


class Vault:
    """One Vault server of a stack."""

    def __init__(self, state: State, processes: Processes, binary: Path) -> None:
        self._state = state
        self._processes = processes
        self._binary = binary

    @property
    def address(self) -> str:
        """Its URL on loopback."""
        port = self._state.port(NAME, in_use=self._processes.running(NAME) is not None)
        return f"http://127.0.0.1:{port}"

    @property
    def admin_token_file(self) -> Path:
        """The token with which `catalog apply` works here. The broker never sees it."""
        return self._state.secrets / "vault-admin-token"

    def admin(self) -> hvac.Client:
        """A client that may do anything. For the stack and for tests."""
        return hvac.Client(url=self.address, token=self.admin_token_file.read_text())

    def start(self) -> None:
        """Start, initialise at the first time, unseal."""
        folder = self._state.folder / "vault"
        folder.mkdir(exist_ok=True)
        address = self.address
        template = Template((REPOSITORY / "vault/server.hcl").read_text())
        configuration = folder / "server.hcl"
        configuration.write_text(
            template.substitute(
                VAULT_API_ADDRESS=address,
                VAULT_DATA=folder / "data",
                VAULT_LISTEN=address.removeprefix("http://"),
            )
        )
        environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(folder)}
        self._processes.start(
            NAME, [self._binary, "server", "-config", configuration], environment=environment
        )
        health = f"{address}/v1/sys/health"
        wait_for(NAME, lambda: answers(health, accept=_ANY_STATE), self._processes)
        self.unseal()
        wait_for(NAME, lambda: answers(health), self._processes)

    def unseal(self) -> None:
        """Initialise where that was never done, and unseal with the kept key."""
        client = hvac.Client(url=self.address)
        if not client.sys.is_initialized():
            made = client.sys.initialize(secret_shares=1, secret_threshold=1)
            # Both in one file first: a crash between two files must not lose the only key.
            self._state.keep_secret("vault-init.json", json.dumps(made))
        made = json.loads((self._state.secrets / "vault-init.json").read_text())
        self._state.keep_secret("vault-admin-token", made["root_token"])
        if client.sys.is_sealed():
            client.sys.submit_unseal_key(made["keys"][0])

    def configure(self, *, jwks_url: str, postgres_port: int, jwt_mount: str = "jwt") -> None:
        """The platform team's part: auth mount, database engine, sample role, audit device. Repeatable."""
        client = self.admin()
        if f"{jwt_mount}/" not in client.sys.list_auth_methods()["data"]:
            client.sys.enable_auth_method("jwt", path=jwt_mount)
        client.write_data(f"auth/{jwt_mount}/config", data={"jwks_url": jwks_url})
        if "database/" not in client.sys.list_mounted_secrets_engines()["data"]:
            client.sys.enable_secrets_engine("database")
        client.write_data(
            "database/config/orders",
            data={
                "plugin_name": "postgresql-database-plugin",
                "allowed_roles": ["orders-readonly"],
                "connection_url": (
                    "postgresql://{{username}}:{{password}}@127.0.0.1:"
                    f"{postgres_port}/orders?sslmode=disable"
                ),
                "username": "vault_admin",
                "password": self._state.secret("postgres-vault"),
                "password_authentication": "scram-sha-256",
            },
        )
        client.write_data("database/roles/orders-readonly", data=database_role())
        if "file/" not in client.sys.list_enabled_audit_devices()["data"]:
            log = self._state.run / "vault-audit.log"
            client.sys.enable_audit_device("file", options={"file_path": str(log)})


def database_role(ttl: str = "60s", max_ttl: str = "25h") -> dict[str, Any]:
    """The sample database role, from the statements in vault/database/."""
    folder = REPOSITORY / "vault/database"
    return {
        "db_name": "orders",
        "creation_statements": [(folder / "orders-readonly.creation.sql").read_text()],
        "revocation_statements": [(folder / "orders-readonly.revocation.sql").read_text()],
        "renew_statements": [(folder / "orders-readonly.renew.sql").read_text()],
        "default_ttl": ttl,
        "max_ttl": max_ttl,
    }
