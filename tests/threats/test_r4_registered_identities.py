"""R4: whoever writes a catalog, and whoever is an agent, can register no identity but that of an instance of a class."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from broker.adapters.spire.registry import SpireWorkloadRegistry
from broker.adapters.spire.tcp_channel import tcp_channel
from broker.cli.main import assemble
from broker.devstack.state import BROKER_ID, NODE_ID, TRUST_DOMAIN
from broker.domain.spiffe import SpiffeId
from broker.ports.registry import RegistryRefusedError
from tests.integration.registry.spire_alone import minted, server_port
from tests.threats.world import World
from tests.unit.usecases.test_plan_workloads import a_class, wanted


def entries(world: World) -> dict[str, dict[str, Any]]:
    shown = json.loads(world.stack.spire._server("entry", "show", "-output", "json"))
    return {entry["id"]: entry for entry in shown.get("entries", [])}


def workload(world: World, command: str, *words: str) -> Result:
    config = ["--config", str(world.stack.broker.config_file)]
    return CliRunner().invoke(assemble(["workload"]), ["workload", command, *config, *words])


def catalog(folder: Path, fields: str) -> str:
    file = folder / "catalog.yaml"
    file.write_text(
        f"version: 1\nagent_classes:\n  bot:\n    task_types: []\n    attestation: {{kind: docker}}\n    {fields}\n"
    )
    return str(file)


@pytest.mark.parametrize(
    "fields",
    [
        "instances: 1\n    spiffe_id: /tasklease/broker",
        "instances: 1\n    spiffe_id: '/tasklease/{instance}'",
        f"instances: 1\n    spiffe_id: {BROKER_ID}",
        "instances: 1\n    spiffe_id: 'spiffe://other.test/agent/{class}/{instance}'",
        "instances: 1\n    spiffe_id: '.other.test/agent/{class}/{instance}'",
        "instances: 1\n    spiffe_id: '/agent/other/{instance}'",
        "instances: 1\n    spiffe_id: '/agent/{instance}/x'",
        "instances: 1\n    spiffe_id: '/agent/{class}/{instance}/x'",
        "instances: 1\n    spiffe_id: '/agent/{class}/../../tasklease/{instance}'",
        "instances: 1\n    spiffe_id: /agent/bot/everybody",
        "instances: ['../../tasklease/broker']",
        "instances: ['..']",
        "instances: [other/x]",
        "instances: ['']",
        "instances: ['{class}']",
        "instances: ['x%2fy']",
        "instances: 1\n    parent: /spire/server",
        "instances: 1\n    parent: spiffe://other.test/spire/agent/x",
        "instances: 1\n    admin: true",
        "instances: 1\n    dns_names: [tasklease-broker]",
        "instances: 1\n    federates_with: [other.test]",
    ],
)
def test_a_catalog_that_reaches_beyond_its_classes_registers_nothing(
    world: World, tmp_path: Path, fields: str
) -> None:
    before = entries(world)
    done = workload(world, "apply", "--yes", catalog(tmp_path, fields))
    assert done.exit_code == 1
    assert "catalog.yaml:" in done.stderr
    assert entries(world) == before


def test_the_same_catalog_without_the_reach_is_registered(world: World, tmp_path: Path) -> None:
    done = workload(world, "apply", "--yes", catalog(tmp_path, "instances: ['x']"))
    assert done.exit_code == 0, done.stderr
    entry = entries(world)["tasklease.catalog.bot.x"]
    assert entry["spiffe_id"] == {"trust_domain": TRUST_DOMAIN, "path": "/agent/bot/x"}
    assert (entry["admin"], entry["downstream"], entry["dns_names"]) == (False, False, [])
    assert workload(world, "delete", "--yes", "--class", "bot").exit_code == 0


def test_the_brokers_entry_is_not_the_catalogs_to_change_or_delete(world: World, tmp_path: Path) -> None:
    (broker,) = (
        entry
        for entry in entries(world).values()
        if f"spiffe://{entry['spiffe_id']['trust_domain']}{entry['spiffe_id']['path']}" == BROKER_ID
    )
    assert workload(world, "apply", "--yes", catalog(tmp_path, "instances: 0")).exit_code == 0
    for name in (BROKER_ID, broker["id"]):
        assert workload(world, "delete", "--yes", name).exit_code == 1
    assert entries(world)[broker["id"]] == broker


def test_an_agent_registers_nobody(world: World, tmp_path: Path) -> None:
    """Over SPIRE's own port, with its own SVID and all the API there is."""
    svid = minted(world.stack, "/agent/invoice-bot/hijacked", tmp_path)
    before = entries(world)
    bots = wanted(a_class(), own_id=SpiffeId.parse(BROKER_ID), parent=SpiffeId.parse(NODE_ID))

    async def attempt() -> None:
        async with tcp_channel("127.0.0.1", server_port(world.stack), svid) as channel:
            registry = SpireWorkloadRegistry(channel, address="tcp")
            for call in (
                registry.create(bots),
                registry.update(bots),
                registry.delete([bot.entry_id for bot in bots]),
                anext(registry.pages()),
            ):
                with pytest.raises(RegistryRefusedError):
                    await call

    asyncio.run(attempt())
    assert entries(world) == before
