"""`tasklease workload` when SPIRE does only some of what it is told; on a real SPIRE: tests/integration/registry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from broker.cli import registry_session, workload
from broker.domain.workload import EntryId, WorkloadEntry
from broker.ports.registry import EntryResult, RegistryRefusedError, RegistryUnavailableError
from tests.fakes.registry import FakeRegistry


class Registry(FakeRegistry):
    """Goes away after so many calls that write."""

    def __init__(self) -> None:
        super().__init__()
        self.patience = 1000

    async def create(self, entries: Sequence[WorkloadEntry]) -> Sequence[EntryResult]:
        self.patience -= 1
        self.away = self.patience < 0
        return await super().create(entries)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    registry = Registry()

    @asynccontextmanager
    async def opened(_address: str, **_how: object) -> AsyncIterator[Registry]:
        yield registry

    monkeypatch.setattr(registry_session, "open_registry", opened)
    return registry


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "broker.yaml"
    file.write_text(
        """trust_domain: example.test
spiffe_endpoint_socket: unix:///run/agent.sock
vault: {address: "http://127.0.0.1:1"}
catalog: catalog.yaml
registry: {server: "unix:///run/server.sock", parent: /spire/agent/x/y}
"""
    )
    (tmp_path / "catalog.yaml").write_text(
        """version: 1
agent_classes:
  bot:
    task_types: []
    attestation: {kind: unix, gids: 70000-71999}
    instances: 250
    max_instances: 2000
"""
    )
    return file


def run(command: str, config: Path, *words: str) -> Result:
    return CliRunner().invoke(workload.app, [command, "--config", str(config), *words])


def test_cut_off_in_the_middle_it_says_what_is_done_and_what_is_not_known(
    registry: Registry, config: Path
) -> None:
    registry.patience = 2
    done = run("apply", config, "--yes")
    assert done.exit_code == 1
    assert done.stdout.count("\ncreated ") == 200
    assert done.stderr.splitlines() == [
        "error: nobody answers",
        "of 50 entries it is not known: run this again",
    ]
    assert len(registry.entries) == 200
    registry.patience, registry.away = 1000, False
    again = run("apply", config, "--yes")
    assert (again.exit_code, again.stdout.splitlines()[-1]) == (0, "done: 50 of 50")
    assert len(registry.entries) == 250


def test_entries_that_fail_are_named_and_the_others_are_done(registry: Registry, config: Path) -> None:
    registry.failing = {EntryId("tasklease.catalog.bot.7")}
    done = run("apply", config, "--yes")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1] == "done: 249 of 250"
    assert done.stderr.splitlines() == [
        "FAILED spiffe://example.test/agent/bot/7: failed: not now",
        "error: 1 entries are not as the catalog says; the others are",
    ]
    assert run("plan", config).exit_code == 3


def test_a_delete_that_fails_is_said(registry: Registry, config: Path) -> None:
    run("apply", config, "--yes")
    registry.failing = {EntryId("tasklease.catalog.bot.7")}
    done = run("delete", config, "--class", "bot", "--yes")
    assert (done.exit_code, set(registry.entries)) == (1, registry.failing)


@pytest.mark.parametrize("error", [RegistryRefusedError("not you"), RegistryUnavailableError("not there")])
@pytest.mark.parametrize("command", ["plan", "apply", "list"])
def test_a_registry_that_cannot_be_opened_is_one_line(
    config: Path, monkeypatch: pytest.MonkeyPatch, command: str, error: Exception
) -> None:
    class Closed(AbstractAsyncContextManager[Registry]):
        async def __aenter__(self) -> Registry:
            raise error

        async def __aexit__(self, *_error: object) -> None:
            """Was never entered."""

    monkeypatch.setattr(registry_session, "open_registry", lambda _address, **_how: Closed())
    done = run(command, config)
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", f"error: {error}\n")


def test_without_a_server_nothing_is_asked(config: Path) -> None:
    config.write_text(config.read_text().replace('server: "unix:///run/server.sock", ', ""))
    done = run("list", config)
    assert done.exit_code == 2
    assert "say where SPIRE's server is" in done.stderr


def test_what_takes_over_anothers_selectors_is_warned_of(registry: Registry, config: Path) -> None:
    run("apply", config, "--yes")
    catalog = config.with_name("catalog.yaml")
    catalog.write_text(catalog.read_text().replace("bot:", "new-bot:").replace("250", "1"))
    done = run("plan", config)
    assert done.exit_code == 3
    assert done.stderr.startswith(
        "warning: spiffe://example.test/agent/new-bot/1 takes over the selectors of spiffe://example.test/agent/bot/1:"
    )
