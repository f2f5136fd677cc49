"""The story of a finding, from the trail: what the task did, what shows it, what was done and how long it took."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from broker.anomaly.findings import DetectorName
from broker.cli import anomaly
from broker.cli.anomaly_story import mapped
from broker.cli.output import out
from broker.domain.audit import AuditEvent, AuditKind
from broker.domain.identifiers import TaskId
from broker.usecases import tell_finding
from tests.scenarios.anomaly.acting import Actor
from tests.scenarios.anomaly.corpus import Trace, dice_of
from tests.scenarios.anomaly.trails import OPERATOR, a_store_with, found, marked, of_traces

BROKER = "spiffe://example.org/tasklease/broker"
REFUSALS = 5


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever test made the console first: lines are not broken here."""
    monkeypatch.setattr(out, "_width", 200)


def the_trace() -> Trace:
    actor = Actor(dice_of("story"), "s")
    task = actor.task("deploy-service")
    actor.act(task, "read-config", "shop")
    for _ in range(REFUSALS):
        actor.act(task, "roll-back", "shop", allowed=False)
        actor.wait(2)
    return Trace(name="story", label="retry-storm", events=tuple(actor.events))


def the_events(*, answered: bool = True) -> list[AuditEvent]:
    trace = the_trace()
    decided = [event for event in trace.events if event.decided is not None]
    task_id, instance = trace.events[0].task_id, str(trace.events[0].instance)
    assert task_id is not None
    at = decided[-1].at

    def after(milliseconds: int, kind: str, **facts: object) -> AuditEvent:
        when = at + timedelta(milliseconds=milliseconds)
        return AuditEvent(kind=kind, at=when, actor=BROKER, task_id=task_id, facts=facts)

    finding = found(
        "finding-1", task_id, instance, at + timedelta(milliseconds=4), "retry-storm/refused-again"
    )
    refused = [event.decided.action_id for event in decided if event.decided and not event.decided.allowed]
    facts = {**finding.facts, "evidence": refused, "answer": "quarantine", "at": at.isoformat()}
    other = found("finding-2", TaskId("task-other"), f"{instance}-2", at, "canary/touched")
    done = [
        replace(finding, facts=facts),
        after(5, AuditKind.QUARANTINE_IMPOSED, target="instance", name=instance, reason="finding-1"),
        after(5, AuditKind.QUARANTINE_IMPOSED, target="instance", name=f"{instance}-2", reason="another"),
        after(6, AuditKind.TASK_ENDING, cause="quarantined", outcome="", reason=""),
        after(90, AuditKind.LEASE_REVOKED, role="orders-readonly"),
        after(99, AuditKind.TASK_ENDED, leases=1),
    ]
    if answered:
        done.append(after(100, "anomaly.answered", finding="finding-1"))
    return [*of_traces([trace]), other, *done]


def a_store(folder: Path, events: Sequence[AuditEvent]) -> str:
    return a_store_with(folder / "broker.db", events)


def run(*words: str, store: str) -> Result:
    return CliRunner().invoke(anomaly.app, [*words, "--store", store])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return a_store(tmp_path_factory.mktemp("stories"), the_events())


def test_the_story_has_the_steps_the_evidence_and_the_times(store: str) -> None:
    result = run("show", "finding-1", store=store)
    assert result.exit_code == 0, result.output
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert lines[0] == "finding-1  retry-storm/refused-again, medium, confidence 0.8"
    assert "expected  the usual order" in lines
    assert "happened  another one" in lines
    evidence = [line for line in lines if line.startswith("* ")]
    assert len(evidence) == REFUSALS
    assert all("call 'roll-back'" in line and "POLICY_DENIED, structural" in line for line in evidence)
    assert any("call 'read-config'" in line and "allowed, succeeded" in line for line in lines)
    assert [line.split("s  ", 1) for line in lines if line.startswith("     0.")] == [
        ["     0.004 ", "found, and the answer chosen"],
        ["     0.005 ", "the instance is quarantined"],
        ["     0.006 ", "the task is ending: nothing more is issued (quarantined)"],
        ["     0.090 ", "a credential is refused (orders-readonly)"],
        ["     0.099 ", "the task has ended: it holds nothing any more"],
        ["     0.100 ", "everything that was demanded has taken effect"],
    ]
    assert "  MITRE ATLAS AML.T0053: AI Agent Tool Invocation" in lines
    assert "  OWASP Agentic Applications ASI02: Tool Misuse and Exploitation" in lines


def test_the_same_as_data(store: str) -> None:
    told: dict[str, Any] = json.loads(run("show", "finding-1", "--json", store=store).stdout)
    assert (told["answer"], told["mark"], len(told["evidence"])) == ("quarantine", "", REFUSALS)
    assert [step["what"] for step in told["steps"]][:2] == ["declare deploy-service", "call 'read-config'"]
    assert [moment["after_s"] for moment in told["done"]] == [0.004, 0.005, 0.006, 0.09, 0.099, 0.1]
    assert "AML.T0053" in told["mapped_to"]


def test_what_has_not_taken_effect_is_said(tmp_path: Path) -> None:
    store = a_store(tmp_path, the_events(answered=False))
    assert (
        "not everything that was demanded has taken effect yet"
        in run("show", "finding-1", store=store).stdout
    )
    assert "quarantine (not yet)" in run("list", store=store).stdout


def test_a_mark_is_shown_and_the_last_one_counts(tmp_path: Path) -> None:
    events = the_events()
    last = max(event.at for event in events)
    events += [marked("finding-1", last + timedelta(seconds=1), false=False)]
    events += [marked("finding-1", last + timedelta(seconds=2), false=True)]
    store = a_store(tmp_path, events)
    assert f"marked as false by {OPERATOR}" in run("show", "finding-1", store=store).stdout
    unmarked = run("list", "--unmarked", store=store).stdout
    assert "finding-2" in unmarked
    assert "finding-1" not in unmarked


def test_lists_are_narrowed(store: str) -> None:
    every = run("list", store=store).stdout
    assert "finding-1" in every
    assert "finding-2" in every
    by_detector = run("list", "--detector", "canary", "--json", store=store).stdout
    assert [json.loads(line)["finding"] for line in by_detector.splitlines()] == ["finding-2"]
    assert "finding-2" in run("list", "--task", "task-other", store=store).stdout
    assert "no finding" in run("list", "--since", "1h", store=store).stdout
    wrong = run("list", "--detector", "canaries", store=store)
    assert wrong.exit_code == 2
    assert "--detector canaries: give one of canary, drift," in wrong.stderr


def test_a_finding_that_is_none_is_said(store: str) -> None:
    result = run("show", "finding-9", store=store)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "finding-9 is in no record" in result.stderr


def test_words_from_outside_do_not_steer_the_terminal(tmp_path: Path) -> None:
    events = the_events()
    outside = [
        replace(event, facts={**event.facts, "tool": "\x1b[2J"}) for event in events if "tool" in event.facts
    ]
    signal = found("finding-3", TaskId(""), "spiffe://a.b/c", events[0].at, "signal/seen\x1b[2J")
    facts = {**signal.facts, "happened": "look\x1b]0;owned\x07\n  marked", "source": "siem\x1b[1m"}
    store = a_store(tmp_path, [*(event for event in events if "tool" not in event.facts), *outside,
                               replace(signal, facts=facts)])  # fmt: skip
    for words in (("list",), ("show", "finding-3"), ("show", "finding-1")):
        result = run(*words, store=store)
        assert result.exit_code == 0, result.output
        assert "\x1b" not in result.stdout
        assert "\x07" not in result.stdout
    shown = run("show", "finding-3", store=store).stdout
    assert "happened  look?]0;owned??  marked" in shown
    assert "signalled by siem?[1m" in shown
    assert "what others call it" not in shown
    assert "call something that is not listed" in run("show", "finding-1", store=store).stdout


def test_a_long_story_keeps_the_evidence_and_the_newest_steps(
    monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    monkeypatch.setattr(tell_finding, "MOST_STEPS", 1)
    result = run("show", "finding-1", store=store)
    assert len([line for line in result.stdout.splitlines() if line.startswith("* ")]) == REFUSALS
    assert "1 earlier steps are left out" in result.stdout


def test_every_detector_is_mapped() -> None:
    for detector in DetectorName:
        assert {where for where, _, _ in mapped(detector.value)} >= {"MITRE ATLAS"}
    assert list(mapped("signal")) == []
