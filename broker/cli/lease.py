"""`tasklease lease`: what operators see of leases, and do about them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer
from google.protobuf.timestamp_pb2 import Timestamp
from rich.table import Table
from rich.text import Text

from broker.api.v1 import credentials_pb2, leases_pb2, leases_pb2_grpc
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
from broker.cli.output import err, fail, out
from broker.client.connection import Connection, Line, Unary

app = typer.Typer(help="Look at leases, revoke one, reconcile. For operators.", no_args_is_help=True)

_PAGE: Final = 200
_LEFT: Final = 3
_FOUND: Final = 3
_STATES: Final = ("intended", "live", "revoking", "revoked", "void")

LeaseArgument = Annotated[str, typer.Argument(help="The lease: lease-...", metavar="LEASE_ID")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]

Stub = leases_pb2_grpc.LeaseServiceStub


@app.command("list")
def list_(
    state: Annotated[
        list[str] | None,
        typer.Option(
            help="intended, live, revoking, revoked or void; several times. Default: what is not over."
        ),
    ] = None,
    task: Annotated[str, typer.Option(help="Of this task.")] = "",
    owner: Annotated[str, typer.Option(help="Of this instance: its SPIFFE ID.")] = "",
    broker: BrokerOption = "",
    broker_id: BrokerIdOption = "",
    svid: SvidOption = None,
    key: KeyOption = None,
    bundle: BundleOption = None,
    timeout: TimeoutOption = 30,
    as_json: JsonOption = False,
) -> None:
    """Show leases of everybody, oldest first: whose they are, what state they are in, when they expire."""
    if wrong := [one for one in state or () if one not in _STATES]:
        fail(f"--state {wrong[0]}: give one of {', '.join(_STATES)}", code=NO_WAY_IN)
    request = leases_pb2.ListLeasesRequest(
        states=[_state_number(one) for one in state or ()], task_id=task, owner=owner, page_size=_PAGE
    )
    identity = identity_of(svid, key, bundle)

    async def work(connection: Connection) -> list[leases_pb2.LeaseRecord]:
        found: list[leases_pb2.LeaseRecord] = []
        while True:
            answer = await connection.call(_list, request, within=timedelta(seconds=timeout))
            found.extend(answer.leases)
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token

    found = call_broker(work, broker, broker_id, identity)
    if as_json:
        for one in found:
            print(json.dumps(_plain(one)))
        return
    if not found:
        out.print("no lease")
        return
    names = ("lease", "state", "role", "owner", "expires")
    table = Table(*names, box=None, pad_edge=False)
    for one in found:
        plain = _plain(one)
        table.add_row(*(Text(str(plain[name])) for name in names))
    out.print(table)


@app.command()
def show(
    lease: LeaseArgument,
    broker: BrokerOption = "",
    broker_id: BrokerIdOption = "",
    svid: SvidOption = None,
    key: KeyOption = None,
    bundle: BundleOption = None,
    timeout: TimeoutOption = 30,
    as_json: JsonOption = False,
) -> None:
    """Show all that is known of one lease. There is no secret in it."""
    identity = identity_of(svid, key, bundle)
    request = leases_pb2.GetLeaseRequest(lease_id=lease)

    async def work(connection: Connection) -> leases_pb2.GetLeaseResponse:
        return await connection.call(_get, request, within=timedelta(seconds=timeout))

    _show(call_broker(work, broker, broker_id, identity).lease, as_json=as_json)


@app.command()
def revoke(
    lease: LeaseArgument,
    reason: ReasonOption = ...,  # type: ignore[assignment]  # typer's word for "must be given"
    broker: BrokerOption = "",
    broker_id: BrokerIdOption = "",
    svid: SvidOption = None,
    key: KeyOption = None,
    bundle: BundleOption = None,
    timeout: TimeoutOption = 30,
) -> None:
    """Revoke one lease; its task goes on. Exit code 0: its backend refuses it. 3: not yet; the broker goes on trying."""
    identity = identity_of(svid, key, bundle)
    request = leases_pb2.RevokeLeaseRequest(lease_id=lease, reason=reason)

    async def work(connection: Connection) -> leases_pb2.RevokeLeaseResponse:
        return await connection.call(_revoke, request, within=timedelta(seconds=timeout))

    found = call_broker(work, broker, broker_id, identity).lease
    _show(found, as_json=False)
    if found.lease.state == credentials_pb2.LEASE_STATE_REVOKING:
        err.print(Text("it may still work: the broker goes on trying, without limit", style="yellow"))
        raise typer.Exit(_LEFT)


@app.command()
def reconcile(
    reason: ReasonOption = ...,  # type: ignore[assignment]
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only look; exit code 3 when something differs.")
    ] = False,
    broker: BrokerOption = "",
    broker_id: BrokerIdOption = "",
    svid: SvidOption = None,
    key: KeyOption = None,
    bundle: BundleOption = None,
    timeout: TimeoutOption = 120,
) -> None:
    """Compare the broker's store with Vault, and put right what differs. The broker does it by itself every five minutes.

    Exit code 0: nothing differs any more. 3: something does, and is left.
    """
    identity = identity_of(svid, key, bundle)
    request = leases_pb2.ReconcileRequest(dry_run=dry_run, reason=reason)

    async def work(connection: Connection) -> leases_pb2.ReconcileResponse:
        return await connection.call(_reconcile, request, within=timedelta(seconds=timeout))

    answer = call_broker(work, broker, broker_id, identity)
    for one in answer.findings:
        out.print(Text(f"{_WHAT[one.kind]}: {one.subject}  {one.task_id}"))
        if one.trouble:
            err.print(Text(f"  left: {one.trouble}", style="yellow"))
    if answer.found > len(answer.findings):
        out.print(f"and {answer.found - len(answer.findings)} more")
    for text in answer.not_looked_at:
        err.print(Text(text, style="yellow"))
    out.print(f"{answer.leases} leases and {answer.tokens} tokens looked up, {answer.found} differ")
    if any(one.trouble for one in answer.findings) or (dry_run and answer.found):
        raise typer.Exit(_FOUND)


_WHAT: Final = {
    leases_pb2.FINDING_KIND_ORPHAN: "a token that nobody answers for",
    leases_pb2.FINDING_KIND_LOST: "a lease that Vault does not know",
    leases_pb2.FINDING_KIND_STRANDED: "a lease that Vault gave up to revoke",
}


def _state_number(name: str) -> credentials_pb2.LeaseState:
    number: credentials_pb2.LeaseState = getattr(credentials_pb2, f"LEASE_STATE_{name.upper()}")
    return number


def _show(found: leases_pb2.LeaseRecord, *, as_json: bool) -> None:
    plain = _plain(found)
    if as_json:
        print(json.dumps(plain))
        return
    for name, value in plain.items():
        if value not in {"", 0}:
            out.print(Text.assemble((f"{name:<16} ", "dim"), str(value)))


def _plain(found: leases_pb2.LeaseRecord) -> dict[str, object]:
    lease = found.lease
    return {
        "lease": lease.lease_id,
        "state": credentials_pb2.LeaseState.Name(lease.state).removeprefix("LEASE_STATE_").lower(),
        "role": lease.role,
        "owner": found.owner,
        "task": lease.task_id,
        "vault_lease": found.vault_lease_id,
        "decided": _time(found.intended_at),
        "issued": _time(lease.issued_at),
        "expires": _time(lease.expires_at),
        "never_beyond": _time(found.max_expires_at),
        "cause": found.revoke_cause,
        "revoking_since": _time(found.revoking_since),
        "failed_attempts": found.attempts,
        "next_attempt": _time(found.next_attempt_at),
        "refused_since": _time(lease.revoked_at),
    }


def _time(value: Timestamp) -> str:
    at: datetime = value.ToDatetime(tzinfo=UTC)
    return at.isoformat(timespec="seconds") if value.seconds else ""


# The generated classes carry no types: they are given here, once.


def _list(line: Line) -> Unary[leases_pb2.ListLeasesRequest, leases_pb2.ListLeasesResponse]:
    method: Unary[leases_pb2.ListLeasesRequest, leases_pb2.ListLeasesResponse]
    method = Stub(line.channel).ListLeases  # type: ignore[no-untyped-call]
    return method


def _get(line: Line) -> Unary[leases_pb2.GetLeaseRequest, leases_pb2.GetLeaseResponse]:
    method: Unary[leases_pb2.GetLeaseRequest, leases_pb2.GetLeaseResponse]
    method = Stub(line.channel).GetLease  # type: ignore[no-untyped-call]
    return method


def _revoke(line: Line) -> Unary[leases_pb2.RevokeLeaseRequest, leases_pb2.RevokeLeaseResponse]:
    method: Unary[leases_pb2.RevokeLeaseRequest, leases_pb2.RevokeLeaseResponse]
    method = Stub(line.channel).RevokeLease  # type: ignore[no-untyped-call]
    return method


def _reconcile(line: Line) -> Unary[leases_pb2.ReconcileRequest, leases_pb2.ReconcileResponse]:
    method: Unary[leases_pb2.ReconcileRequest, leases_pb2.ReconcileResponse]
    method = Stub(line.channel).Reconcile  # type: ignore[no-untyped-call]
    return method
