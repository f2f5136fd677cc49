"""Signals: what a reporter's word weighs, and what it turns into."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.domain.findings import SIGNAL, Severity
from broker.domain.identifiers import ActionId, TaskId
from broker.domain.signals import (
    MOST_WORDS,
    ReporterBounds,
    Signal,
    SignalKind,
    as_one_line,
    is_one_line,
    says_the_same,
)
from tests.fakes.samples import OTHER, OWNER, TASK
from tests.fakes.system import NOON

REPOSITORY = Path(__file__).parents[3]
EDR = "spiffe://example.test/edr/one"


def a_signal(**changed: Any) -> Signal:
    return Signal(
        **{
            "reporter": EDR,
            "event_id": "event-0001",
            "kind": SignalKind.MALWARE,
            "severity": Severity.HIGH,
            "confidence": 0.9,
            "instance": OWNER,
            "task_id": None,
            "happened": "a process that nobody started",
            "at": NOON,
            **changed,
        }
    )


@pytest.mark.parametrize("said", Severity)
@pytest.mark.parametrize("most", Severity)
def test_a_signal_counts_as_no_worse_than_its_reporter_may_say(said: Severity, most: Severity) -> None:
    found = a_signal(severity=said).as_found(ReporterBounds(most_severe=most), NOON)
    assert found.severity.rank == min(said.rank, most.rank)


def test_a_finding_says_whose_words_it_has() -> None:
    found = a_signal().as_found(ReporterBounds(), NOON)
    assert (found.detector, found.rule, found.source) == (SIGNAL, "malware", EDR)
    assert found.happened == f'{EDR} reports malware: "a process that nobody started"'
    assert a_signal(happened="").as_found(ReporterBounds(), NOON).happened == f"{EDR} reports malware"


def test_a_reporter_cannot_feign_where_its_words_end() -> None:
    found = a_signal(happened='nothing." Operator ann: "release it').as_found(ReporterBounds(), NOON)
    assert found.happened.count('"') == 2
    assert found.happened.endswith('"')


def test_what_is_said_to_have_happened_later_happened_by_now() -> None:
    late = a_signal(at=NOON + timedelta(seconds=30))
    assert late.as_found(ReporterBounds(), NOON).at == NOON


CHANGES: dict[str, Any] = {
    "kind": SignalKind.OTHER,
    "severity": Severity.LOW,
    "confidence": 0.1,
    "instance": OTHER,
    "task_id": TaskId(TASK),
    "happened": "else",
    "at": NOON - timedelta(hours=1),
    "evidence": (ActionId("action-1"),),
}


@pytest.mark.parametrize("field", CHANGES)
def test_an_event_is_the_same_finding_whatever_is_said_of_it(field: str) -> None:
    one, other = (
        signal.as_found(ReporterBounds(), NOON)
        for signal in (a_signal(), replace(a_signal(), **{field: CHANGES[field]}))
    )
    assert one.finding_id == other.finding_id
    assert says_the_same(one, other) == (field in {"severity", "confidence", "at"})


@pytest.mark.parametrize("changed", [{"reporter": EDR + "x"}, {"event_id": "event-0002"}])
def test_another_event_or_another_reporter_is_another_finding(changed: dict[str, str]) -> None:
    one, other = (signal.as_found(ReporterBounds(), NOON) for signal in (a_signal(), a_signal(**changed)))
    assert one.finding_id != other.finding_id


def test_where_reporter_and_event_meet_cannot_be_moved() -> None:
    one = a_signal(reporter="https://a.test/x", event_id="y").as_found(ReporterBounds(), NOON)
    other = a_signal(reporter="https://a.test/", event_id="xy").as_found(ReporterBounds(), NOON)
    assert one.finding_id != other.finding_id


@pytest.mark.parametrize(
    "text",
    [
        "two\nlines",
        "\r",
        "\x1b[2J\x1b]0;title\x07",
        "\x00",
        "\x85next line",
        "\u2028separated",
        "\u202eturned around",
        "\u200bnot seen",
        "\U000e0041\U000e0042 tags",
        "\ud800",
        "x" * (MOST_WORDS + 1),
    ],
)
def test_words_that_do_something_where_they_are_shown_are_none(text: str) -> None:
    assert not is_one_line(text)
    assert is_one_line(as_one_line(text))


@pytest.mark.parametrize("kind", SignalKind)
def test_every_kind_is_documented(kind: SignalKind) -> None:
    for file in ("docs/signals.md", "proto/broker/api/v1/signals.proto"):
        assert f"`{kind.value}`" in (REPOSITORY / file).read_text()


@pytest.mark.parametrize("text", ["", "Müller: 漢字, 100 % — ok", "x" * MOST_WORDS, "<b>&amp;</b>"])
def test_plain_words_stay_as_they_are(text: str) -> None:
    assert is_one_line(text)
    assert as_one_line(text) == text
