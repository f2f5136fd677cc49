"""`tasklease instance quarantine --delete-entry`: SPIRE gives no new SVID either."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.text import Text

from broker.cli.output import err, fail, out
from broker.cli.registry_session import RegistrySession
from broker.config.reading import ConfigError
from broker.config.settings import load_settings
from broker.domain.quarantine import QuarantineTarget
from broker.usecases.delete_entries import DeleteEntries


def registry_to_delete_in(config: Path | None, server: str) -> RegistrySession:
    """What the command will need afterwards: asked for before anything is done. Ends the command, with code 2."""
    if config is None:
        fail("--delete-entry needs --config: it says where SPIRE's server is", code=2)
    try:
        return RegistrySession(load_settings(config), server)
    except ConfigError as error:
        fail(str(error), code=2)


def delete_entries(registry: RegistrySession, target: QuarantineTarget) -> int:
    """Delete, say of each what is left and why; how many are left. Never ends the command: more is to be said."""
    try:
        with registry as session:
            results = session.run(DeleteEntries(session.registry).of(target))
    except typer.Exit:  # it is said why
        err.print(Text("its entries are left: SPIRE goes on giving it SVIDs", style="yellow"))
        return 1
    left = [one for one in results if one.trouble]
    for one in left:
        err.print(Text(f"left: {one.entry.spiffe_id}: {one.trouble}", style="yellow"))
    if results:
        out.print(f"{len(results) - len(left)} entries deleted: no new SVID for it")
    else:
        out.print("SPIRE has no entry of it")
    return len(left)
