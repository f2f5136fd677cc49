"""A real Vault server, initialised and unsealed, with the engines that the sample catalog needs.

What always holds: the key and the root token are in files that only the owner reads, never in a command line or a
log; a Vault whose key was lost (a crash while it was being initialised) is made anew.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any, Final

import hvac
import hvac.exceptions
import requests

from broker.devstack.parts import REPOSITORY
from broker.devstack.processes import Processes
from broker.devstack.state import State
from broker.devstack.waiting import answers, wait_for

NAME: Final = "vault"
_ANY_STATE: Final = (200, 429, 472, 473, 501, 503)


class Vault:
    """One Vault server of a stack."""

    def __init__(self, state: State, processes: Processes, binaries: Mapping[str, Path]) -> None:
        self._state = state
        self._processes = processes
        self._binaries = binaries

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
        return self._client(self.admin_token_file.read_text())

    def start(self) -> None:
        """Start, initialise at the first time, unseal."""
        self._launch()
        if self._client("").sys.is_initialized() and not self._init_file.exists():
            # The answer of the initialisation was lost in a crash, and with it the only key.
            self._processes.stop(NAME)
            shutil.rmtree(self._data)
            self._launch()
        self.unseal()
        wait_for(NAME, lambda: answers(f"{self.address}/v1/sys/health"), self._processes)

    def unseal(self) -> None:
        """Initialise where that was never done, and unseal with the kept key."""
        client = self._client("")
        if not client.sys.is_initialized():
            made = client.sys.initialize(secret_shares=1, secret_threshold=1)
            # Both in one file first: a crash between two files must not lose the only key.
            self._state.keep_secret(self._init_file.name, json.dumps(made))
        made = json.loads(self._init_file.read_text())
        if not self.admin_token_file.exists() or self.admin_token_file.read_text() != made["root_token"]:
            self._state.keep_secret(self.admin_token_file.name, made["root_token"])
        if client.sys.is_sealed():
            client.sys.submit_unseal_key(made["keys"][0])

    @property
    def _data(self) -> Path:
        return self._state.folder / "vault/data"

    @property
    def _init_file(self) -> Path:
        return self._state.secrets / "vault-init.json"

    def _launch(self) -> None:
        folder = self._state.folder / "vault"
        folder.mkdir(exist_ok=True, mode=0o700)
        address = self.address
        template = Template((REPOSITORY / "vault/server.hcl").read_text())
        configuration = folder / "server.hcl"
        text = template.substitute(
            VAULT_API_ADDRESS=address,
            VAULT_DATA=self._data,
            VAULT_LISTEN=address.removeprefix("http://"),
        )
        configuration.write_text(text)
        self._processes.start(
            NAME,
            [self._binaries[NAME], "server", "-config", configuration],
            environment={"PATH": os.environ.get("PATH", ""), "HOME": str(folder)},
            settings=[text],
        )
        health = f"{address}/v1/sys/health"
        wait_for(NAME, lambda: answers(health, accept=_ANY_STATE), self._processes)

    def _client(self, token: str) -> hvac.Client:
        session = requests.Session()
        session.trust_env = False  # no proxy: it is on loopback
        # A token is always given: hvac would take the user's own from the environment or the home folder.
        return hvac.Client(url=self.address, token=token, session=session, verify=True, namespace="")

    def configure(self, *, jwks_url: str, postgres_port: int, jwt_mount: str = "jwt") -> None:
        """The platform team's part: auth mount, database engine, sample role, audit device. Repeatable."""
        client = self.admin()
        if f"{jwt_mount}/" not in client.sys.list_auth_methods()["data"]:
            client.sys.enable_auth_method("jwt", path=jwt_mount)
        _write_if_changed(client, f"auth/{jwt_mount}/config", {"jwks_url": jwks_url})
        if "database/" not in client.sys.list_mounted_secrets_engines()["data"]:
            client.sys.enable_secrets_engine("database")
        connection = {
            "connection_url": (
                f"postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{postgres_port}/orders?sslmode=disable"
            ),
            "username": "vault_admin",
        }
        # Written only when it changed: writing closes the connections of the credentials being made now.
        _write_if_changed(
            client,
            "database/config/orders",
            connection,
            also={
                "plugin_name": "postgresql-database-plugin",
                "allowed_roles": ["orders-*"],
                "password": self._state.secret("postgres-vault"),
                "password_authentication": "scram-sha-256",
            },
        )
        client.write_data("database/roles/orders-readonly", data=database_role())
        if "file/" not in client.sys.list_enabled_audit_devices()["data"]:
            log = self._state.run / "vault-audit.log"
            client.sys.enable_audit_device("file", options={"file_path": str(log)})


def _write_if_changed(
    client: hvac.Client, path: str, wanted: Mapping[str, Any], *, also: Mapping[str, Any] | None = None
) -> None:
    """Write `wanted` and `also`, unless Vault answers with what is `wanted` already."""
    try:
        answer = client.read(path)
    except hvac.exceptions.InvalidPath:
        answer = None
    present = answer["data"] if answer else {}
    present = {**present, **present.get("connection_details", {})}
    if any(present.get(key) != value for key, value in wanted.items()):
        client.write_data(path, data={**wanted, **(also or {})})


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
