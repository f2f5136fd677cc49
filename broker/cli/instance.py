"""`tasklease instance`: what operators do about agent instances."""

from __future__ import annotations

import json
from datetime import UTC, timedelta
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.table import Table
from rich.text import Text

from broker.api.v1 import operators_pb2, operators_pb2_grpc
from broker.cli.as_operator import (
    NO_WAY_IN,
    BrokerIdOption,
    BrokerOption,
    BundleOption,
    KeyOption,
    ReasonOption,
    SvidOption,
    TimeoutOption,
    call_broker,
    identity_of,
)
from broker.cli.entries import delete_entries, registry_to_delete_in
from broker.cli.output import err, fail, out
from broker.client.connection import Connection, Line, Unary
from broker.domain.quarantine import QuarantineTarget, TargetKind

app = typer.Typer(help="Quarantine agent instances, and release them. For operators.", no_args_is_help=True)

_PAGE: Final = 200
_NOT_ALL_ENDED: Final = 3

InstanceArgument = Annotated[
    str, typer.Argument(help="SPIFFE ID of the instance.", metavar="SPIFFE_ID", show_default=False)
]
ClassOption = Annotated[str, typer.Option("--class", help="Every instance of this agent class.")]
DomainOption = Annotated[str, typer.Option(help="Every instance of this trust domain.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DeleteOption = Annotated[
    bool,
    typer.Option(
        "--delete-entry", help="Delete its entries at SPIRE as well, those that are ours; with --config."
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="The broker's configuration: it says where SPIRE's server is."),
]
ServerOption = Annotated[
    str,
    typer.Option(
        help="SPIRE's server: unix:///PATH, or HOST:PORT with an admin SVID. Default: registry.server."
    ),
]

Stub = operators_pb2_grpc.QuarantineServiceStub


@app.command()
def quarantine(
    instance: InstanceArgument = "",
    reason: ReasonOption = ...,  # type: ignore[assignment]  # typer's word for "must be given"
    agent_class: ClassOption = "",
    trust_domain: DomainOption = "",
    yes: YesOption = False,
    broker: BrokerOption = "",
    broker_id: BrokerIdOption = "",
    svid: SvidOption = None,
    key: KeyOption = None,
    bundle: BundleOption = None,
    timeout: TimeoutOption = 30,
    delete_entry: DeleteOption = False,
    config: ConfigOption = None,
    server: ServerOption = "",
) -> None:
    """Accept nothing more from an instance, a class or a trust domain, and take back all that it holds.

    Exit code 0: nothing that it held works any more. 3: it is quarantined, but some of its tasks are still being ended,
    or some of its entries are left.
    """
    target = _target(instance, agent_class, trust_domain)
    registry = registry_to_delete_in(config, server) if delete_entry else None
    if not delete_entry and (config or server):
        fail("--config and --server say where --delete-entry deletes: say that as well", code=NO_WAY_IN)
    if (
        not instance
        and not yes
        and not typer.confirm(f"Quarantine every instance of {_words(target)}?", err=True)
    ):
        raise typer.Exit(1)
    request = operators_pb2.QuarantineRequest(target=target, reason=reason)
    identity = identity_of(svid, key, bundle)

    async def work(connection: Connection) -> operators_pb2.QuarantineResponse:
        return await connection.call(_quarantine, request, within=timedelta(seconds=timeout))

    answer = call_broker(work, broker, broker_id, identity)
    stands = answer.quarantine
    out.print(Text.assemble(("quarantined", "bold red"), f": {_words(stands.target)}"))
    if stands.reason != reason:
        out.print(Text(f"it was quarantined before, by {stands.imposed_by or 'somebody'}: {stands.reason}"))
    entries_left = delete_entries(registry, _quarantined(target)) if registry else 0
    tasks_left = _say_tasks(answer.tasks_found, stands.unfinished_tasks)
    if entries_left or tasks_left:
        raise typer.Exit(_NOT_ALL_ENDED)


@app.command()
def release(
    instance: InstanceArgument = "",
    reason: ReasonOption = ...,  # type: ignore[assignment]  # typer's word for "must be given"
    agent_class: ClassOption = "",
    trust_domain: DomainOption = "",
    yes: YesOption = False,
    broker: BrokerOption = "",
    broker_id: BrokerIdOption = "",
    svid: SvidOption = None,
    key: KeyOption = None,
    bundle: BundleOption = None,
    timeout: TimeoutOption = 30,
) -> None:
    """End a quarantine: name exactly what was quarantined. What it ended stays ended.

    Exit code 3: another quarantine still concerns the instance.
    """
    target = _target(instance, agent_class, trust_domain)
    if (
        not instance
        and not yes
        and not typer.confirm(f"Release every instance of {_words(target)}?", err=True)
    ):
        raise typer.Exit(1)
    request = operators_pb2.ReleaseRequest(target=target, reason=reason)
    identity = identity_of(svid, key, bundle)

    async def work(connection: Connection) -> operators_pb2.ReleaseResponse:
        return await connection.call(_release, request, within=timedelta(seconds=timeout))

    answer = call_broker(work, broker, broker_id, identity)
    out.print(Text.assemble(("released", "bold green"), f": {_words(target)}"))
    for other in answer.still_standing:
        err.print(Text(f"still quarantined as one of {_words(other.target)}: {other.reason}", style="yellow"))
    if answer.still_standing:
        raise typer.Exit(_NOT_ALL_ENDED)


@app.command("list")
def list_(
    broker: BrokerOption = "",
    broker_id: BrokerIdOption = "",
    svid: SvidOption = None,
    key: KeyOption = None,
    bundle: BundleOption = None,
    timeout: TimeoutOption = 30,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show what is quarantined, by whom, why, and how many of its tasks have not ended."""
    identity = identity_of(svid, key, bundle)

    async def work(connection: Connection) -> list[operators_pb2.Quarantine]:
        found: list[operators_pb2.Quarantine] = []
        request = operators_pb2.ListQuarantinesRequest(page_size=_PAGE)
        while True:
            answer = await connection.call(_list, request, within=timedelta(seconds=timeout))
            found.extend(answer.quarantines)
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token

    found = call_broker(work, broker, broker_id, identity)
    if as_json:
        for one in found:
            print(json.dumps(_plain(one)))
        return
    if not found:
        out.print("nothing is quarantined")
        return
    table = Table("target", "since", "by", "tasks left", "reason", box=None, pad_edge=False)
    for one in found:
        plain = _plain(one)
        table.add_row(
            *(Text(str(plain[name])) for name in ("target", "since", "by", "unfinished_tasks", "reason"))
        )
    out.print(table)


# The generated classes carry no types: they are given here, once.


def _quarantine(line: Line) -> Unary[operators_pb2.QuarantineRequest, operators_pb2.QuarantineResponse]:
    method: Unary[operators_pb2.QuarantineRequest, operators_pb2.QuarantineResponse]
    method = Stub(line.channel).Quarantine  # type: ignore[no-untyped-call]
    return method


def _release(line: Line) -> Unary[operators_pb2.ReleaseRequest, operators_pb2.ReleaseResponse]:
    method: Unary[operators_pb2.ReleaseRequest, operators_pb2.ReleaseResponse]
    method = Stub(line.channel).Release  # type: ignore[no-untyped-call]
    return method


def _list(line: Line) -> Unary[operators_pb2.ListQuarantinesRequest, operators_pb2.ListQuarantinesResponse]:
    method: Unary[operators_pb2.ListQuarantinesRequest, operators_pb2.ListQuarantinesResponse]
    method = Stub(line.channel).ListQuarantines  # type: ignore[no-untyped-call]
    return method


def _target(instance: str, agent_class: str, trust_domain: str) -> operators_pb2.QuarantineTarget:
    if sum(map(bool, (instance, agent_class, trust_domain))) != 1:
        fail("name one of: a SPIFFE ID, --class NAME, --trust-domain NAME", code=NO_WAY_IN)
    if instance:
        return operators_pb2.QuarantineTarget(instance=instance)
    if agent_class:
        return operators_pb2.QuarantineTarget(agent_class=agent_class)
    return operators_pb2.QuarantineTarget(trust_domain=trust_domain)


def _quarantined(target: operators_pb2.QuarantineTarget) -> QuarantineTarget:
    match target.WhichOneof("target"):
        case "agent_class":
            return QuarantineTarget(kind=TargetKind.AGENT_CLASS, name=target.agent_class)
        case "trust_domain":
            return QuarantineTarget(kind=TargetKind.TRUST_DOMAIN, name=target.trust_domain)
        case _:
            return QuarantineTarget(kind=TargetKind.INSTANCE, name=target.instance)


def _words(target: operators_pb2.QuarantineTarget) -> str:
    match target.WhichOneof("target"):
        case "agent_class":
            return f"class {target.agent_class}"
        case "trust_domain":
            return f"trust domain {target.trust_domain}"
        case _:
            return target.instance


def _say_tasks(found: int, left: int) -> int:
    if left:
        err.print(
            Text(f"{left} of its tasks are still being ended: what they hold may still work", style="yellow")
        )
    elif found:
        out.print(f"{found} tasks have ended: nothing that they held works any more")
    else:
        out.print("no task of it was under way")
    return left


def _plain(one: operators_pb2.Quarantine) -> dict[str, object]:
    return {
        "target": _words(one.target),
        "since": one.since.ToDatetime(tzinfo=UTC).isoformat(timespec="seconds"),
        "by": one.imposed_by,
        "unfinished_tasks": one.unfinished_tasks,
        "reason": one.reason,
    }
