"""Findings at the operators' door: shown, marked, watched for as long as the watcher is welcome, and holds lifted."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import grpc
import pytest

from broker.api.v1 import anomalies_pb2, tasks_pb2
from broker.domain import changes as c
from broker.domain.audit import AuditKind
from broker.domain.findings import Answer, Hold, Severity
from broker.domain.identifiers import TaskId
from broker.server.anomaly_wire import ANSWERS, MARKS, SEVERITIES
from broker.usecases.operate_findings import MOST_WATCHERS
from broker.usecases.task_events import EventKind, TaskEvent
from tests.contract.finding import a_finding, add_finding
from tests.fakes.samples import OWNER, TASK
from tests.unit.server.served import ANN, ANOMALIES, TASKS, VERA, Refusal, Served

WATCH = ANOMALIES + "WatchFindings"


async def listed(served: Served, **fields: Any) -> anomalies_pb2.ListFindingsResponse:
    answer = await served.call(ANOMALIES + "ListFindings", anomalies_pb2.ListFindingsRequest(**fields))
    return anomalies_pb2.ListFindingsResponse.FromString(answer)


async def held(served: Served, hold: Hold = Hold.FROZEN) -> str:
    task_id = await served.declared()
    await served.store.commit([c.HoldTask(task_id=TaskId(task_id), hold=hold)])
    return task_id


async def shown(served: Served, task_id: str) -> tasks_pb2.Task:
    answer = await served.call(TASKS + "GetTask", tasks_pb2.GetTaskRequest(task_id=task_id))
    return tasks_pb2.GetTaskResponse.FromString(answer).task


def watching(served: Served, *, as_: Any = None, **fields: Any) -> Any:
    request = anomalies_pb2.WatchFindingsRequest(**fields)
    return served.stream(WATCH, request, channel=served.connect(served.authority.svid(as_ or ANN)))


async def the_first(stream: Any) -> anomalies_pb2.AnomalyFinding:
    """The stream's first finding, after it has said where it begins."""
    begin = anomalies_pb2.WatchFindingsResponse.FromString(await stream.read())
    assert (begin.HasField("finding"), begin.number) == (False, 0)
    watched = anomalies_pb2.WatchFindingsResponse.FromString(await stream.read())
    assert watched.number == watched.finding.number
    return watched.finding


@pytest.mark.parametrize(
    ("table", "enum"),
    [
        (SEVERITIES, anomalies_pb2.AnomalySeverity),
        (ANSWERS, anomalies_pb2.AnomalyAnswer),
        (MARKS, anomalies_pb2.AnomalyMark),
    ],
)
def test_every_word_has_its_message(table: Mapping[StrEnum, int], enum: Any) -> None:
    assert set(table) == {one for word in list(table)[:1] for one in type(word)}
    assert set(table.values()) | {0} == set(enum.values())


async def test_a_finding_is_shown_as_it_is_recorded(served: Served) -> None:
    recorded = await add_finding(served.store)
    (one,) = (await listed(served)).findings
    assert (one.finding_id, one.number, one.detector, one.rule) == (
        recorded.finding_id,
        1,
        "canary",
        "touched",
    )
    assert (one.severity, one.answer) == (
        anomalies_pb2.ANOMALY_SEVERITY_HIGH,
        anomalies_pb2.ANOMALY_ANSWER_END_TASK,
    )
    assert (one.confidence, one.instance, one.task_id) == (0.75, str(OWNER), TASK)
    assert (list(one.evidence), one.expected, one.happened) == (
        ["action-1", "action-2"],
        "nothing",
        "something",
    )
    assert not one.HasField("answered_at")
    assert one.mark == anomalies_pb2.ANOMALY_MARK_UNSPECIFIED
    request = anomalies_pb2.GetFindingRequest(finding_id=one.finding_id)
    answer = await served.call(ANOMALIES + "GetFinding", request)
    assert anomalies_pb2.GetFindingResponse.FromString(answer).finding == one


async def test_they_come_in_pages_newest_first_and_as_asked_for(served: Served) -> None:
    for severity in (Severity.LOW, Severity.HIGH, Severity.CRITICAL):
        await add_finding(served.store, a_finding(severity.value, severity=severity, answer=Answer.NOTE))
    first = await listed(served, page_size=2)
    rest = await listed(served, page_size=2, page_token=first.next_page_token)
    assert [one.number for page in (first, rest) for one in page.findings] == [3, 2, 1]
    assert rest.next_page_token == ""
    for fields, expected in (
        ({"least_severity": anomalies_pb2.ANOMALY_SEVERITY_HIGH}, 2),
        ({"detector": "drift"}, 0),
        ({"instance": str(OWNER), "task_id": TASK, "unmarked": True, "unanswered": True}, 3),
    ):
        assert len((await listed(served, **fields)).findings) == expected


async def test_a_mark_is_kept_and_shown(served: Served) -> None:
    recorded = await add_finding(served.store)
    request = anomalies_pb2.MarkFindingRequest(
        finding_id=recorded.finding_id, mark=anomalies_pb2.ANOMALY_MARK_FALSE, reason="a rehearsal"
    )
    for _ in range(2):
        answer = await served.call(ANOMALIES + "MarkFinding", request)
        found = anomalies_pb2.MarkFindingResponse.FromString(answer).finding
        assert (found.mark, found.marked_by) == (anomalies_pb2.ANOMALY_MARK_FALSE, str(ANN))
    assert not (await listed(served, unmarked=True)).findings


@pytest.mark.parametrize("hold", Hold)
async def test_a_hold_is_shown_to_its_owner_until_it_is_lifted(served: Served, hold: Hold) -> None:
    task_id = await held(served, hold)
    assert tasks_pb2.TaskHold.Name((await shown(served, task_id)).hold) == f"TASK_HOLD_{hold.name}"
    request = anomalies_pb2.LiftHoldRequest(task_id=task_id, reason="looked at")
    await served.call(ANOMALIES + "LiftHold", request)
    assert (await shown(served, task_id)).hold == tasks_pb2.TASK_HOLD_UNSPECIFIED
    refusal = await served.refused(ANOMALIES + "LiftHold", request)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "HOLD_NOT_FOUND")


async def test_a_viewer_watches_and_does_nothing(served: Served) -> None:
    await add_finding(served.store)
    stream = watching(served, as_=VERA, after=0)
    assert (await the_first(stream)).number == 1
    stream.cancel()
    channel = served.connect(served.authority.svid(VERA))
    request = anomalies_pb2.LiftHoldRequest(task_id=await held(served), reason="x")
    refusal = await served.refused(ANOMALIES + "LiftHold", request, channel=channel)
    assert refusal.reason == "OPERATOR_ROLE_MISSING"


async def test_a_stream_of_findings_ends_when_the_broker_stops(served: Served) -> None:
    await add_finding(served.store)
    stream = watching(served, after=0)
    await the_first(stream)
    served.gate.stopping.set()
    with pytest.raises(grpc.RpcError) as caught:
        await stream.read()
    assert Refusal.of(caught.value).reason == "SHUTTING_DOWN"


async def test_a_stream_of_findings_ends_with_its_watchers_svid(served: Served) -> None:
    await add_finding(served.store)
    stream = watching(served, after=0)
    await the_first(stream)
    served.clock.advance(hours=2)
    with pytest.raises(grpc.RpcError) as caught:
        await stream.read()
    assert Refusal.of(caught.value).reason == "SVID_EXPIRED"


async def test_more_watchers_than_may_are_refused_and_the_place_is_given_back(served: Served) -> None:
    await add_finding(served.store)
    streams = [watching(served, after=0) for _ in range(MOST_WATCHERS)]
    for stream in streams:
        await the_first(stream)
    with pytest.raises(grpc.RpcError) as caught:
        await watching(served, after=0).read()
    assert Refusal.of(caught.value).reason == "OVERLOADED"
    assert (await listed(served)).findings  # there is room for who acts
    for stream in streams:
        stream.cancel()


@pytest.mark.parametrize("fields", [{"after": -1}, {"after": -(2**63)}])
async def test_a_bad_number_to_go_on_from_is_refused_and_written_down(
    served: Served, fields: dict[str, int]
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        await watching(served, **fields).read()
    assert Refusal.of(caught.value).fields.keys() == {"after"}
    (event,) = [record.event for record in await served.store.audit_records(0, 10)]
    assert (event.kind, event.facts["reason"]) == (AuditKind.OPERATOR_REFUSED, "FIELD_INVALID")


async def test_an_attached_agent_is_told_of_a_warning_in_words(served: Served) -> None:
    task_id = await served.declared()
    stream = served.stream(TASKS + "AttachTask", tasks_pb2.AttachTaskRequest(task_id=task_id))
    await stream.read()
    warning = TaskEvent(kind=EventKind.WARNING, at=served.clock.now(), text="a canary was touched")
    served.broker.events.publish(TaskId(task_id), warning)
    message = tasks_pb2.AttachTaskResponse.FromString(await stream.read())
    assert (message.kind, message.text) == (
        tasks_pb2.AttachTaskResponse.KIND_WARNING,
        "a canary was touched",
    )
    stream.cancel()
