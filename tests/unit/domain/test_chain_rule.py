"""What may follow a chain: the pattern, the counts and the rates, at the very moments where they begin and end."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from broker.domain.chain_pattern import compile_pattern
from broker.domain.chain_rule import ChainRule, NotNow, StepLimit
from tests.fakes.system import NOON
from tests.unit.domain.test_actions import a_chain

MINUTE = timedelta(minutes=1)
TICK = timedelta(microseconds=1)


def at(*seconds: float) -> list[tuple[str, datetime]]:
    """Steps `send` so long after noon."""
    return [("send", NOON + timedelta(seconds=second)) for second in seconds]


def objection(
    rule: ChainRule, steps: list[tuple[str, datetime]], step: str = "send", now: datetime = NOON
) -> NotNow | None:
    return rule.objection(a_chain(*steps), step, now)


def limited(*limits: StepLimit, pattern: str = ".*") -> ChainRule:
    return ChainRule(pattern=compile_pattern(pattern), limits={"send": limits})


def test_without_pattern_and_limits_everything_goes() -> None:
    assert objection(ChainRule(), []) is None
    assert objection(ChainRule(), at(*range(100))) is None


@pytest.mark.parametrize("used", range(5))
def test_in_a_whole_task_a_step_is_allowed_so_often(used: int) -> None:
    said = objection(limited(StepLimit(at_most=3)), at(*range(used)), now=NOON + timedelta(days=365))
    if used < 3:
        assert said is None
    else:
        assert said == NotNow(text="'send' may be used 3 times in a task", for_good=True)


def test_other_steps_do_not_count() -> None:
    rule = limited(StepLimit(at_most=1))
    others = [("read", NOON)] * 5
    assert objection(rule, others) is None
    assert objection(rule, [*others, *at(0)]) is not None
    assert objection(rule, [*others, *at(0)], "read") is None


@pytest.mark.parametrize(
    ("now", "allowed"),
    [
        (NOON + timedelta(seconds=20), False),
        (NOON + MINUTE - TICK, False),
        (NOON + MINUTE, True),
        (NOON + MINUTE + TICK, True),
        (NOON - MINUTE, False),  # the clock was set back: what is still to come counts
    ],
)
def test_within_a_stretch_the_oldest_makes_room_when_it_is_as_old_as_that_is_long(
    now: datetime,
    *,
    allowed: bool,
) -> None:
    said = objection(limited(StepLimit(at_most=2, per=MINUTE)), at(0, 10), now=now)
    assert said == (None if allowed else NotNow(text="'send' may be used 2 times in 60 s", for_good=False))


def test_every_stretch_is_looked_at_not_only_whole_minutes() -> None:
    rule, done = limited(StepLimit(at_most=2, per=MINUTE)), list[float]()
    for second in range(300):
        if objection(rule, at(*done), now=NOON + timedelta(seconds=second)) is None:
            done.append(second)
    assert done == [0, 1, 60, 61, 120, 121, 180, 181, 240, 241]


def test_all_limits_hold() -> None:
    rule = limited(StepLimit(at_most=1, per=MINUTE), StepLimit(at_most=2, per=60 * MINUTE), StepLimit())
    assert objection(rule, at(0), now=NOON + MINUTE) is None
    said = objection(rule, at(0, 60), now=NOON + 2 * MINUTE)
    assert said == NotNow(text="'send' may be used 2 times in 3600 s", for_good=False)


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        (StepLimit(at_most=0), "may not be used"),
        (StepLimit(at_most=0, per=MINUTE), "may not be used"),
        (StepLimit(at_most=1), "may be used once in a task"),
        (StepLimit(at_most=2), "may be used 2 times in a task"),
        (StepLimit(at_most=1, per=timedelta(days=30)), "may be used once in 2592000 s"),
        (StepLimit(at_most=5, per=timedelta(milliseconds=1500)), "may be used 5 times in 1.5 s"),
    ],
)
def test_a_limit_says_what_it_is(limit: StepLimit, text: str) -> None:
    assert limit.as_text() == text


def test_what_may_never_be_used_is_refused_for_good() -> None:
    said = objection(limited(StepLimit(at_most=0, per=MINUTE)), [])
    assert said == NotNow(text="'send' may not be used", for_good=True)


def test_what_is_used_up_is_refused_for_good_whichever_limit_comes_first() -> None:
    rule = limited(StepLimit(at_most=1, per=MINUTE), StepLimit(at_most=1))
    assert objection(rule, at(0)) == NotNow(text="'send' may be used once in a task", for_good=True)


@pytest.mark.parametrize(
    ("steps", "step", "text", "for_good", "expected"),
    [
        ("", "send", "'send' does not follow the beginning: expected is read", False, {"read"}),
        ("read", "read", "'read' does not follow 'read': expected is change, send", True, {"change", "send"}),
        ("read change", "change", "'change' does not follow 'change': expected is send", True, {"send"}),
        ("read send", "send", "'send' does not follow 'send': expected is nothing more", True, set()),
        ("send", "read", "'read' does not follow 'send': expected is nothing more", True, set()),
        ("", "delete", "'delete' does not follow the beginning: expected is read", True, {"read"}),
    ],
)
def test_what_the_pattern_does_not_have_says_what_it_has(
    steps: str,
    step: str,
    text: str,
    *,
    for_good: bool,
    expected: set[str],
) -> None:
    rule = limited(pattern="read change? send")
    said = objection(rule, [(name, NOON) for name in steps.split()], step)
    assert said == NotNow(text=text, for_good=for_good, expected=frozenset(expected))


def test_what_the_pattern_has_later_is_refused_for_good_when_it_is_used_up() -> None:
    rule = limited(StepLimit(at_most=1), pattern="(read send)*")
    assert objection(rule, [], "send") == NotNow(
        text="'send' does not follow the beginning: expected is read",
        for_good=False,
        expected=frozenset({"read"}),
    )
    said = objection(rule, [("read", NOON), *at(1)])
    assert said is not None
    assert said.for_good
    assert said.expected == {"read"}


def test_the_pattern_is_asked_of_what_was_allowed_alone() -> None:
    rule = limited(pattern="read send")
    chain = a_chain(("read", NOON), ("send", NOON), refused=frozenset({2}))
    assert chain.length == 2
    assert rule.objection(chain, "send", NOON) is None
