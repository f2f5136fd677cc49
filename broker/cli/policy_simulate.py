"""`tasklease policy simulate`: traces, decided as the broker would decide them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from broker.adapters.catalog.arguments import SchemaArguments
from broker.adapters.policy.bounded import BoundedPolicy
from broker.adapters.policy.catalog_bounds import CatalogBoundsPolicy
from broker.adapters.policy.files import FixedPolicies
from broker.adapters.policy.traces import Trace, read_traces
from broker.adapters.policy.tracing import SimulatedWorld, TraceResult, by_subject, report, run_trace
from broker.cli.output import fail, out
from broker.cli.policy_inputs import (
    WITHOUT,
    CatalogOption,
    DomainOption,
    FolderArgument,
    catalog_of,
    policies_of,
)
from broker.config.reading import ConfigError
from broker.domain.catalog import Catalog
from broker.ports.policy import PolicyEngine
from broker.usecases.simulating import Simulation


def simulate(
    folder: FolderArgument,
    traces: Annotated[list[Path], typer.Argument(help="Files of traces, or folders of *.trace.yaml.")],
    catalog: CatalogOption,
    trust_domain: DomainOption = WITHOUT,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Every step, not only what is wrong.")
    ] = False,
) -> None:
    """Take traces step by step, without issuing anything; exit code 1 when a step does not come out as it says."""
    listed = catalog_of(catalog, trust_domain)
    policy = BoundedPolicy(CatalogBoundsPolicy(), FixedPolicies(policies_of(folder, listed)))
    try:
        found = [trace for place in traces for trace in read_traces(place, listed)]
    except ConfigError as error:
        fail(str(error), code=2)
    if not found:
        fail("there is no trace: nothing was simulated", code=2)
    results = asyncio.run(_run(found, policy, listed))
    for result in results:
        _show(result, everything=verbose)
    for subject, one in by_subject(results).items():
        out.print(f"[dim]{subject}[/]: {one}", highlight=False)
    wrong = sum(not result.passed for result in results)
    out.print(
        f"{len(results)} traces, [{'red' if wrong else 'green'}]{wrong} not as they say[/]", highlight=False
    )
    out.print(str(report(results)), highlight=False)
    raise typer.Exit(1 if wrong else 0)


async def _run(traces: list[Trace], policy: PolicyEngine, catalog: Catalog) -> list[TraceResult]:
    arguments = SchemaArguments()
    results = []
    for trace in traces:
        simulation = Simulation(policy=policy, arguments=arguments, catalog=catalog)
        results.append(await run_trace(trace, SimulatedWorld(simulation), catalog))
    return results


def _show(result: TraceResult, *, everything: bool) -> None:
    shown = [step for step in result.steps if everything or step.wrong]
    if not shown:
        return
    out.print(Text(f"{result.trace.model.name} ({result.trace.model.kind})", style="bold"))
    for step in shown:
        decision = step.decision
        if step.wrong:
            out.print(Text(f"  {step.place}: {step.step.what}: {step.wrong}", style="red"))
        elif decision is None:
            out.print(Text(f"  {step.step.what}", style="dim"))
        else:
            why = ", ".join(decision.policies) if decision.allowed else f"{decision.reason}: {decision.text}"
            style = "green" if decision.allowed else "yellow"
            out.print(Text.assemble(f"  {step.step.what}: ", (decision.verdict.value, style), f" ({why})"))
