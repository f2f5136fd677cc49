"""A node on which instances are launched: the commands as they are typed, and what there is afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from broker.adapters.node import probe
from broker.adapters.node.ledger import SqliteLedger
from broker.adapters.node.processes import ProcNode, all_groups
from broker.devstack.stack import DevStack
from broker.devstack.state import NODE_ID, TRUST_DOMAIN
from broker.domain.launching import IdentityState, LaunchedIdentity

PATIENCE: Final = 60
GROUPS: Final = range(70000, 80000)
"""Instances' own, of all tests."""

SVIDS: Final = (
    "import runpy, sys; probe = runpy.run_path(sys.argv[1], run_name='probe');"
    "print(*probe['ask'](sys.argv[2]), sep='\\n', flush=True)"
)
"""Prints whose SVIDs this process gets."""

FOREVER: Final = ("/bin/sleep", "100000")


class Node:
    """One node: SPIRE of a stack, a ledger and a catalog of its own."""

    def __init__(self, stack: DevStack, folder: Path) -> None:
        self.stack = stack
        self.folder = folder
        self.state = folder / "node"
        self.config = folder / "broker.yaml"
        self.catalog = folder / "catalog.yaml"
        self._started: list[subprocess.Popen[str]] = []
        self.config.write_text(
            f"""trust_domain: {TRUST_DOMAIN}
spiffe_endpoint_socket: unix://{stack.spire.agent_socket}
vault: {{address: "http://127.0.0.1:1"}}
catalog: catalog.yaml
registry:
  server: unix://{stack.spire.server_socket}
  parent: {NODE_ID.removeprefix(f"spiffe://{TRUST_DOMAIN}")}
"""
        )
        self.write()

    def write(
        self, *, gids: str = "70000-70999", most: int = 200, ready: int = 0, more: str = "", unix: str = ""
    ) -> None:
        self.catalog.write_text(
            "version: 1\nagent_classes:\n  bot:\n    task_types: []\n"
            f"    attestation: {{kind: unix, gids: {gids}{unix}}}\n    max_instances: {most}\n    ready: {ready}\n"
            f"    x509_svid_ttl: 10s\n    jwt_svid_ttl: 10s\n{more}"
        )

    def command(self, *words: str, options: Sequence[str] = (), agent_class: str = "bot") -> list[str]:
        ours = ["--config", str(self.config), "--state", str(self.state), *options]
        return [sys.executable, "-m", "broker", "launch", *ours, agent_class, "--", *words]

    def launch(
        self, *words: str, options: Sequence[str] = (), agent_class: str = "bot", text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Launch, to the end."""
        return subprocess.run(
            self.command(*words, options=options, agent_class=agent_class),
            capture_output=True,
            text=True,
            input=text,
            timeout=PATIENCE,
            check=False,
        )

    def start(self, *words: str, options: Sequence[str] = ()) -> Launched:
        """Launch, and wait until the command runs."""
        process = subprocess.Popen(
            self.command(*words, options=options), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._started.append(process)
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("instance spiffe://"), line + process.stderr.read()
        spiffe_id = line.split()[1]
        return Launched(self, process, spiffe_id)

    def kill_launchers(self) -> None:
        """What a test that failed left running, so that the others do not fail with it."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.communicate()

    def whose(self) -> tuple[str, ...]:
        """Words of a command that prints whose SVIDs it gets."""
        return (
            *("/usr/bin/python3", "-I", "-S", "-c", SVIDS, str(Path(probe.__file__))),
            str(self.stack.spire.agent_socket),
        )

    @contextmanager
    def pool(self, *, ready: int) -> Iterator[subprocess.Popen[bytes]]:
        """A pool that runs, and is full."""
        command = [
            sys.executable,
            "-m",
            "broker",
            "pool",
            "--config",
            str(self.config),
            "--state",
            str(self.state),
        ]
        process = subprocess.Popen(command)
        try:
            eventually(lambda: len(self.identities(IdentityState.READY)) == ready)
            yield process
        finally:
            process.terminate()
            process.wait(PATIENCE)

    def tidy(self) -> subprocess.CompletedProcess[str]:
        """What a timer does where no pool runs."""
        words = ["pool", "--once", "--config", str(self.config), "--state", str(self.state)]
        return subprocess.run(
            [sys.executable, "-m", "broker", *words],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    # What there is.

    def identities(self, *states: IdentityState) -> tuple[LaunchedIdentity, ...]:
        ledger = SqliteLedger(self.state)
        try:
            return ledger.identities(states=states)
        finally:
            ledger.close()

    def identity(self, spiffe_id: str) -> LaunchedIdentity:
        (found,) = [one for one in self.identities() if one.spiffe_id == spiffe_id]
        return found

    def entries(self) -> dict[str, dict[str, Any]]:
        """What SPIRE's own client shows of those that were launched."""
        shown = json.loads(self.stack.spire._server("entry", "show", "-output", "json"))
        return {
            entry["id"]: entry
            for entry in shown.get("entries", [])
            if entry["id"].startswith("tasklease.launch.")
        }

    def groups_in_use(self) -> set[int]:
        return {group for group in ProcNode().groups_in_use() if group in GROUPS}

    def processes(self) -> list[str]:
        """Processes that name this node's folder: launchers, watchers, those that work for them."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit() and folder.name != str(os.getpid()):
                words = _words_of(int(folder.name))
                if str(self.state) in words:
                    found.append(words)
        return found

    def is_clean(self) -> bool:
        """Nothing runs, nothing is at SPIRE, every number is free or cools down."""
        return (
            not self.entries()
            and not self.groups_in_use()
            and not self.processes()
            and all(one.state is IdentityState.COOLING for one in self.identities())
        )


class Launched:
    """A launch under way."""

    def __init__(self, node: Node, process: subprocess.Popen[str], spiffe_id: str) -> None:
        self.node = node
        self.process = process
        self.spiffe_id = spiffe_id
        self.launcher = process.pid
        self.group = node.identity(spiffe_id).group
        eventually(lambda: len(self._children()) == 2 and self.child != 0)
        self.watcher = next(pid for pid in self._children() if pid != self.child)

    def _children(self) -> list[int]:
        path = Path(f"/proc/{self.launcher}/task/{self.launcher}/children")
        return [int(word) for word in path.read_text().split()]

    @property
    def child(self) -> int:
        """The command: the one that has the group."""
        for pid in self._children():
            groups = Path(f"/proc/{pid}/status").read_text().partition("Groups:\t")[2].split("\n")[0]
            if str(self.group) in groups.split():
                return pid
        return 0

    def kill(self, *who: str) -> None:
        pids = [getattr(self, name) for name in who]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    def wait(self) -> int:
        code = self.process.wait(PATIENCE)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        return code


def _words_of(pid: int) -> str:
    """What a process was started as; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _with_groups() -> list[str]:
    """Processes that have a group of an instance's."""
    return [f"{pid}: {_words_of(pid)}" for pid, groups in all_groups() if not groups.isdisjoint(GROUPS)]


def eventually(holds: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Wait for something that nobody tells of."""
    end = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < end, f"it did not come to that; with groups of instances: {_with_groups()}"
        time.sleep(0.05)
