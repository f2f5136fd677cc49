"""`tasklease policy`: for those who write policies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from broker.adapters.policy.bounded import BoundedPolicy
from broker.adapters.policy.cases import CaseResult, run_cases
from broker.adapters.policy.catalog_bounds import CatalogBoundsPolicy
from broker.adapters.policy.cedar import CedarPolicies
from broker.adapters.policy.comparing import Change, changed_policies, flips
from broker.adapters.policy.explain import Asked, explain
from broker.adapters.policy.files import FixedPolicies
from broker.adapters.policy.schema import schema_for
from broker.cli.output import err, fail, out
from broker.cli.policy_inputs import (
    WITHOUT,
    CatalogOption,
    DomainOption,
    FolderArgument,
    catalog_of,
    policies_of,
)
from broker.cli.policy_simulate import simulate
from broker.cli.policy_trail import replay_trail, shadow
from broker.config.reading import ConfigError
from broker.domain.catalog import Catalog

app = typer.Typer(help="Check, test, compare and explain policies.", no_args_is_help=True)

_COLOURS: Final = {Change.ADDED: "green", Change.REMOVED: "red", Change.CHANGED: "yellow"}
app.command()(simulate)
app.command(name="replay")(replay_trail)
app.command()(shadow)


@app.command()
def check(folder: FolderArgument, catalog: CatalogOption, trust_domain: DomainOption = WITHOUT) -> None:
    """Say everything that is wrong with the policies; exit code 0 when nothing is."""
    policies = policies_of(folder, catalog_of(catalog, trust_domain))
    for notice in policies.notices:
        err.print(f"[yellow]without effect[/]: {notice}", highlight=False)
    out.print(f"[green]good[/]: {len(policies.policies)} policies")


@app.command()
def schema(catalog: CatalogOption) -> None:
    """Print the Cedar schema with the arguments of this catalog's tools, for editors."""
    print(schema_for(catalog_of(catalog, WITHOUT)), end="")


@app.command(name="test")
def run_tests(folder: FolderArgument, catalog: CatalogOption, trust_domain: DomainOption = WITHOUT) -> None:
    """Run the cases beside the policies, within the catalog's bounds; exit code 1 when one fails."""
    listed = catalog_of(catalog, trust_domain)
    results = _run(policies_of(folder, listed), listed, folder)
    if not results:
        fail(f"{folder}: there is no .test.yaml file: a policy without a test is a guess", code=2)
    unsaid = [result for result in results if not result.expected]
    if unsaid:
        places = "\n".join(
            f"{result.file}:{result.line}: {result.name}: expect: say allow or deny" for result in unsaid
        )
        fail(places, code=2)
    failed = [result for result in results if not result.passed]
    for result in failed:
        err.print(f"{result}", highlight=False, markup=False)
    out.print(f"{len(results)} cases, [{'red' if failed else 'green'}]{len(failed)} failed[/]")
    raise typer.Exit(1 if failed else 0)


@app.command(name="explain")
def explain_case(
    folder: FolderArgument,
    catalog: CatalogOption,
    case: Annotated[str, typer.Option(help="The case's name, or a part of it; all that fit are explained.")],
    trust_domain: DomainOption = WITHOUT,
) -> None:
    """Say of a case why it is decided as it is, and what would have to differ."""
    listed = catalog_of(catalog, trust_domain)
    policies = policies_of(folder, listed)
    found = [result for result in _run(policies, listed, folder) if case in result.name]
    if not found:
        fail(f"{folder}: no case has {case!r} in its name", code=2)
    for result in found:
        out.print(f"[bold]{result.name}[/]", highlight=False)
        bound = result.decision
        if not bound.allowed and all(name.startswith("catalog:") for name in bound.policies):
            print(f"deny, by the catalog: {bound.text}. No policy is asked.")
        else:
            print(explain(policies, Asked(context=result.context, catalog=listed)).as_text())
        print()


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(help="The policies as they are.")],
    new: Annotated[Path, typer.Argument(help="The policies as they would be.")],
    catalog: CatalogOption,
    cases: Annotated[
        Path | None,
        typer.Option(help="A folder of .test.yaml files; without it, those beside the new policies."),
    ] = None,
    trust_domain: DomainOption = WITHOUT,
) -> None:
    """Say which policies differ, and which cases they decide differently; exit code 1 when one is."""
    listed = catalog_of(catalog, trust_domain)
    before, after = policies_of(old, listed), policies_of(new, listed)
    for change, name in changed_policies(before.policies, after.policies):
        out.print(f"[{_COLOURS[change]}]{change.value}[/] {name}", highlight=False)
    folder = new if cases is None else cases
    results = _run(before, listed, folder)
    if not results:
        fail(f"{folder}: there is no .test.yaml file, so no decision was compared", code=2)
    found = list(flips(results, _run(after, listed, folder)))
    for flip in found:
        print(flip)
    out.print(f"{len(found)} of {len(results)} decisions differ")
    raise typer.Exit(1 if found else 0)


def _run(policies: CedarPolicies, catalog: Catalog, folder: Path) -> list[CaseResult]:
    try:
        return run_cases(BoundedPolicy(CatalogBoundsPolicy(), FixedPolicies(policies)), catalog, folder)
    except ConfigError as error:
        fail(str(error), code=2)
