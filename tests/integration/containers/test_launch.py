"""`tasklease launch` of containers, on the host of the whole stack: an identity for each, from a label of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from broker.adapters.node.ledger import SqliteLedger
from broker.domain.launching import IdentityState
from tests.integration.containers.conftest import Stack
from tests.integration.containers.test_stack import SVID
from tests.integration.launching.node import eventually

pytestmark = [pytest.mark.containers, pytest.mark.timeout(300)]

PATIENCE: Final = 60
CATALOG: Final = """version: 1
agent_classes:
  crate:
    task_types: []
    attestation: {kind: docker}
    x509_svid_ttl: 10s
    jwt_svid_ttl: 10s
"""
ASLEEP: Final = f"""{SVID}
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))  # nothing ends process 1 that it does not take
sys.stdout.flush()
signal.pause()
"""


class Host:
    """The machine on which the containers run."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self._stack = stack
        self.config = folder / "broker.yaml"
        self._state = folder / "node"
        self._catalog = folder / "catalog.yaml"
        self.write(ready=0)
        self.config.write_text(
            f"""trust_domain: dev.tasklease.test
spiffe_endpoint_socket: unix://{self._volume("spire-agent-socket")}/agent.sock
vault: {{address: "http://127.0.0.1:1"}}
catalog: catalog.yaml
registry:
  server: unix://{self._volume("spire-server-socket")}/api.sock
  parent: /spire/agent/x509pop/compose-node
  settles: 3s
"""
        )

    def write(self, *, ready: int) -> None:
        self._catalog.write_text(f"{CATALOG}    ready: {ready}\n")

    @contextmanager
    def pool(self) -> Iterator[None]:
        words = ("pool", "--config", str(self.config), "--state", str(self._state))
        with subprocess.Popen([sys.executable, "-m", "broker", *words]) as process:
            try:
                yield
            finally:
                process.terminate()

    def ready(self) -> int:
        ledger = SqliteLedger(self._state)
        try:
            return len(ledger.identities(states=[IdentityState.READY]))
        finally:
            ledger.close()

    def _volume(self, name: str) -> str:
        path: str = self._stack.client.volumes.get(f"{self._stack.project}_{name}").attrs["Mountpoint"]
        return path

    def words(self, *container: str) -> list[str]:
        """A launch: options of `docker run`, image, command."""
        socket = f"{self._stack.project}_spire-agent-socket:/run/spire:ro"
        environment = "SPIFFE_ENDPOINT_SOCKET=unix:///run/spire/agent.sock"
        return [
            *(sys.executable, "-m", "broker", "launch", "--config", str(self.config)),
            *("--state", str(self._state), "crate", "--"),
            *("--network", "none", "--cap-drop", "ALL", "--volume", socket, "--env", environment),
            *container,
        ]

    def launch(self, *container: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.words(*container), capture_output=True, text=True, timeout=PATIENCE, check=False
        )

    @contextmanager
    def started(self) -> Iterator[tuple[subprocess.Popen[str], str]]:
        """A container that stays, and whose SVID it says it got."""
        with subprocess.Popen(
            self.words("tasklease/agent:dev", "-c", ASLEEP),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdout is not None
            try:
                yield process, process.stdout.readline().strip()
            finally:
                process.kill()

    def entries(self) -> list[str]:
        shown = self._stack.service("spire-server").exec_run(
            [
                *("/opt/spire/bin/spire-server", "entry", "show", "-output", "json"),
                *("-socketPath", "/run/spire-server/api.sock"),
            ]
        )
        entries: list[dict[str, Any]] = json.loads(shown.output)["entries"]
        return [entry["id"] for entry in entries if entry["id"].startswith("tasklease.launch.crate.")]

    def containers(self) -> list[str]:
        filters = {"label": "tasklease.instance", "volume": f"{self._stack.project}_spire-agent-socket"}
        found = self._stack.client.containers.list(all=True, filters=filters)
        names = [container.name for container in found]
        return [name for name in names if name.startswith("tasklease-crate-")]

    def is_clean(self) -> bool:
        return not self.entries() and not self.containers()


@pytest.fixture
def host(stack: Stack, tmp_path: Path) -> Host:
    return Host(stack, tmp_path)


def test_each_container_is_an_instance_of_its_own_and_nothing_is_left(host: Host) -> None:
    seen = []
    for code in (0, 3):
        done = host.launch("tasklease/agent:dev", "-c", f"{SVID}\nraise SystemExit({code})")
        assert done.returncode == code, done.stderr
        spiffe_id = done.stderr.split()[1]
        assert spiffe_id.startswith("spiffe://dev.tasklease.test/agent/crate/")
        assert done.stdout.strip() == f"['{spiffe_id}']"
        assert host.is_clean()
        seen.append(spiffe_id)
    assert len(set(seen)) == 2


def test_two_at_a_time_are_two(host: Host) -> None:
    with host.started() as (one, first), host.started() as (other, second):
        assert first.startswith("['spiffe://")
        assert second.startswith("['spiffe://")
        assert first != second
        assert (len(host.entries()), len(host.containers())) == (2, 2)
        for process in (one, other):
            process.send_signal(signal.SIGTERM)
        for process in (one, other):
            assert process.wait(PATIENCE) == 7
        assert host.is_clean()


def test_when_the_launcher_is_killed_the_container_goes_too(host: Host) -> None:
    with host.started() as (process, spiffe_id):
        assert spiffe_id.startswith("['spiffe://")
        process.kill()
        eventually(host.is_clean)


def test_when_the_container_is_killed_its_entry_goes(host: Host, stack: Stack) -> None:
    with host.started() as (process, _):
        (name,) = host.containers()
        stack.client.containers.get(name).kill()
        assert process.wait(PATIENCE) == 137
        assert host.is_clean()


def test_a_pool_has_one_ready_so_that_no_container_waits(host: Host) -> None:
    host.write(ready=1)
    with host.pool():
        eventually(lambda: len(host.entries()) == 1)
        (waits,) = host.entries()
        eventually(lambda: host.ready() == 1)
        with host.started() as (_, said):
            assert said == f"['spiffe://dev.tasklease.test/agent/crate/{waits.rpartition('.')[2]}']"
            eventually(lambda: host.ready() == 1)  # the next one
            assert len(host.entries()) == 2
        host.write(ready=0)
        eventually(host.is_clean)


def test_nobody_chooses_whose_label_it_has(host: Host) -> None:
    done = host.launch("--label", "tasklease.instance=crate/another", "tasklease/agent:dev", "-c", SVID)
    assert done.returncode != 0
    assert "it is not to be given" in done.stderr
    assert host.is_clean()
