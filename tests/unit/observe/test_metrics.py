"""What Prometheus is told, and that it is told nothing that an agent chose."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import timedelta

import pytest
from prometheus_client import generate_latest

from broker.adapters.observe.metrics import Health, PrometheusMetrics
from broker.adapters.observe.together import Observers
from broker.devstack.parts import REPOSITORY
from broker.domain.decision import Decision, Shadow, Verdict
from broker.domain.errors import TaskNotFoundError
from broker.domain.findings import Answer, Found, RecordedFinding, Severity
from broker.domain.identifiers import TaskId
from broker.domain.lease import LeaseState
from broker.domain.messages import ReceiverKind
from broker.domain.task import Outcome, TaskState
from broker.ports.observing import Kind
from broker.ports.store import StoreFigures
from broker.usecases.reconcile import OnBehalfOf
from tests.fakes.samples import OWNER, a_caller
from tests.fakes.system import NOON
from tests.unit.usecases.wiring import Broker, a_broker


def shown(metrics: PrometheusMetrics) -> str:
    return generate_latest(metrics.registry).decode()


def value(metrics: PrometheusMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_work_is_counted_by_how_it_ended() -> None:
    metrics = PrometheusMetrics()
    observers = Observers(metrics)
    with observers.watch(Kind.RPC, "TaskService/GetTask", task_id="task-secret"):
        pass
    with pytest.raises(TaskNotFoundError), observers.watch(Kind.RPC, "TaskService/GetTask"):
        raise TaskNotFoundError
    planted = ZeroDivisionError("hvs.secret")
    with pytest.raises(ZeroDivisionError), observers.watch(Kind.VAULT, "issue"):
        raise planted
    count = "tasklease_rpc_seconds_count"
    assert value(metrics, count, method="TaskService/GetTask", outcome="OK") == 1
    assert value(metrics, count, method="TaskService/GetTask", outcome="TASK_NOT_FOUND") == 1
    outcome = {"operation": "issue", "outcome": "ZeroDivisionError"}
    assert value(metrics, "tasklease_vault_seconds_count", **outcome) == 1
    assert "secret" not in shown(metrics)


async def test_revocations_and_ends_are_told_by_events() -> None:
    broker: Broker = a_broker()
    metrics = PrometheusMetrics()
    broker.events.heard = metrics.heard
    task = await broker.declared()
    await broker.acquired(task)
    broker.issuer.away = True
    await broker.complete(a_caller(), task.task_id, Outcome.SUCCEEDED, "")
    broker.clock.advance(seconds=7)
    broker.issuer.away = False
    await broker.watch.retry()
    assert value(metrics, "tasklease_revoke_seconds_sum", cause="task-ended") == 7
    assert value(metrics, "tasklease_tasks_ending_total", cause="completed") == 1
    assert value(metrics, "tasklease_tasks_ending_total", cause="deadline") == 0


def test_figures_go_back_to_nothing() -> None:
    metrics = PrometheusMetrics()
    busy = StoreFigures(
        tasks={TaskState.ENDING: 2}, leases={LeaseState.REVOKING: 40}, oldest_revoking_since=NOON
    )
    metrics.figures(busy, NOON + timedelta(seconds=90), revocations_under_way=3)
    assert value(metrics, "tasklease_leases", state="revoking") == 40
    assert value(metrics, "tasklease_tasks", state="active") == 0
    assert value(metrics, "tasklease_oldest_unrevoked_seconds") == 90
    assert value(metrics, "tasklease_revocations_under_way") == 3
    metrics.figures(
        StoreFigures(tasks={}, leases={}, oldest_revoking_since=None), NOON, revocations_under_way=0
    )
    assert value(metrics, "tasklease_leases", state="revoking") == 0
    assert value(metrics, "tasklease_oldest_unrevoked_seconds") == 0


async def test_what_differs_is_counted_and_a_dry_run_is_not() -> None:
    broker = a_broker()
    metrics = PrometheusMetrics()
    broker.reconcile.heard = metrics.reconciled
    await broker.acquired(await broker.declared())
    broker.issuer.leases.clear()
    for dry_run, counted in ((True, 0), (False, 1), (False, 1)):
        await broker.reconcile(by=OnBehalfOf(actor="test"), dry_run=dry_run)
        assert value(metrics, "tasklease_reconciled_total", kind="lost") == counted
    assert value(metrics, "tasklease_reconciled_total", kind="orphan") == 0


async def test_decisions_are_counted_by_what_was_answered_and_by_the_candidate() -> None:
    metrics = PrometheusMetrics()
    allowed = Decision(verdict=Verdict.ALLOW, policies=("cedar:yes",))
    shadow = Shadow(policy_set="x", verdict=Verdict.DENY, policies=("cedar:no",))
    for action, decision in (
        ("call", allowed),
        ("call", replace(allowed, shadow=shadow)),
        ("acquire", Decision(verdict=Verdict.DENY, policies=(), reason="POLICY_DENIED", shadow=shadow)),
    ):
        metrics.decided(action, decision)
    for labels in (
        'action="call",reason="",shadow="none",verdict="allow"',
        'action="call",reason="",shadow="differs",verdict="allow"',
        'action="acquire",reason="POLICY_DENIED",shadow="agrees",verdict="deny"',
    ):
        assert f"tasklease_decisions_total{{{labels}}} 1.0" in shown(metrics)


def test_messages_are_counted_by_the_receiver_s_kind_and_by_how_it_went() -> None:
    metrics = PrometheusMetrics()
    for outcome in ("failed", "taken", "taken"):
        metrics.attempted(ReceiverKind.OCSF, outcome)
    assert value(metrics, "tasklease_messages_total", kind="ocsf", outcome="taken") == 2
    for waiting in (7, 0):
        metrics.waiting({ReceiverKind.WEBHOOK: waiting})
        assert value(metrics, "tasklease_messages_waiting", kind="webhook") == waiting


def test_findings_are_counted_and_how_long_their_answers_took() -> None:
    metrics = PrometheusMetrics()
    found = Found(
        detector="canary",
        rule="touched",
        severity=Severity.CRITICAL,
        confidence=0.95,
        instance=OWNER,
        task_id=TaskId("task-secret"),
        at=NOON,
    )
    finding = RecordedFinding(
        finding_id=found.finding_id, found=found, found_at=NOON, answer=Answer.QUARANTINE
    )
    metrics.found(finding)
    metrics.answered(finding)
    labels = {"detector": "canary", "severity": "critical", "answer": "quarantine"}
    assert value(metrics, "tasklease_findings_total", **labels) == 1
    took = "tasklease_finding_answered_seconds"
    assert value(metrics, f"{took}_count", answer="quarantine") == 0, "it is not answered"
    metrics.answered(replace(finding, answered_at=NOON + timedelta(seconds=2)))
    assert value(metrics, f"{took}_sum", answer="quarantine") == 2
    metrics.watching(3, 20, 1)
    assert value(metrics, "tasklease_watches") == 1
    assert [value(metrics, "tasklease_watch_values", of=of) for of in ("now", "most")] == [3, 20]
    metrics.figures(
        StoreFigures(tasks={}, leases={}, oldest_revoking_since=None, unanswered_findings=4),
        NOON,
        revocations_under_way=0,
    )
    assert value(metrics, "tasklease_findings_unanswered") == 4
    assert "secret" not in shown(metrics)
    assert "spiffe" not in shown(metrics)


def test_health() -> None:
    metrics = PrometheusMetrics()
    metrics.health(Health(vault=False, spire=True, store=True, svid_expires_at=NOON, ready=False))
    assert value(metrics, "tasklease_vault_up") == 0
    assert value(metrics, "tasklease_spire_up") == value(metrics, "tasklease_store_writable") == 1
    assert value(metrics, "tasklease_svid_expires_timestamp_seconds") == NOON.timestamp()


def names_in(text: str) -> set[str]:
    found = set(re.findall(r"tasklease_[a-z_]+", text))
    return {re.sub(r"_(bucket|sum|count|created)$", "", name).removesuffix("_total") for name in found}


@pytest.mark.parametrize("file", ["docs/observability.md", "examples/alerts.yaml", "examples/dashboard.json"])
def test_what_is_written_about_metrics_is_there(file: str) -> None:
    metrics = PrometheusMetrics()
    there = {family.name for family in metrics.registry.collect()}
    written = names_in((REPOSITORY / file).read_text())
    assert written
    assert written <= there
    if file.startswith("docs"):
        assert there <= written, "every metric is described"


def test_the_dashboard_is_one() -> None:
    dashboard = json.loads((REPOSITORY / "examples/dashboard.json").read_text())
    assert dashboard["title"] == "Tasklease"
    panels = dashboard["panels"]
    assert all(panel["targets"][0]["expr"] for panel in panels)
    assert len({panel["id"] for panel in panels}) == len(panels)
