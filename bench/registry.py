"""A thousand entries applied, and applied again without change: `tasklease workload apply` against SPIRE's own client.

Both are commands, timed from start to end, with the same entries on the same server. SPIRE's is `spire-server entry
create -data FILE`, all in one call; it has no plan, so again it sends everything and is told of each that it exists.
They take turns. Taking away what was made is not timed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

from bench.stack import Measured
from broker.devstack.spire import SERVER
from broker.devstack.state import NODE_ID, TRUST_DOMAIN

FIRST_GROUP: Final = 200_000


def apply(measured: Measured, *, entries: int, rounds: int) -> dict[str, float]:
    """Seconds of each, the medians of the rounds."""
    seconds: dict[str, list[float]] = {
        f"{who}_{what}": [] for who in ("ours", "theirs") for what in ("first", "again")
    }
    with tempfile.TemporaryDirectory(prefix="tasklease-bench-") as name:
        ours, theirs = _Ours(measured, Path(name), entries), _Theirs(measured, Path(name), entries)
        for _ in range(rounds):
            for who, client in (("ours", ours), ("theirs", theirs)):
                seconds[f"{who}_first"].append(client.first())
                seconds[f"{who}_again"].append(client.again())
                client.clean()
    found = {what: median(values) for what, values in seconds.items()}
    return {
        "registry.entries": entries,
        "registry.rounds": rounds,
        f"registry.apply_{entries}_ours_s": found["ours_first"],
        f"registry.apply_{entries}_spire_s": found["theirs_first"],
        f"registry.apply_{entries}_ratio": found["ours_first"] / found["theirs_first"],
        f"registry.again_{entries}_ours_s": found["ours_again"],
        f"registry.again_{entries}_spire_s": found["theirs_again"],
        f"registry.again_{entries}_ratio": found["ours_again"] / found["theirs_again"],
    }


class _Ours:
    def __init__(self, measured: Measured, folder: Path, entries: int) -> None:
        config = measured.stack.broker.config_file
        self._command = [
            sys.executable, "-m", "broker", "workload", "apply", "--yes", "--config", str(config),
        ]  # fmt: skip
        self._full, self._empty = folder / "full.yaml", folder / "empty.yaml"
        self._empty.write_text("version: 1\n")
        self._full.write_text(
            "version: 1\nagent_classes:\n  bench:\n    task_types: []\n"
            f"    attestation: {{kind: unix, gids: {FIRST_GROUP}-{FIRST_GROUP + entries - 1}}}\n"
            f"    instances: {entries}\n    max_instances: {entries}\n"
        )
        self._entries = entries

    def first(self) -> float:
        seconds, said = _timed([*self._command, str(self._full)])
        assert f"done: {self._entries} of {self._entries}" in said, said
        return seconds

    def again(self) -> float:
        seconds, said = _timed([*self._command, str(self._full)])
        assert said.startswith("SPIRE matches the catalog"), said
        return seconds

    def clean(self) -> None:
        _timed([*self._command, str(self._empty)])


class _Theirs:
    def __init__(self, measured: Measured, folder: Path, entries: int) -> None:
        spire = measured.stack.find_parts()[SERVER]
        self._socket = ["-socketPath", str(measured.stack.spire.server_socket)]
        self._create = [str(spire), "entry", "create", "-data", str(folder / "spire.json"), *self._socket]
        self._delete = [str(spire), "entry", "delete", "-file", str(folder / "ids.json"), *self._socket]
        ids = [f"bench-{number}" for number in range(entries)]
        (folder / "ids.json").write_text(json.dumps({"ids": ids}))
        made = [
            {
                "entry_id": entry_id,
                "spiffe_id": f"spiffe://{TRUST_DOMAIN}/agent/bench/{number + 1}",
                "parent_id": NODE_ID,
                "selectors": [{"type": "unix", "value": f"supplementary_gid:{FIRST_GROUP + number}"}],
                "x509_svid_ttl": 600,
                "jwt_svid_ttl": 300,
            }
            for number, entry_id in enumerate(ids)
        ]
        (folder / "spire.json").write_text(json.dumps({"entries": made}))

    def first(self) -> float:
        return _timed(self._create)[0]

    def again(self) -> float:
        return _timed(self._create, code=1)[0]

    def clean(self) -> None:
        _timed(self._delete)


def _timed(command: Sequence[str], *, code: int = 0) -> tuple[float, str]:
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    assert done.returncode == code, done.stdout + done.stderr
    return seconds, done.stdout
