"""One SPIRE for the tests of this folder; no entry is left of the test before."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from broker.cli.main import assemble
from broker.devstack.stack import DevStack
from broker.devstack.state import NODE_ID, TRUST_DOMAIN
from tests.integration.registry.spire_alone import spire_alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a command did and said."""

    returncode: int
    stdout: str
    stderr: str


class Registrar:
    """A platform team: its configuration, its catalog, and the command as it is typed."""

    def __init__(self, stack: DevStack, folder: Path) -> None:
        self.stack = stack
        self.folder = folder
        self.catalog = folder / "catalog.yaml"
        self.config = folder / "broker.yaml"
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

    def write(self, classes: str) -> None:
        self.catalog.write_text(f"version: 1\nagent_classes:\n{classes}")

    def write_bots(self, count: int, *, name: str = "bot", gids: str = "70000-71999", more: str = "") -> None:
        self.write(
            f"  {name}:\n    task_types: []\n    attestation: {{kind: unix, gids: {gids}}}\n"
            f"    instances: {count}\n    max_instances: 2000\n{more}"
        )

    def __call__(self, command: str, *words: str, answer: str = "") -> Done:
        """The command, in this process: the tests start it often."""
        result = CliRunner().invoke(
            assemble(["workload"]), ["workload", command, "--config", str(self.config), *words], input=answer
        )
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(returncode=result.exit_code, stdout=result.stdout, stderr=result.stderr)

    def typed(self, command: str, *words: str, answer: str = "", groups: Sequence[int] = ()) -> Done:
        """The command in a process of its own."""
        done = subprocess.run(
            [sys.executable, "-m", "broker", "workload", command, "--config", str(self.config), *words],
            input=answer,
            capture_output=True,
            text=True,
            extra_groups=groups,
            timeout=120,
            check=False,
        )
        return Done(returncode=done.returncode, stdout=done.stdout, stderr=done.stderr)

    def good(self, command: str, *words: str, answer: str = "") -> str:
        done = self(command, *words, answer=answer)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    # What SPIRE's own client says.

    def entries(self) -> dict[str, dict[str, Any]]:
        shown = json.loads(self.stack.spire._server("entry", "show", "-output", "json"))
        return {entry["id"]: entry for entry in shown.get("entries", [])}

    def make(self, entry_id: str, path: str, *words: str) -> None:
        spiffe_id = f"spiffe://{TRUST_DOMAIN}{path}"
        self.stack.spire._server(
            "entry", "create", "-entryID", entry_id, "-spiffeID", spiffe_id, "-parentID", NODE_ID, *words
        )

    def change(self, entry_id: str, path: str, *words: str) -> None:
        spiffe_id = f"spiffe://{TRUST_DOMAIN}{path}"
        self.stack.spire._server(
            "entry", "update", "-entryID", entry_id, "-spiffeID", spiffe_id, "-parentID", NODE_ID, *words
        )


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    with spire_alone(tmp_path_factory.mktemp("registering") / "dev", agent=True) as stack:
        yield stack


@pytest.fixture
def registrar(stack: DevStack, tmp_path: Path) -> Registrar:
    registrar = Registrar(stack, tmp_path)
    for entry_id in registrar.entries():
        stack.spire.delete(entry_id)
    return registrar
