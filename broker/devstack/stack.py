"""The whole stack: PostgreSQL, SPIRE, Vault and the broker, on loopback, in one state folder.

What always holds: `up` twice is harmless; whatever crashed before, the next `up` makes it whole; `down` leaves no
process and no listening port; several stacks with folders of their own do not disturb each other.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from broker.devstack import parts, postgres, spire, vault
from broker.devstack import broker_process as broker
from broker.devstack.parts import Say
from broker.devstack.processes import Processes
from broker.devstack.state import State, default_state_folder
from broker.devstack.waiting import answers

PARTS: Final = (
    postgres.NAME,
    spire.SERVER,
    spire.AGENT,
    spire.OIDC,
    vault.NAME,
    broker.NAME,
)


class StackError(Exception):
    """The stack cannot be run here; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartStatus:
    """How one part is."""

    name: str
    pid: int | None
    address: str
    healthy: bool


class DevStack:
    """See the module."""

    def __init__(self, folder: Path | None = None, *, say: Say = lambda _line: None) -> None:
        self.state = State(folder or default_state_folder())
        self._say = say
        self._processes = Processes(self.state.run)
        self._found: tuple[dict[str, Path], dict[str, Path], dict[str, Path]] | None = None

    def up(self, *, with_broker: bool = True) -> None:
        """Bring everything up that is not up, and wait until it is healthy.

        Raises:
            StackError: not on this machine.
            PartMissingError: a binary cannot be had.
            NotHealthyError: a part does not come up.
        """
        if os.geteuid() != 0:
            message = (
                "the stack gives every agent instance a group of its own, which takes root: run it with sudo, or "
                "use docker compose"
            )
            raise StackError(message)
        self._find()
        with self.state.locked():
            self.state.make()
            with ThreadPoolExecutor() as pool:
                database = pool.submit(self._timed, "postgres", self.postgres.start)
                keys = pool.submit(self._timed, "spire-server", self._start_spire)
                secrets = pool.submit(self._timed, "vault", self.vault.start)
                for work in (database, keys, secrets):
                    work.result()
            self.vault.configure(jwks_url=self.spire.jwks_url, postgres_port=self.postgres.port)
            self.spire.register_broker()
            self.broker.write_files(postgres_port=self.postgres.port)
            self.broker.apply_catalog()
            if with_broker:
                self._timed("broker", self.broker.start)

    def down(self, *, purge: bool = False) -> None:
        """Stop everything; with `purge`, delete the state as well."""
        if not self.state.folder.exists():
            return
        with self.state.locked():
            for name in reversed(PARTS):
                if self._processes.running(name) is not None:
                    self._say(f"stopping {name}")
                self.stop_part(name)
        if purge:
            shutil.rmtree(self.state.folder, ignore_errors=True)
            shutil.rmtree(self.state.aside, ignore_errors=True)

    def status(self) -> list[PartStatus]:
        """How each part is. Looks only; starts nothing."""
        if not self.state.exists:
            return [PartStatus(name=name, pid=None, address="", healthy=False) for name in PARTS]
        self._find()
        found = []
        for name in PARTS:
            process = self._processes.running(name)
            address, healthy = self._probe(name) if process is not None else ("", False)
            found.append(
                PartStatus(name=name, pid=process.pid if process else None, address=address, healthy=healthy)
            )
        return found

    def start_part(self, name: str) -> None:
        """Start one part and wait until it is healthy."""
        starts: dict[str, Callable[[], None]] = {
            postgres.NAME: self.postgres.start,
            spire.SERVER: self.spire.start_server,
            spire.AGENT: self.spire.start_agent,
            spire.OIDC: self.spire.start_oidc,
            vault.NAME: self.vault.start,
            broker.NAME: self.broker.start,
        }
        starts[name]()

    def stop_part(self, name: str) -> None:
        """Stop one part in its own orderly way."""
        if name == postgres.NAME and self._processes.running(name) is not None:
            self.postgres.stop()
        else:
            self._processes.stop(name, patience=20)

    def kill_part(self, name: str) -> None:
        """SIGKILL one part."""
        self._processes.kill(name)

    def is_running(self, name: str) -> bool:
        """Whether a part's process is alive."""
        return self._processes.running(name) is not None

    def log_files(self, names: Sequence[str] = PARTS) -> list[Path]:
        """Where the parts log."""
        return [self._processes.log_file(name) for name in names]

    @property
    def postgres(self) -> postgres.Postgres:
        """PostgreSQL."""
        return postgres.Postgres(self.state, self._processes, self._find()[0])

    @property
    def spire(self) -> spire.Spire:
        """SPIRE."""
        return spire.Spire(self.state, self._processes, self._find()[1])

    @property
    def vault(self) -> vault.Vault:
        """Vault."""
        return vault.Vault(self.state, self._processes, self._find()[2]["vault"])

    @property
    def broker(self) -> broker.BrokerProcess:
        """The broker."""
        return broker.BrokerProcess(self.state, self._processes, self.spire, self.vault)

    def agent_environment(self) -> dict[str, str]:
        """What an agent's process needs to find SPIRE and the broker."""
        return {
            "SPIFFE_ENDPOINT_SOCKET": f"unix://{self.spire.agent_socket}",
            "TASKLEASE_BROKER": self.broker.address,
        }

    def _find(self) -> tuple[dict[str, Path], dict[str, Path], dict[str, Path]]:
        if self._found is None:
            self._found = (
                parts.find_postgres(self._say),
                parts.find(parts.SPIRE, self._say),
                parts.find(parts.VAULT, self._say),
            )
        return self._found

    def _start_spire(self) -> None:
        self.spire.start_server()
        self.spire.start_agent()
        self.spire.start_oidc()

    def _timed(self, name: str, start: Callable[[], None]) -> None:
        already = self._processes.running(name) is not None
        began = time.monotonic()
        start()
        what = "is up already" if already else f"is up after {time.monotonic() - began:.1f} s"
        self._say(f"{name} {what}")

    def _probe(self, name: str) -> tuple[str, bool]:
        if name == postgres.NAME:
            return f"127.0.0.1:{self.postgres.port}", self.postgres.healthy()
        if name == vault.NAME:
            return self.vault.address, answers(f"{self.vault.address}/v1/sys/health")
        if name == broker.NAME:
            return self.broker.address, self.broker.healthy()
        socket = {spire.SERVER: self.spire.server_socket, spire.AGENT: self.spire.agent_socket}.get(name)
        return f"unix://{socket}" if socket else self.spire.jwks_url, self.spire.healthy(name)
