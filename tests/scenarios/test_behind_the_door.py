"""The traces that need no other clock, by agents with SVIDs of SPIRE's, on a broker with real Vault and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from broker.adapters.policy.traces import Trace, read_traces
from broker.adapters.policy.tracing import run_trace
from broker.demo.callers import Caller
from broker.devstack.stack import DevStack
from broker.devstack.state import TRUST_DOMAIN
from broker.domain.spiffe import SpiffeId
from tests.scenarios.test_scenarios import wrong
from tests.scenarios.worlds import CATALOG, POLICIES, TRACES, BehindTheDoor, the_catalog
from tests.threats.world import World

OURS: Final = the_catalog(TRUST_DOMAIN)


def any_time(trace: Trace) -> bool:
    """Whether neither the hour nor the time between its steps matters."""
    model = trace.model
    ordinary = timedelta(seconds=1)
    return "begins" not in model.model_fields_set and all(step.wait == ordinary for step in model.steps)


ANY_TIME: Final = [trace for trace in read_traces(TRACES, OURS) if any_time(trace)]


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    stack = DevStack(tmp_path_factory.mktemp("scenarios") / "dev", say=print)
    try:
        stack.up()
        stack.stop_part("broker")
        for folder, suffix in ((stack.broker.catalog, ".yaml"), (stack.broker.policies, ".cedar")):
            for path in folder.glob(f"*{suffix}"):
                path.unlink()
        # Vault makes the credentials of one role here; what they are for is said by the catalog.
        catalog = CATALOG.read_text()
        for name in ("crm-readonly", "warehouse-readonly", "iam-admin", "git-write"):
            catalog = catalog.replace(f"path: creds/{name}", "path: creds/orders-readonly")
        catalog = catalog.replace(
            "engine: generic\n    mount: git", "engine: postgresql\n    mount: database"
        )
        (stack.broker.catalog / "scenarios.yaml").write_text(catalog)
        for policy in POLICIES.glob("*.cedar"):
            (stack.broker.policies / policy.name).write_text(policy.read_text())
        stack.up()
        yield stack
    finally:
        stack.down(purge=True)


@pytest.mark.parametrize("trace", ANY_TIME, ids=lambda trace: trace.model.name)
async def test_it_comes_out_as_it_says(stack: DevStack, tmp_path: Path, trace: Trace) -> None:
    world = World(stack, tmp_path)
    run = tmp_path.name.replace("_", "-")[-40:]

    def calling(spiffe_id: SpiffeId) -> AbstractContextManager[Caller]:
        # An instance of its own for each trace: what was denied to another one sticks to that one.
        _, _, agent_class, instance = spiffe_id.path.split("/")
        return world.calling(world.svid(f"{run}-{instance}", path=f"agent/{agent_class}"))

    with ExitStack() as block:
        result = await run_trace(trace, BehindTheDoor(calling, block), OURS)
    assert wrong(result) == []


def test_most_traces_need_no_other_clock() -> None:
    listed = read_traces(TRACES, OURS)
    assert len(ANY_TIME) > len(listed) * 0.7
