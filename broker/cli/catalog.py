"""`tasklease catalog`: check the catalog, and make Vault match it."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Annotated

import hvac
import hvac.exceptions
import requests
import typer
from rich.syntax import Syntax

from broker.adapters.vault import provisioning
from broker.cli.output import err, fail, out
from broker.config.catalog import json_schema, load_catalog
from broker.config.reading import ConfigError
from broker.config.settings import load_settings
from broker.domain.catalog import Catalog

app = typer.Typer(help="Check the catalog, and make Vault match it.", no_args_is_help=True)

PathArgument = Annotated[Path, typer.Argument(help="The catalog: a YAML file, or a folder of them.")]


@app.command()
def check(path: PathArgument) -> None:
    """Say everything that is wrong with the catalog; exit code 0 when nothing is."""
    catalog = _load(path)
    out.print(
        f"[green]good[/]: {len(catalog.agent_classes)} agent classes, {len(catalog.task_types)} task types, "
        f"{len(catalog.credential_roles)} credential roles, {len(catalog.tools)} tools; digest {catalog.digest[:12]}"
    )


@app.command()
def schema() -> None:
    """Print the catalog's JSON Schema, for editors."""
    print(json_schema(), end="")


@app.command()
def apply(
    path: PathArgument,
    config: Annotated[
        Path, typer.Option("--config", "-c", help="The broker's configuration: its ID and names.")
    ],
    vault_address: Annotated[str, typer.Option(envvar="VAULT_ADDR", help="Vault's URL.")] = "",
    token_file: Annotated[
        Path | None, typer.Option(help="File with a Vault token that may do this; else $VAULT_TOKEN.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show only; exit code 3 when there is something.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Make Vault's policies, token role and auth role match the catalog. Shows what will change first."""
    catalog = _load(path)
    try:
        settings = load_settings(config)
    except ConfigError as error:
        fail(str(error), code=2)
    token = token_file.read_text().strip() if token_file else os.environ.get("VAULT_TOKEN", "")
    if not token:
        fail("a Vault token is needed: --token-file FILE or VAULT_TOKEN", code=2)
    verify = str(settings.vault.ca_file) if settings.vault.ca_file else True
    client = hvac.Client(
        url=vault_address or settings.vault.address,
        token=token,
        verify=verify,
        namespace=settings.vault.namespace,
    )
    names = provisioning.Names(
        broker_id=str(settings.own_id),
        auth_mount=settings.vault.auth_mount,
        auth_role=settings.vault.auth_role,
        audience=settings.vault.audience,
        token_role=settings.vault.token_role,
    )
    try:
        plan = provisioning.plan(client, catalog, names)
        _show(plan)
        if not plan.items:
            out.print("[green]Vault matches the catalog[/]")
            return
        if dry_run:
            raise typer.Exit(3)
        if not yes and not typer.confirm(f"Change these {len(plan.items)} things in Vault?", err=True):
            raise typer.Exit(1)
        for item in plan.items:
            provisioning.apply(client, item)
            out.print(f"[green]done[/]: {item.action.value} {item.path}")
    except hvac.exceptions.VaultError as error:
        fail(f"Vault refuses: {error}")
    except requests.RequestException as error:
        fail(f"Vault does not answer at {client.url}: {type(error).__name__}")


def _load(path: Path) -> Catalog:
    try:
        return load_catalog(path)
    except ConfigError as error:
        for problem in error.problems:
            err.print(str(problem), markup=False)
        fail(f"{len(error.problems)} problems in the catalog")


def _show(plan: provisioning.Plan) -> None:
    for item in plan.items:
        out.print(f"[bold]{item.action.value}[/] {item.path}")
        lines = difflib.unified_diff(item.before.splitlines(), item.after.splitlines(), lineterm="", n=2)
        text = "\n".join(list(lines)[2:])
        out.print(Syntax(text, "diff", background_color="default"))
    for warning in plan.warnings:
        err.print(f"warning: {warning}", style="yellow", markup=False)
