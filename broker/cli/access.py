"""`tasklease access`: who could do what, and did they."""

from __future__ import annotations

import difflib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from broker.adapters.catalog.narrowing import Removal, narrowed
from broker.cli.output import err, fail, out
from broker.cli.policy_inputs import WITHOUT, CatalogOption, DomainOption, catalog_of
from broker.cli.trail import ConfigOption, StoreOption, records_of
from broker.config.catalog import catalog_files, load_catalog
from broker.config.reading import ConfigError
from broker.usecases.recorded import Trail
from broker.usecases.reviewing import Listing, Review, Unused, review

app = typer.Typer(help="Compare what was allowed with what was used.", no_args_is_help=True)


@app.callback()
def _noun() -> None:
    """For a noun with one verb."""


@app.command(name="review")
def review_access(
    catalog: CatalogOption,
    config: ConfigOption = None,
    store: StoreOption = "",
    least: Annotated[
        int, typer.Option(min=1, help="Of a class or task type with fewer tasks nothing is proposed.")
    ] = 20,
    patch: Annotated[
        Path | None, typer.Option(help="Write the narrower catalog to this file, as a patch.")
    ] = None,
    trust_domain: DomainOption = WITHOUT,
) -> None:
    """Say what nobody used, and propose the catalog without it; exit code 1 when there is something to take away."""
    listed = catalog_of(catalog, trust_domain)
    trail = Trail(listed)
    found = review(trail.decisions(records_of(config, store)), listed, least=least)
    if found.began is None or found.ended is None:
        fail("the audit trail shows no allowed decision: there is nothing to compare", code=2)
    out.print(
        f"[dim]from {found.began:%Y-%m-%d %H:%M} to {found.ended:%Y-%m-%d %H:%M} UTC[/]", highlight=False
    )
    _show(found)
    text = "".join(_patch(catalog, found.unused))
    if not text:
        raise typer.Exit(1 if found.unused else 0)
    if patch is None:
        print(text, end="")
    else:
        patch.write_text(text, encoding="utf-8")
        out.print(f"the narrower catalog as a patch: {patch} (patch -p0 < {patch})", highlight=False)
    raise typer.Exit(1)


def _show(found: Review) -> None:
    for name in sorted(found.tasks):
        leases, chain = found.peak_leases.get(name, 0), found.longest_chain.get(name, 0)
        out.print(
            f"{name}: {found.tasks[name]} tasks, at most {leases} leases at once, longest chain {chain}",
            highlight=False,
        )
    for unused in found.unused:
        out.print(f"[yellow]{unused}[/]", highlight=False)
    for kept in found.kept:
        out.print(f"[dim]{kept}[/]", highlight=False)


def _patch(catalog: Path, unused: tuple[Unused, ...]) -> Iterator[str]:
    """A unified diff, of a catalog that can be used."""
    removals = [
        Removal(
            section="agent_classes" if one.listing is Listing.TASK_TYPES else "task_types",
            owner=one.owner,
            listing=one.listing.value,
            name=one.name,
        )
        for one in unused
    ]
    texts = {path: narrowed(path, removals)[0] for path in catalog_files(catalog)} if removals else {}
    problem = _problem(catalog, texts)
    if problem:
        err.print(
            f"the catalog without all of that cannot be used, so there is no patch:\n{problem}", markup=False
        )
        return
    for path, text in texts.items():
        before = path.read_text(encoding="utf-8")
        yield from difflib.unified_diff(
            before.splitlines(keepends=True), text.splitlines(keepends=True), str(path), str(path)
        )


def _problem(catalog: Path, texts: dict[Path, str]) -> str:
    """What is wrong with the narrower catalog; empty when nothing is."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, catalog.name)
        if catalog.is_dir():
            shutil.copytree(catalog, place)
        for path, text in texts.items():
            (place / path.name if catalog.is_dir() else place).write_text(text, encoding="utf-8")
        if not texts:
            return ""
        try:
            load_catalog(place)
        except ConfigError as error:
            return str(error)
    return ""
