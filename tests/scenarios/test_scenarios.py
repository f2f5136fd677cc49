"""Each trace, simulated and on the use cases over a real store: as it says, and the same in both.

Attacks and the work beside them are both reported: `pytest tests/scenarios -s`. Traces from elsewhere run with
`tasklease policy simulate`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from broker.adapters.catalog.arguments import SchemaArguments
from broker.adapters.policy.catalog_bounds import CatalogBoundsPolicy
from broker.adapters.policy.traces import Trace, read_traces
from broker.adapters.policy.tracing import (
    SimulatedWorld,
    StepResult,
    TraceResult,
    by_subject,
    report,
    run_trace,
)
from broker.adapters.store.sqlite import SqliteStore
from broker.usecases.recorded import Trail
from broker.usecases.replaying import replay
from broker.usecases.simulating import Simulation
from tests.fakes.issuer import FakeIssuer
from tests.fakes.system import CountingIds, FakeClock
from tests.scenarios.worlds import TRACES, OnTheStore, the_catalog, the_policy
from tests.unit.usecases.wiring import Broker

CATALOG: Final = the_catalog()
POLICY: Final = the_policy(CATALOG)
ALL: Final = read_traces(TRACES, CATALOG)
COUNTERED: Final = {f"ASI{number:02}" for number in range(1, 11)}
"""OWASP's agentic top ten; of each, what a broker can counter."""


async def simulated(trace: Trace) -> TraceResult:
    simulation = Simulation(policy=POLICY, arguments=SchemaArguments(), catalog=CATALOG)
    return await run_trace(trace, SimulatedWorld(simulation), CATALOG)


def wrong(result: TraceResult) -> list[str]:
    return [f"{step.place}: {step.step.what}: {step.wrong}" for step in result.steps if step.wrong]


def outcome(step: StepResult) -> tuple[Any, ...]:
    if step.decision is None:
        return (step.step.what,)
    return step.step.what, step.decision.verdict, step.decision.reason, step.decision.denial_class


@pytest.mark.parametrize("trace", ALL, ids=lambda trace: trace.model.name)
async def test_it_comes_out_as_it_says_simulated_and_on_the_store(trace: Trace, tmp_path: Path) -> None:
    alone = await simulated(trace)
    assert wrong(alone) == []
    store: Any = SqliteStore.open(f"sqlite:///{tmp_path}/broker.db")
    try:
        clock = FakeClock(trace.model.begins)
        broker = Broker(store, FakeIssuer(), clock, CountingIds(), CATALOG)
        real = await run_trace(trace, OnTheStore(broker, POLICY, CATALOG), CATALOG)
        records = await store.audit_records(0, 10_000)
    finally:
        await store.close()
    assert wrong(real) == []
    assert [outcome(step) for step in real.steps] == [outcome(step) for step in alone.steps]
    # What was recorded is enough to decide all of it again, with the same result.
    trail = Trail(CATALOG)
    again = replay(trail.decisions(records), policy=POLICY, catalog=CATALOG)
    assert (again.flips, trail.unreadable, again.unlisted) == ([], 0, 0)
    assert again.decisions > 0


async def test_attacks_are_stopped_and_work_is_done() -> None:
    results = [await simulated(trace) for trace in ALL]
    subjects = by_subject(results)
    for subject, found in subjects.items():
        print(f"{subject}: {found}")  # noqa: T201 - the report
    whole = report(results)
    print(f"all: {whole}")  # noqa: T201 - as above
    assert subjects.keys() >= COUNTERED
    for subject in COUNTERED:
        assert subjects[subject].attacks, f"{subject}: no attack"
        assert subjects[subject].legitimate, f"{subject}: no work beside it"
    assert (whole.stopped, whole.allowed) == (whole.attacks, whole.legitimate)


async def test_without_its_policies_the_same_agents_are_harmful() -> None:
    """The corpus is not stopped by the catalog alone: otherwise it would show nothing of policies."""
    results = []
    for trace in ALL:
        simulation = Simulation(policy=CatalogBoundsPolicy(), arguments=SchemaArguments(), catalog=CATALOG)
        results.append(await run_trace(trace, SimulatedWorld(simulation), CATALOG))
    whole = report(results)
    assert whole.stopped < whole.attacks / 2
    assert whole.allowed == whole.legitimate
