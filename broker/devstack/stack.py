"""The whole stack: PostgreSQL, SPIRE, Vault and the broker, on loopback, in one state folder.

What always holds: `up` twice is harmless; whatever crashed before, the next `up` makes it whole; `down` leaves no
process and no listening port; several stacks with folders of their own do not disturb each other.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from broker.devstack import broker_process as broker
from broker.devstack import parts, postgres, spire, vault
from broker.devstack.broker_process import BrokerProcess, Surroundings
from broker.devstack.instances import Instances
from broker.devstack.parts import REPOSITORY, Say
from broker.devstack.processes import Processes
from broker.devstack.state import State, default_state_folder
from broker.devstack.waiting import NotHealthyError, answers

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


class _Lazily(Mapping[str, Path]):
    """Binaries that are looked for when one is needed: stopping and looking at a stack needs none."""

    def __init__(self, find: Callable[[], dict[str, Path]]) -> None:
        self._find = find
        self._found: dict[str, Path] | None = None

    def __getitem__(self, name: str) -> Path:
        if self._found is None:
            self._found = self._find()
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found or {})

    def __len__(self) -> int:
        return len(self._found or {})


class DevStack:
    """See the module."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        say: Say = lambda _line: None,
        around: Surroundings | None = None,
    ) -> None:
        self._around = around or Surroundings()
        self.state = State(folder or default_state_folder())
        self._say = say
        self._processes = Processes(self.state.run)
        self._postgres = _Lazily(lambda: parts.find_postgres(say))
        self._spire = _Lazily(lambda: parts.find(parts.SPIRE, say))
        self._vault = _Lazily(lambda: parts.find(parts.VAULT, say))

    def up(self, *, with_broker: bool = True, replicas: int | None = None) -> None:
        """Bring everything up that is not up, and wait until it is healthy. Several brokers share a database of their own;
        without `replicas` there are as many as before.

        Raises:
            StackError: not on this machine.
            StateError: not in this folder.
            PartMissingError: a binary cannot be had.
            NotHealthyError: a part does not come up.
        """
        _check_machine()
        self.find_parts()
        with self.state.locked():
            self.state.make()
            self._want(replicas)
            with ThreadPoolExecutor() as pool:
                database = pool.submit(self._bring_up, postgres.NAME)
                keys = pool.submit(self._start_spire)
                secrets = pool.submit(self._bring_up, vault.NAME)
                for work in (database, keys, secrets):
                    work.result()
            self.vault.configure(jwks_url=self.spire.jwks_url, postgres_port=self.postgres.port)
            self.spire.register_broker()
            self.instances.end_lost()
            if self.replicas > 1:
                self.postgres.make_store()
            for one in self.brokers:
                one.write_files(postgres_port=self.postgres.port)
            self.broker.apply_catalog()
            if with_broker:
                for one in self.brokers:
                    self._bring_up(one.name)

    def find_parts(self) -> dict[str, Path]:
        """Where the binaries are, getting first those that are missing.

        Raises:
            PartMissingError: one cannot be had.
        """
        return {
            **{name: self._postgres[name] for name in parts.POSTGRES},
            **{name: self._spire[name] for name in parts.SPIRE.binaries},
            **{name: self._vault[name] for name in parts.VAULT.binaries},
        }

    def down(self, *, purge: bool = False) -> None:
        """Stop everything; with `purge`, delete the state as well."""
        if not self.state.folder.exists():
            return
        if any(self.state.folder.iterdir()) and not (self.state.folder / "lock").exists():
            message = f"{self.state.folder} is not the state folder of a stack"
            raise StackError(message)
        with self.state.locked():
            self._processes.find_lost(self.parts)
            for name in reversed(self.parts):
                if self._processes.running(name) is not None:
                    self._say(f"stopping {name}")
                self.stop_part(name)
            if purge:
                shutil.rmtree(self.state.aside, ignore_errors=True)
                shutil.rmtree(self.state.folder)

    def status(self) -> list[PartStatus]:
        """How each part is. Looks only; starts nothing."""
        if not self.state.exists:
            return [PartStatus(name=name, pid=None, address="", healthy=False) for name in PARTS]
        found = []
        for name in self.parts:
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
            **{one.name: one.start for one in self.brokers},
        }
        starts[name]()

    def stop_part(self, name: str) -> None:
        """Stop one part in its own orderly way."""
        # PostgreSQL waits for its clients on SIGTERM; on SIGINT it ends their sessions.
        how = signal.SIGINT if name == postgres.NAME else signal.SIGTERM
        self._processes.stop(name, how=how, patience=20)

    def kill_part(self, name: str) -> None:
        """SIGKILL one part."""
        self._processes.kill(name)

    def is_running(self, name: str) -> bool:
        """Whether a part's process is alive."""
        return self._processes.running(name) is not None

    def log_files(self, names: Sequence[str] = ()) -> list[Path]:
        """Where the parts log."""
        return [self._processes.log_file(name) for name in names or self.parts]

    @property
    def replicas(self) -> int:
        """How many brokers there are."""
        return int(self.state.read().get("replicas", 1)) if self.state.exists else 1

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of all parts; those of brokers come last."""
        return PARTS + tuple(one.name for one in self.brokers[1:])

    @property
    def postgres(self) -> postgres.Postgres:
        """PostgreSQL."""
        return postgres.Postgres(self.state, self._processes, self._postgres)

    @property
    def spire(self) -> spire.Spire:
        """SPIRE."""
        return spire.Spire(self.state, self._processes, self._spire)

    @property
    def vault(self) -> vault.Vault:
        """Vault."""
        return vault.Vault(self.state, self._processes, self._vault)

    @property
    def broker(self) -> BrokerProcess:
        """The broker; where there are several, the first."""
        return self.brokers[0]

    @property
    def brokers(self) -> list[BrokerProcess]:
        """Every broker."""
        replicas = self.replicas
        store = self.postgres.store if replicas > 1 else None
        near = replace(self._around, far=None)
        return [
            BrokerProcess(
                self.state,
                self._processes,
                self.spire,
                self.vault,
                number=number,
                store=store,
                around=self._around if number == replicas > 1 else near,
            )
            for number in range(1, replicas + 1)
        ]

    @property
    def instances(self) -> Instances:
        """Commands that run as agent instances."""
        return Instances(self.state, self.spire, self._say)

    def agent_environment(self) -> dict[str, str]:
        """What an agent's process needs to find SPIRE and the broker."""
        return {
            "SPIFFE_ENDPOINT_SOCKET": f"unix://{self.spire.agent_socket}",
            "TASKLEASE_BROKER": ",".join(one.address for one in self.brokers),
        }

    def _want(self, replicas: int | None) -> None:
        if replicas is None or replicas == self.replicas:
            return
        for one in self.brokers:  # another number, another store
            self.stop_part(one.name)
        with self.state.changing() as content:
            content["replicas"] = replicas

    def _start_spire(self) -> None:
        for name in (spire.SERVER, spire.AGENT, spire.OIDC):
            self._bring_up(name)

    def _bring_up(self, name: str) -> None:
        """Start a part that is not up; one that runs but does not answer is started anew."""
        began = time.monotonic()
        process = self._processes.running(name)
        if process is not None and not self._probe(name)[1]:
            self._say(f"{name} runs but is not healthy: starting it anew")
            self.stop_part(name)
        try:
            self.start_part(name)
        except NotHealthyError as error:
            if not error.gone:
                raise
            # It ended by itself: perhaps somebody took its port meanwhile. The second try takes a free one.
            self._say(f"{name} stopped by itself: starting it once more")
            self.start_part(name)
        same = process is not None and self._processes.running(name) == process
        self._say(f"{name} is up already" if same else f"{name} is up after {time.monotonic() - began:.1f} s")

    def _probe(self, name: str) -> tuple[str, bool]:
        if name == postgres.NAME:
            return f"127.0.0.1:{self.postgres.port}", self.postgres.healthy()
        if name == vault.NAME:
            return self.vault.address, answers(f"{self.vault.address}/v1/sys/health")
        for one in self.brokers:
            if name == one.name:
                return one.address, one.healthy()
        socket = {spire.SERVER: self.spire.server_socket, spire.AGENT: self.spire.agent_socket}.get(name)
        return f"unix://{socket}" if socket else self.spire.jwks_url, self.spire.healthy(name)


def _check_machine() -> None:
    if os.geteuid() != 0:
        message = (
            "the stack gives every agent instance a group of its own, which takes root: run it with sudo, or "
            "use docker compose"
        )
        raise StackError(message)
    if not all((REPOSITORY / name).is_dir() for name in ("spire", "vault", "examples")):
        message = (
            "the configuration of SPIRE and Vault (the folders spire/ and vault/) comes with a checkout of the "
            "repository, not with the installed package: run this in a checkout (pip install -e .)"
        )
        raise StackError(message)
