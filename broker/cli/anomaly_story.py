"""Findings for people, from the audit trail: lists of them, and the story of each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from importlib.resources import files
from typing import Final

from rich.table import Table
from rich.text import Text

from broker.anomaly.findings import DetectorName
from broker.anomaly.mapping import FILE, read_mapping
from broker.cli.output import fail, out
from broker.domain.findings import Mark
from broker.usecases.recorded_findings import TrailFinding
from broker.usecases.tell_finding import Moment, Step, Story

_LISTS: Final = {
    "atlas": "MITRE ATLAS",
    "owasp_agentic": "OWASP Agentic Applications",
    "owasp_nhi": "OWASP Non-Human Identities",
}


def show_list(found: list[TrailFinding], *, as_json: bool) -> None:
    """A line each, oldest first."""
    if as_json:
        for one in found:
            print(json.dumps(as_plain(one)))
        return
    if not found:
        out.print("no finding")
        return
    table = Table(box=None, pad_edge=False)
    for name in ("finding", "at", "what", "severity", "answer", "mark", "task"):
        table.add_column(name, overflow="fold")
    for one in found:
        cells = (
            one.finding_id,
            f"{one.at:%Y-%m-%d %H:%M:%S}",
            printable(f"{one.detector}/{one.rule}"),
            one.severity,
            one.answer if one.answered_at else f"{one.answer} (not yet)",
            one.mark.value,
            one.task_id or one.instance,
        )
        table.add_row(*map(Text, cells))
    out.print(table)


def show_story(story: Story, *, as_json: bool) -> None:
    """What the task did, what was expected, what happened, what was done and how long it took, and what others call it."""
    one = story.finding
    if as_json:
        plain = as_plain(one)
        plain["steps"] = [_plain_step(step) for step in story.steps]
        plain["done"] = [
            {"at": moment.at.isoformat(), "what": moment.what, "after_s": moment.after.total_seconds()}
            for moment in story.moments
        ]
        plain["mapped_to"] = [identifier for _, identifier, _ in mapped(one.detector)]
        print(json.dumps(plain))
        return
    for line in _lines(story):
        out.print(line)


def as_plain(one: TrailFinding) -> dict[str, object]:
    """As plain data."""
    return {
        "finding": one.finding_id,
        "detector": one.detector,
        "rule": one.rule,
        "severity": one.severity,
        "confidence": one.confidence,
        "instance": one.instance,
        "task": one.task_id or "",
        "at": one.at.isoformat(),
        "found_at": one.found_at.isoformat(),
        "evidence": list(one.evidence),
        "expected": one.expected,
        "happened": one.happened,
        "source": one.source,
        "answer": one.answer,
        "answered_at": one.answered_at.isoformat() if one.answered_at else "",
        "mark": one.mark.value,
        "marked_by": one.marked_by,
    }


def mapped(detector: str) -> Iterator[tuple[str, str, str]]:
    """What others call what this detector finds: the list, the entry, and its name. Nothing for signals from outside."""
    if detector not in set(DetectorName):
        return
    mapping = read_mapping(files("broker.anomaly").joinpath(FILE).read_text(encoding="utf-8"))
    entries = mapping.entries[DetectorName(detector)]
    for key, name in _LISTS.items():
        for identifier in getattr(entries, key):
            yield name, identifier, mapping.names[identifier]


def printable(text: str) -> str:
    """Without what would steer a terminal: words of a signal are those of whoever sent it."""
    return "".join(one if one.isprintable() else "?" for one in text)


def pick(found: dict[str, TrailFinding], finding_id: str) -> TrailFinding:
    """The one with this id; ends the command where there is none."""
    one = found.get(finding_id)
    if one is None:
        fail(f"{finding_id} is in no record: `tasklease anomaly list` shows those that are")
    return one


def _lines(story: Story) -> Iterator[Text]:
    one = story.finding
    yield Text.assemble(
        (one.finding_id, "bold"),
        printable(f"  {one.detector}/{one.rule}, {one.severity}, confidence {one.confidence:g}"),
    )
    yield Text(f"{one.instance}  {one.task_id or 'no task'}  {one.at:%Y-%m-%d %H:%M:%S} UTC")
    if one.source not in {"", "tasklease"}:
        yield Text(f"signalled by {printable(one.source)}")
    yield Text.assemble(("expected  ", "dim"), printable(one.expected))
    yield Text.assemble(("happened  ", "dim"), printable(one.happened))
    if story.steps:
        yield Text("\nwhat the task did (* shows it)", style="bold")
        if story.left_out:
            yield Text(f"  {story.left_out} earlier steps are left out", style="dim")
        yield from map(_step, story.steps)
    yield Text("\nwhat was done, and how long after it had happened", style="bold")
    yield Text(f"  the answer: {one.answer}")
    yield from map(_moment, story.moments)
    if one.answered_at is None:
        yield Text("  not everything that was demanded has taken effect yet", style="yellow")
    match one.mark:
        case Mark.FALSE:
            yield Text(f"  marked as false by {one.marked_by}", style="yellow")
        case Mark.CONFIRMED:
            yield Text(f"  confirmed by {one.marked_by}")
        case Mark.NONE:
            pass
    names = tuple(mapped(one.detector))
    if names:
        yield Text("\nwhat others call it", style="bold")
        yield from (Text(f"  {where} {identifier}: {name}") for where, identifier, name in names)


def _step(step: Step) -> Text:
    mark = "*" if step.is_evidence else " "
    details = ": ".join(filter(None, (step.effect, step.verdict)))
    outcome = f", {step.outcome}" if step.outcome else ""
    return Text.assemble(
        f"{mark} {step.at:%H:%M:%S}  {step.what}  ",
        (f"{details}{outcome}", "yellow" if step.verdict.startswith("denied") else "dim"),
    )


def _plain_step(step: Step) -> dict[str, object]:
    return {
        "at": step.at.isoformat(),
        "what": step.what,
        "effect": step.effect,
        "verdict": step.verdict,
        "outcome": step.outcome,
        "is_evidence": step.is_evidence,
    }


def _moment(moment: Moment) -> Text:
    return Text(f"  {_lasting(moment.after):>10}  {moment.what}")


def _lasting(after: timedelta) -> str:
    return f"{after.total_seconds():.3f} s"
