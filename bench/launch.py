"""From `tasklease launch` to the instance's first successful call at the broker: with an identity that waits, and without.

The instance is a program in Python with the SDK, as an agent would be: its own start, and the SDK's, are in the figure.
Both ways run on one SPIRE, in turns, each with a ledger and a range of groups of its own. After each run with the pool
it is waited until that is full again, which is not timed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Final

from bench.stack import Measured
from broker.adapters.node.ledger import SqliteLedger
from broker.devstack.state import NODE_ID, TRUST_DOMAIN
from broker.domain.launching import IdentityState

READY: Final = 4
PATIENCE: Final = 120.0
AGENT: Final = """
import time
from broker.client import SyncBroker
with SyncBroker.connect() as broker:
    broker.list_tasks()
    print(time.monotonic(), flush=True)
"""


def first_call(measured: Measured, *, runs: int) -> dict[str, float]:
    """Seconds of each way, medians and the longest. Identities that still wait at the end stay, until they expire."""
    with tempfile.TemporaryDirectory(prefix="tasklease-bench-") as name:
        warm = _Node(measured, Path(name) / "warm", first_group=210_000, ready=READY)
        cold = _Node(measured, Path(name) / "cold", first_group=220_000, ready=0)
        seconds: dict[str, list[float]] = {"warm": [], "cold": []}
        with warm.pool():
            for _ in range(runs):
                warm.wait_until_full()
                seconds["warm"].append(warm.launch())
                seconds["cold"].append(cold.launch())
    return {
        "launch.runs": runs,
        **{f"launch.{way}_p50_s": median(values) for way, values in seconds.items()},
        **{f"launch.{way}_max_s": max(values) for way, values in seconds.items()},
    }


class _Node:
    def __init__(self, measured: Measured, folder: Path, *, first_group: int, ready: int) -> None:
        stack = measured.stack
        folder.mkdir()
        self._broker = stack.broker.address
        self._state = folder / "node"
        self._config = folder / "broker.yaml"
        self._config.write_text(
            f"trust_domain: {TRUST_DOMAIN}\n"
            f"spiffe_endpoint_socket: unix://{stack.spire.agent_socket}\n"
            'vault: {address: "http://127.0.0.1:1"}\n'  # launching has no use for it
            "catalog: catalog.yaml\n"
            "registry:\n"
            f"  server: unix://{stack.spire.server_socket}\n"
            f"  parent: {NODE_ID.removeprefix(f'spiffe://{TRUST_DOMAIN}')}\n"
        )
        (folder / "catalog.yaml").write_text(
            "version: 1\nagent_classes:\n  invoice-bot:\n    task_types: []\n"
            # Root, because this Python's packages may be root's alone.
            f"    attestation: {{kind: unix, gids: {first_group}-{first_group + 999}, user: root}}\n"
            f"    max_instances: 100\n    ready: {ready}\n"
        )

    @contextmanager
    def pool(self) -> Iterator[None]:
        process = subprocess.Popen(
            [sys.executable, "-m", "broker", "pool", *self._ours], stderr=subprocess.DEVNULL
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait(PATIENCE)

    def wait_until_full(self) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            ledger = SqliteLedger(self._state)
            try:
                if len(ledger.identities(states=[IdentityState.READY])) == READY:
                    return
            finally:
                ledger.close()
            if time.monotonic() > end:
                message = "the pool does not fill"
                raise TimeoutError(message)
            time.sleep(0.1)

    def launch(self) -> float:
        words: Sequence[str] = (
            *(sys.executable, "-m", "broker", "launch", "--quiet", *self._ours, "--broker", self._broker),
            *("invoice-bot", "--", sys.executable, "-c", AGENT),
        )
        began = time.monotonic()
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE)
        if done.returncode != 0:
            raise RuntimeError(done.stderr)
        return float(done.stdout) - began

    @property
    def _ours(self) -> tuple[str, ...]:
        return "--config", str(self._config), "--state", str(self._state)
