"""`tasklease anomaly watch`, `mark` and `lift`: findings as they come, what they are, and holds lifted. For operators."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

import typer
from google.protobuf.timestamp_pb2 import Timestamp
from rich.text import Text

from broker.api.v1 import anomalies_pb2, anomalies_pb2_grpc
from broker.cli.anomaly_story import printable
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
from broker.cli.output import fail, out, say
from broker.client.connection import Connection, Line, Stream, Unary
from broker.client.errors import BrokerError, LimitReached, NotConnected, Unavailable
from broker.client.server_identity import NOT_THE_BROKER

_SILENCE: Final = timedelta(minutes=5)
"""After so long without a finding the stream is opened again, at the same number."""
_PAUSE: Final = timedelta(seconds=1)

Stub = anomalies_pb2_grpc.AnomalyServiceStub


class _EnoughError(Exception):
    """As many lines as were wanted."""


def watch(
    after: Annotated[
        int | None,
        typer.Option(min=0, help="Those beyond this number; 0: all. Default: those that come from now on."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="End after so many lines.")] = None,
    broker: BrokerOption = "",
    broker_id: BrokerIdOption = "",
    svid: SvidOption = None,
    key: KeyOption = None,
    bundle: BundleOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show findings as they come, a line each, and again when answered in full, or marked. Ends with Ctrl-C.

    Where the broker goes away it waits for it, and goes on where it was.
    """
    identity = identity_of(svid, key, bundle)
    request = anomalies_pb2.WatchFindingsRequest(after=after)
    lines = 0

    def take(message: anomalies_pb2.WatchFindingsResponse) -> None:
        nonlocal lines
        request.after = message.number
        if not message.HasField("finding"):
            return
        plain = as_plain(message.finding)
        print(json.dumps(plain) if as_json else _line(plain), flush=True)
        lines += 1
        if lines == limit:
            raise _EnoughError

    async def work(connection: Connection) -> None:
        while True:
            try:
                await connection.follow(_watch, request, take, silence=_SILENCE)
            except (NotConnected, Unavailable, LimitReached) as error:
                if error.reason == NOT_THE_BROKER:
                    raise  # somebody else is there: that does not pass
                say(str(error))
                await asyncio.sleep(_pause_after(error).total_seconds())
            except _EnoughError:
                return

    try:
        call_broker(work, broker, broker_id, identity)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def mark(
    finding: Annotated[str, typer.Argument(help="The finding: finding-...", metavar="FINDING_ID")],
    false: Annotated[bool, typer.Option("--false", help="It is a false alarm.")] = False,
    confirmed: Annotated[bool, typer.Option("--confirmed", help="It is what it looks like.")] = False,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why, in words: kept and audited.")] = "",
    broker: BrokerOption = "",
    broker_id: BrokerIdOption = "",
    svid: SvidOption = None,
    key: KeyOption = None,
    bundle: BundleOption = None,
    timeout: TimeoutOption = 30,
) -> None:
    """Say of a finding whether it is a false alarm; the last word counts. No answer is undone by it."""
    if false == confirmed:
        fail("which is it? --false or --confirmed", code=NO_WAY_IN)
    identity = identity_of(svid, key, bundle)
    request = anomalies_pb2.MarkFindingRequest(
        finding_id=finding,
        mark=anomalies_pb2.ANOMALY_MARK_FALSE if false else anomalies_pb2.ANOMALY_MARK_CONFIRMED,
        reason=reason,
    )

    async def work(connection: Connection) -> anomalies_pb2.MarkFindingResponse:
        return await connection.call(_mark, request, within=timedelta(seconds=timeout))

    plain = as_plain(call_broker(work, broker, broker_id, identity).finding)
    out.print(Text(f"{plain['finding']} is marked as {plain['mark']}"))
    if false and plain["answer"] not in {"note", "warn"}:
        out.print(Text(f"its answer stands: {plain['answer']} {plain['task'] or plain['instance']}"))


def lift(
    task: Annotated[str, typer.Argument(help="The task on hold: task-...", metavar="TASK_ID")],
    reason: ReasonOption = ...,  # type: ignore[assignment]  # typer's word for "must be given"
    broker: BrokerOption = "",
    broker_id: BrokerIdOption = "",
    svid: SvidOption = None,
    key: KeyOption = None,
    bundle: BundleOption = None,
    timeout: TimeoutOption = 30,
) -> None:
    """Let a task on hold go on. A later finding may hold it again."""
    identity = identity_of(svid, key, bundle)
    request = anomalies_pb2.LiftHoldRequest(task_id=task, reason=reason)

    async def work(connection: Connection) -> anomalies_pb2.LiftHoldResponse:
        return await connection.call(_lift, request, within=timedelta(seconds=timeout))

    call_broker(work, broker, broker_id, identity)
    out.print(Text(f"{task} goes on"))


def as_plain(one: anomalies_pb2.AnomalyFinding) -> dict[str, Any]:
    """As plain data, by the names that `tasklease anomaly list --json` has as well."""
    severity = anomalies_pb2.AnomalySeverity.Name(one.severity).removeprefix("ANOMALY_SEVERITY_")
    answer = anomalies_pb2.AnomalyAnswer.Name(one.answer).removeprefix("ANOMALY_ANSWER_")
    said = anomalies_pb2.AnomalyMark.Name(one.mark).removeprefix("ANOMALY_MARK_")
    return {
        "finding": one.finding_id,
        "number": one.number,
        "detector": one.detector,
        "rule": one.rule,
        "severity": severity.lower(),
        "confidence": one.confidence,
        "instance": one.instance,
        "task": one.task_id,
        "at": _time(one.at),
        "found_at": _time(one.found_at),
        "evidence": list(one.evidence),
        "expected": one.expected,
        "happened": one.happened,
        "source": one.source,
        "answer": answer.lower().replace("_", "-"),
        "answered_at": _time(one.answered_at),
        "mark": "" if one.mark == anomalies_pb2.ANOMALY_MARK_UNSPECIFIED else said.lower(),
        "marked_by": one.marked_by,
    }


def _line(plain: dict[str, Any]) -> str:
    answer = plain["answer"] if plain["answered_at"] else f"{plain['answer']} (not yet)"
    said = f", {plain['mark']}" if plain["mark"] else ""
    return printable(
        f"{plain['number']}  {plain['at'][:19].replace('T', ' ')}  {plain['finding']}  "
        f"{plain['detector']}/{plain['rule']}  {plain['severity']}  {answer}{said}  "
        f"{plain['task'] or plain['instance']}  {plain['happened']}"
    )


def _time(value: Timestamp) -> str:
    at: datetime = value.ToDatetime(tzinfo=UTC)
    return at.isoformat() if value.seconds else ""


def _pause_after(error: BrokerError) -> timedelta:
    return max(_PAUSE, error.retry_after or _PAUSE)


# The generated classes carry no types: they are given here, once.


def _watch(line: Line) -> Stream[anomalies_pb2.WatchFindingsRequest, anomalies_pb2.WatchFindingsResponse]:
    method: Stream[anomalies_pb2.WatchFindingsRequest, anomalies_pb2.WatchFindingsResponse]
    method = Stub(line.channel).WatchFindings  # type: ignore[no-untyped-call]
    return method


def _mark(line: Line) -> Unary[anomalies_pb2.MarkFindingRequest, anomalies_pb2.MarkFindingResponse]:
    method: Unary[anomalies_pb2.MarkFindingRequest, anomalies_pb2.MarkFindingResponse]
    method = Stub(line.channel).MarkFinding  # type: ignore[no-untyped-call]
    return method


def _lift(line: Line) -> Unary[anomalies_pb2.LiftHoldRequest, anomalies_pb2.LiftHoldResponse]:
    method: Unary[anomalies_pb2.LiftHoldRequest, anomalies_pb2.LiftHoldResponse]
    method = Stub(line.channel).LiftHold  # type: ignore[no-untyped-call]
    return method
