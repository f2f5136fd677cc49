"""`tasklease audit`: verify and read the audit trail."""

from __future__ import annotations

import json
import re
from typing import Annotated

import typer
from rich.text import Text

from broker.cli.output import fail, out
from broker.cli.trail import ConfigOption, StoreOption, records_of
from broker.domain.audit import AuditRecord, ChainFault, ChainHead, verify_chain

app = typer.Typer(help="Verify and read the audit trail.", no_args_is_help=True)

_HEAD = re.compile(r"([0-9]{1,18}):([0-9a-f]{64})")


@app.command()
def verify(
    config: ConfigOption = None,
    store: StoreOption = "",
    head: Annotated[
        str, typer.Option(help="An earlier head as SEQUENCE:HASH; shows records that were cut off the end.")
    ] = "",
) -> None:
    """Walk the hash chain from its first record; exit code 1 with the place of the first fault."""
    expected = _head(head) if head else None
    result = verify_chain(records_of(config, store), expected=expected)
    match result:
        case ChainFault(sequence=sequence, what=what):
            fail(f"the audit trail is NOT intact: record {sequence}: {what}")
        case ChainHead(sequence=sequence, hash=digest):
            out.print(f"[green]intact[/]: {sequence} records")
            out.print(f"head: {sequence}:{digest}")
            if expected is None:
                out.print(
                    "[dim]keep the head elsewhere: with --head it shows later that nothing was cut off[/]"
                )
        case None:
            out.print("[green]intact[/]: no records yet")


@app.command("list")
def list_(
    config: ConfigOption = None,
    store: StoreOption = "",
    task: Annotated[str, typer.Option(help="Only this task's records.")] = "",
    kind: Annotated[str, typer.Option(help="Only records of this kind.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show audit records, oldest first."""
    found = [
        record
        for record in records_of(config, store)
        if (not task or record.event.task_id == task) and (not kind or record.event.kind == kind)
    ][-limit:]
    if as_json:
        for record in found:
            print(json.dumps(_plain(record)))
        return
    for record in found:
        event = record.event
        facts = " ".join(
            f"{name}={value}" for name, value in event.facts.items() if value not in ("", [], None)
        )
        line = Text.assemble(
            (f"{record.sequence:>6} ", "dim"),
            event.at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " ",
            (f"{event.kind:<24}", "bold"),
            " ".join(filter(None, (event.actor, event.task_id, event.lease_id))) + " ",
            (facts, "dim"),
        )
        out.print(line)


def _head(text: str) -> ChainHead:
    match = _HEAD.fullmatch(text)
    if match is None:
        fail("--head: give SEQUENCE:HASH as `audit verify` printed it", code=2)
    return ChainHead(sequence=int(match[1]), hash=match[2])


def _plain(record: AuditRecord) -> dict[str, object]:
    event = record.event
    return {
        "sequence": record.sequence,
        "at": event.at.isoformat(),
        "kind": event.kind,
        "actor": event.actor,
        "task_id": event.task_id,
        "lease_id": event.lease_id,
        "request_id": event.request_id,
        "facts": dict(event.facts),
        "hash": record.hash,
    }
