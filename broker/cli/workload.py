"""`tasklease workload`: make SPIRE's entries match the catalog, and look at them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from broker.cli.output import err, fail, out
from broker.cli.registry_session import RegistrySession
from broker.config.catalog import load_catalog
from broker.config.reading import ConfigError
from broker.config.settings import Settings, load_settings
from broker.domain.spiffe import InvalidSpiffeIdError
from broker.domain.workload import WorkloadEntry, as_text, drift
from broker.usecases.apply_workloads import ApplyWorkloads
from broker.usecases.plan_workloads import Action, Change, Plan, UnregistrableError, wanted_entries

app = typer.Typer(help="Register agent instances with SPIRE, as the catalog says.", no_args_is_help=True)

_SHOWN = 20
_WORTH_A_BAR = 200
_MARKS = {Action.CREATE: ("+", "green"), Action.UPDATE: ("~", "yellow"), Action.DELETE: ("-", "red")}
_PAST = {Action.CREATE: "created", Action.UPDATE: "updated", Action.DELETE: "deleted"}

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", help="The broker's configuration: its ID, catalog and registry.")
]
ServerOption = Annotated[
    str,
    typer.Option(
        help="SPIRE's server: unix:///PATH, or HOST:PORT with an admin SVID. Default: registry.server."
    ),
]
ParentOption = Annotated[
    str,
    typer.Option(
        help="SPIFFE ID, or its path, of the SPIRE agent where instances run. Default: registry.parent."
    ),
]
CatalogArgument = Annotated[
    Path | None, typer.Argument(help="The catalog: a YAML file, or a folder. Default: the configuration's.")
]
ClassOption = Annotated[str, typer.Option("--class", help="Only this agent class.")]
AllOption = Annotated[bool, typer.Option("--all", help="Show every entry, however many there are.")]


@app.command()
def plan(
    config: ConfigOption,
    catalog: CatalogArgument = None,
    server: ServerOption = "",
    parent: ParentOption = "",
    show_all: AllOption = False,
) -> None:
    """Show what `apply` would do; exit code 3 when there is something."""
    apply(config, catalog, server, parent, show_all=show_all, dry_run=True)


@app.command()
def apply(
    config: ConfigOption,
    catalog: CatalogArgument = None,
    server: ServerOption = "",
    parent: ParentOption = "",
    show_all: AllOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show only; exit code 3 when there is something.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Make SPIRE's entries match the catalog: shows what will change first, then says of each entry how it went."""
    settings = _settings(config)
    wanted = _wanted(settings, catalog, parent)
    with RegistrySession(settings, server) as session:
        use_case = ApplyWorkloads(session.registry)
        found = session.run(use_case.plan(wanted))
        _show_plan(found, everything=show_all)
        if not found.changes and not found.conflicts:
            out.print(f"[green]SPIRE matches the catalog[/]: {found.unchanged} entries")
            return
        if dry_run:
            raise typer.Exit(3)
        if not found.changes:
            raise typer.Exit(1)
        if not yes and not typer.confirm(f"Change these {len(found.changes)} entries in SPIRE?", err=True):
            raise typer.Exit(1)
        troubled = len(found.conflicts) + _do(session, use_case, found.changes)
        if troubled:
            fail(f"{troubled} entries are not as the catalog says; the others are")


@app.command("list")
def list_(
    config: ConfigOption,
    server: ServerOption = "",
    agent_class: ClassOption = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show the entries that are ours, in the order in which they were made."""
    settings = _settings(config)
    with RegistrySession(settings, server) as session:
        found = [
            entry
            for entry in session.entries()
            if (ownership := entry.ownership) and agent_class in {"", ownership.agent_class}
        ]
    for entry in found:
        ownership = entry.ownership
        if as_json:
            print(json.dumps(_plain(entry)))
        elif ownership is not None:
            out.print(
                Text.assemble(
                    f"{entry.spiffe_id}  ",
                    (f"{ownership.purpose.value}  {as_text(entry.selectors)}  ", "dim"),
                    (f"x509 {as_text(entry.x509_svid_ttl)} jwt {as_text(entry.jwt_svid_ttl)}", "dim"),
                )
            )
    if not as_json:
        err.print(f"{len(found)} entries", style="dim")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A SPIFFE ID or an entry's id.")],
    config: ConfigOption,
    server: ServerOption = "",
    parent: ParentOption = "",
) -> None:
    """Show all entries of that name, ours or not, and how ours differ from the catalog."""
    settings = _settings(config)
    with RegistrySession(settings, server) as session:
        found = [entry for entry in session.entries() if name in _names(entry)]
    if not found:
        fail(f"there is no entry {name}")
    wanted = {entry.entry_id: entry for entry in _wanted(settings, None, parent)}
    for entry in found:
        out.print(Text(str(entry.entry_id), style="bold"))
        for field in fields(WorkloadEntry)[1:]:
            out.print(f"  {field.name:<15} {as_text(getattr(entry, field.name))}", markup=False)
        out.print(f"  {_standing(entry, wanted.get(entry.entry_id))}", markup=False)


@app.command()
def delete(
    config: ConfigOption,
    names: Annotated[
        list[str] | None, typer.Argument(help="SPIFFE IDs or ids of entries, any number.")
    ] = None,
    server: ServerOption = "",
    agent_class: ClassOption = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete entries of ours. Those that the catalog lists come back with the next `apply`.

    An SVID that was issued stays valid until it expires.
    """
    asked = set(names or ())
    if bool(asked) == bool(agent_class):
        fail("name the entries, or say --class", code=2)
    settings = _settings(config)
    with RegistrySession(settings, server) as session:
        everything = session.entries()
        matching = [entry for entry in everything if asked & _names(entry)]
        ours = [
            entry
            for entry in (matching if asked else everything)
            if (ownership := entry.ownership) and (asked or ownership.agent_class == agent_class)
        ]
        for entry in matching:
            if entry.ownership is None:
                err.print(f"{entry.entry_id} is not ours: left alone", markup=False)
        missing = asked - {name for entry in ours for name in _names(entry)}
        if missing or not ours:
            fail(f"there is no entry of ours: {', '.join(sorted(missing)) or f'class {agent_class}'}")
        changes = [Change(action=Action.DELETE, entry=entry) for entry in ours]
        for change in changes:
            _show_change(change)
        if not yes and not typer.confirm(f"Delete these {len(changes)} entries from SPIRE?", err=True):
            raise typer.Exit(1)
        if troubled := _do(session, ApplyWorkloads(session.registry), changes):
            fail(f"{troubled} entries are not deleted")


def _do(session: RegistrySession, use_case: ApplyWorkloads, changes: Sequence[Change]) -> int:
    """Do the changes and say of each how it went; how many are in trouble."""
    counts: Counter[bool] = Counter()

    async def work() -> None:
        with _bar(len(changes)) as bar:
            async for applied in use_case.apply(changes):
                counts[applied.done] += 1
                entry = applied.change.entry
                if applied.done:
                    print(f"{_PAST[applied.change.action]} {entry.spiffe_id}")
                else:
                    err.print(f"FAILED {entry.spiffe_id}: {applied.trouble}", style="red", markup=False)
                bar.advance(bar.task_ids[0])

    try:
        session.run(work())
    finally:
        if unknown := len(changes) - counts.total():
            err.print(f"of {unknown} entries it is not known: run this again", style="yellow")
    out.print(f"[green]done[/]: {counts[True]} of {len(changes)}")
    return counts[False]


@contextmanager
def _bar(total: int) -> Iterator[Progress]:
    columns = (TextColumn("entries"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = total < _WORTH_A_BAR or not err.is_terminal
    with Progress(*columns, console=err, transient=True, disable=hidden) as bar:
        bar.add_task("entries", total=total)
        yield bar


def _settings(config: Path) -> Settings:
    try:
        return load_settings(config)
    except ConfigError as error:
        fail(str(error), code=2)


def _wanted(settings: Settings, catalog: Path | None, parent: str) -> tuple[WorkloadEntry, ...]:
    try:
        agents = settings.agent_id(parent)
        return wanted_entries(
            load_catalog(catalog or settings.catalog), own_id=settings.own_id, parent=agents
        )
    except ConfigError as error:
        for problem in error.problems:
            err.print(str(problem), markup=False)
        fail(f"{len(error.problems)} problems in the catalog")
    except UnregistrableError as error:
        fail(str(error))
    except InvalidSpiffeIdError as error:
        fail(f"--parent: {error}", code=2)


def _names(entry: WorkloadEntry) -> set[str]:
    return {str(entry.entry_id), str(entry.spiffe_id)}


def _standing(entry: WorkloadEntry, wanted: WorkloadEntry | None) -> str:
    if entry.ownership is None:
        return "not ours: never touched"
    if wanted is None:
        return f"ours, for {entry.ownership.purpose.value}; not among those that the catalog registers ahead"
    differences = drift(entry, wanted)
    if not differences:
        return "ours, and as the catalog says"
    return "ours, and not as the catalog says: " + "; ".join(
        f"{one.field} should be {one.wanted}" for one in differences
    )


def _plain(entry: WorkloadEntry) -> dict[str, str]:
    return {field.name: as_text(getattr(entry, field.name)) for field in fields(WorkloadEntry)}


def _show_plan(found: Plan, *, everything: bool) -> None:
    for action in Action:
        changes = found.of(action)
        shown = changes if everything else changes[:_SHOWN]
        for change in shown:
            _show_change(change)
        if len(changes) > len(shown):
            out.print(f"  and {len(changes) - len(shown)} more to {action.value} (--all shows them)")
    if found.changes:
        counts = ", ".join(f"{len(found.of(action))} to {action.value}" for action in Action)
        out.print(f"{counts}, {found.unchanged} as they should be")
    for conflict in found.conflicts:
        err.print(
            f"conflict: {conflict.wanted.spiffe_id}: entry {conflict.theirs.entry_id} has the same parent and "
            "selectors and is not ours: it is left as it is; delete it, then apply again",
            style="red",
            markup=False,
        )
    _warn(
        [
            f"{twin.wanted.spiffe_id} is given by entry {twin.theirs.entry_id} as well, which is not ours, to "
            f"{as_text(twin.theirs.selectors)}: whoever matches that is this instance too"
            for twin in found.twins
        ],
        everything=everything,
    )
    _warn(
        [
            f"{handover.after} takes over the selectors of {handover.before}: what still runs as the one becomes the "
            "other; end it first, or use selectors that were never used"
            for handover in found.handovers
        ],
        everything=everything,
    )


def _show_change(change: Change) -> None:
    mark, colour = _MARKS[change.action]
    out.print(
        Text.assemble(
            (f"{mark} ", colour), str(change.entry.spiffe_id), (f"  {as_text(change.entry.selectors)}", "dim")
        )
    )
    for one in change.drift:
        out.print(f"    {one.field}: {one.found} -> {one.wanted}", markup=False)


def _warn(warnings: Sequence[str], *, everything: bool) -> None:
    shown = warnings if everything else warnings[:_SHOWN]
    for warning in shown:
        err.print(f"warning: {warning}", style="yellow", markup=False)
    if len(warnings) > len(shown):
        err.print(f"  and {len(warnings) - len(shown)} more such warnings (--all shows them)", style="yellow")
