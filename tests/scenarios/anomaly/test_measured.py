"""On seeds that nothing was set on: attacks are found, soon, and honest work is left alone."""

from __future__ import annotations

import pytest

from broker.anomaly.events import in_order
from broker.anomaly.watching import rebuild
from tests.scenarios.anomaly.corpus import BENIGN, HELD_OUT, Trace, attacks, benign, learned
from tests.scenarios.anomaly.handmade import BY_HAND
from tests.scenarios.anomaly.measure import (
    Report,
    as_text,
    findings_of,
    measure,
    measured,
    median_of,
    wilson,
)

TASKS, OF_EACH = 4000, 12


@pytest.fixture(scope="module")
def report() -> Report:
    return measured(HELD_OUT, TASKS, OF_EACH)


def test_attacks_are_found(report: Report) -> None:
    every = report.every
    assert every.traces >= 300
    assert report.recall >= 0.95, as_text(report)
    assert wilson(every.found, every.traces)[0] >= 0.95, as_text(report)


def test_each_kind_is_found_by_its_own_detector(report: Report) -> None:
    for name, kind in report.kinds.items():
        assert kind.by_its_own / kind.traces >= 0.95, name


def test_honest_tasks_are_left_alone(report: Report) -> None:
    assert report.benign_tasks >= TASKS
    assert report.false_per_thousand <= 2.0, report.examples


def test_attacks_are_found_soon(report: Report) -> None:
    assert report.median <= 2.0
    assert median_of(report.every.delays)[2] <= 2.0


def test_the_corpus_is_the_same_each_time() -> None:
    assert benign(HELD_OUT) == benign(HELD_OUT)
    assert benign(HELD_OUT) != benign(HELD_OUT + 1)
    assert list(attacks(HELD_OUT, 1)) == list(attacks(HELD_OUT, 1))


@pytest.mark.parametrize("trace", BY_HAND, ids=lambda trace: trace.name)
def test_stories_by_hand(trace: Trace) -> None:
    found = findings_of(trace, learned())
    if trace.label == BENIGN:
        assert found == []
        return
    assert trace.first_bad is not None
    kinds = {one.detector.value for number, one in found if number >= trace.first_bad}
    assert trace.label in kinds
    assert all(number >= trace.first_bad for number, _ in found)


def test_replicas_that_saw_halves_find_what_one_finds_that_saw_all() -> None:
    for trace in attacks(HELD_OUT + 1, 1):
        halves = (trace.events[::2], trace.events[1::2])
        whole = rebuild(trace.events, model=learned())[1]
        assert rebuild(*halves, trace.events[:3], model=learned())[1] == whole
        assert in_order(*halves) == in_order(trace.events)


def test_nothing_that_an_argument_named_is_in_a_finding() -> None:
    words = {"'eve'", "locked", "inbox", "orders/", "secrets/", "203.0.113", "svid-"}
    for trace in (*attacks(HELD_OUT + 2, 1), *BY_HAND):
        for _, one in findings_of(trace, learned()):
            assert not any(word in one.happened or word in one.expected for word in words)


def test_the_measure_counts_what_it_is_given() -> None:
    touched = next(trace for trace in BY_HAND if trace.label == "canary")
    honest = next(trace for trace in BY_HAND if trace.label == BENIGN)
    mislabelled = Trace(name="x-0", label=BENIGN, events=touched.events)
    unfound = Trace(name="y-0", label="drift", events=honest.events, first_bad=0)
    found = measure((touched, honest, mislabelled, unfound), learned())
    assert (found.recall, found.benign_tasks, found.false_tasks["canary"]) == (0.5, 2, 1)
    assert found.kinds["drift"].missed == {"y": 1}
    assert found.every.delays == [0]


def test_intervals_are_those_of_the_books() -> None:
    low, high = wilson(8, 10)
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)
    assert wilson(0, 0) == (0.0, 1.0)
    assert median_of([3, 1, 2]) == (2.0, 1, 3)
