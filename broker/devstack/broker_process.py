"""The broker of a stack: its configuration, its catalog, its process.

What always holds: the broker gets no Vault token, by file or environment; the catalog is the user's once they changed
it, and until then follows the stack's port of PostgreSQL.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from broker.adapters.vault import provisioning
from broker.config.catalog import load_catalog
from broker.devstack.parts import REPOSITORY
from broker.devstack.postgres import SharedStore
from broker.devstack.processes import Processes
from broker.devstack.spire import Spire
from broker.devstack.state import BROKER_GROUP, BROKER_ID, NODE_ID, TRUST_DOMAIN, State
from broker.devstack.vault import Vault
from broker.devstack.waiting import wait_for

NAME: Final = "broker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Far:
    """For tests: another host, on which a broker runs."""

    within: tuple[str, ...]
    """The words before a command that is to run there."""

    here: str
    """Where this host's ports are reached from there."""

    there: str
    """Where that host is reached from here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """For tests: what is between the brokers and the rest of the stack."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """More of every broker's environment."""

    vault_address: str = ""
    """Where they find Vault instead of where it is."""

    far: Far | None = None
    """Where the last of several brokers runs."""


def name_of(number: int) -> str:
    """What a stack's broker of that number, from 1, is called."""
    return NAME if number == 1 else f"{NAME}-{number}"


class BrokerProcess:
    """One broker of a stack. `store` is the database that it shares with others; by itself it has a file."""

    def __init__(  # noqa: PLR0913 - what it is put together from
        self,
        state: State,
        processes: Processes,
        spire: Spire,
        vault: Vault,
        *,
        number: int = 1,
        store: SharedStore | None = None,
        around: Surroundings | None = None,
    ) -> None:
        self._around = around or Surroundings()
        self.name = name_of(number)
        self._shared = store
        self._state = state
        self._processes = processes
        self._spire = spire
        self._vault = vault
        self.folder = state.folder / NAME

    @property
    def address(self) -> str:
        """Where agents connect."""
        host = self._around.far.there if self._around.far else "127.0.0.1"
        return f"{host}:{self._port(self.name)}"

    @property
    def authzen_address(self) -> str:
        """Where decisions are asked for over HTTPS."""
        host = self._around.far.there if self._around.far else "127.0.0.1"
        return f"{host}:{self._port(f'{self.name}-authzen')}"

    @property
    def metrics_address(self) -> str:
        """Where Prometheus scrapes."""
        return f"127.0.0.1:{self._port(f'{self.name}-metrics')}"

    @property
    def health_address(self) -> str:
        """Where probes ask."""
        return f"unix:{self._state.socket(self.name.replace(NAME, 'health') + '.sock')}"

    @property
    def config_file(self) -> Path:
        """The configuration file."""
        return self.folder / f"{self.name}.yaml"

    @property
    def catalog(self) -> Path:
        """The catalog's folder: written once, the user's from then on."""
        return self.folder / "catalog"

    @property
    def policies(self) -> Path:
        """The policies' folder: written once, the user's from then on."""
        return self.folder / "policies"

    @property
    def store_url(self) -> str:
        """State and audit."""
        return self._shared.url if self._shared is not None else f"sqlite:///{self.folder / 'broker.db'}"

    def write_files(self, *, postgres_port: int) -> None:
        """Write the configuration; and the sample catalog, unless there is one."""
        self.folder.mkdir(exist_ok=True, mode=0o700)
        self.config_file.write_text(self._configuration())
        self._write_catalog(postgres_port)
        if not self.policies.exists():  # the user's, once they are there
            shutil.copytree(REPOSITORY / "examples/policies", self.policies)

    def _port(self, name: str) -> int:
        return self._state.port(name, in_use=self._processes.running(self.name) is not None)

    def _configuration(self) -> str:
        store, vault = (
            f"url: {self.store_url}",
            f"address: {self._around.vault_address or self._vault.address}",
        )
        if self._shared is not None:
            store += f"\n  password_file: {self._shared.password_file}"
        if (far := self._around.far) is not None:
            store = store.replace("127.0.0.1", far.here) + "\n  allow_plaintext: true"
            vault = vault.replace("127.0.0.1", far.here) + "\n  allow_plain_http: true"
        return f"""# Written by `tasklease dev up` at each start.
trust_domain: {TRUST_DOMAIN}
listen: {self.address}
health_listen: {self.health_address}
metrics_listen: {self.metrics_address}
authzen:
  listen: {self.authzen_address}
broker_id: {BROKER_ID}
spiffe_endpoint_socket: unix://{self._spire.agent_socket}
vault:
  {vault}
store:
  {store}
catalog: catalog
policies: policies
operators: # `spire-server x509 mint` makes SVIDs for them; see docs/operators.md
  - id: spiffe://{TRUST_DOMAIN}/operator/
    roles: [viewer, operator]
  - id: spiffe://{TRUST_DOMAIN}/registrar/
    roles: [registrar]
  - id: spiffe://{TRUST_DOMAIN}/viewer/
    roles: [viewer]
  - id: spiffe://{TRUST_DOMAIN}/enforcer/
    roles: [enforcer]
  - id: spiffe://{TRUST_DOMAIN}/signaller/
    roles: [signaller]
registry:
  server: unix://{self._spire.server_socket}
  parent: {NODE_ID.removeprefix("spiffe://" + TRUST_DOMAIN)}
limits:
  calls_per_second_per_instance: 20000
  burst: 20000
log:
  format: text
"""

    def _write_catalog(self, postgres_port: int) -> None:
        sample = {
            file.name: file.read_text()
            .replace("# yaml-language-server: $schema=../../docs/catalog.schema.json\n", "")
            .replace("port: 5432", f"port: {postgres_port}")
            for file in (REPOSITORY / "examples/catalog").iterdir()
        }
        if self.catalog.exists() and not self._catalog_is_as_written():
            return  # the user's now
        new = self.catalog.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        for name, text in sample.items():
            (new / name).write_text(text)
        with self._state.changing() as content:
            content["catalog"] = _digest_of(new)
        for file in new.iterdir():  # one by one: the broker may be reading the folder
            self.catalog.mkdir(exist_ok=True)
            file.replace(self.catalog / file.name)
        new.rmdir()

    def _catalog_is_as_written(self) -> bool:
        return _digest_of(self.catalog) == self._state.read().get("catalog")

    def apply_catalog(self) -> None:
        """Make Vault match the catalog, as `tasklease catalog apply` does."""
        client = self._vault.admin()
        plan = provisioning.plan(client, load_catalog(self.catalog), provisioning.Names(broker_id=BROKER_ID))
        for item in plan.items:
            provisioning.apply(client, item)

    def start(
        self,
        *,
        crash_at: str = "",
        module: str = "broker",
        also: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Start the broker and wait until it is ready.

        Args:
            crash_at: for crash tests: the step at which it kills itself.
            module: for tests: another module that takes the same words as `tasklease`.
            also: for tests: more of its environment.
        """
        self.launch(crash_at=crash_at, module=module, also=also)
        wait_for(self.name, self.healthy, self._processes)

    def launch(
        self,
        *,
        crash_at: str = "",
        module: str = "broker",
        also: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Start the broker without waiting."""
        within = self._around.far.within if self._around.far else ()
        command = [*within, sys.executable, "-m", module, "serve", "--config", str(self.config_file)]
        if crash_at:
            command += ["--crash-at", crash_at]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("VAULT_")}
        self._processes.start(
            self.name,
            command,
            groups=[BROKER_GROUP],
            environment={
                **environment,
                **self._around.environment,
                **also,
                "PYTHONUNBUFFERED": "1",
                # From a checkout that is not installed, too.
                "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
            },
            settings=[self.config_file.read_text()],
        )

    def healthy(self) -> bool:
        """Whether it says that it is ready."""
        with grpc.insecure_channel(self.health_address) as channel:
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=1)
            except grpc.RpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _digest_of(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        digest.update(f"{file.name}\0{file.read_text()}\0".encode())
    return digest.hexdigest()
