"""A token bucket an instance, in itself; tests of it at the gate are in test_gate."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.errors import RateLimitedError
from broker.domain.spiffe import SpiffeId
from broker.server import rate_limit
from broker.server.rate_limit import RateLimit
from tests.fakes.samples import OTHER, OWNER
from tests.fakes.system import NOON

STEPS = st.lists(st.tuples(st.floats(-2, 5), st.integers(1, 4)), max_size=50)
"""Seconds since the step before (clocks go back, too), and a cost."""


@given(STEPS, st.floats(0.1, 50), st.integers(4, 50))
def test_no_more_passes_than_the_burst_and_what_time_brings(
    steps: list[tuple[float, int]], rate: float, burst: int
) -> None:
    limit, now, passed, forward = RateLimit(rate=rate, burst=burst), NOON, 0, 0.0
    for seconds, cost in steps:
        now += timedelta(seconds=seconds)
        forward += max(seconds, 0)
        try:
            limit.take(OWNER, cost, now)
        except RateLimitedError:
            continue
        passed += cost
    assert passed <= burst + forward * rate + 1e-6


@given(STEPS, st.floats(0.1, 50), st.integers(4, 50))
def test_after_the_time_that_a_refusal_names_the_call_passes(
    steps: list[tuple[float, int]], rate: float, burst: int
) -> None:
    limit, now = RateLimit(rate=rate, burst=burst), NOON
    for seconds, cost in steps:
        now += timedelta(seconds=max(seconds, 0))
        try:
            limit.take(OWNER, cost, now)
        except RateLimitedError as error:
            now += (error.retry_after or timedelta()) + timedelta(microseconds=2)
            limit.take(OWNER, cost, now)


def test_refused_calls_cost_nothing() -> None:
    limit = RateLimit(rate=1, burst=4)
    limit.take(OWNER, 4, NOON)
    for _ in range(100):
        with pytest.raises(RateLimitedError):
            limit.take(OWNER, 1, NOON)
    limit.take(OWNER, 1, NOON + timedelta(seconds=1))


def test_a_clock_that_goes_back_brings_nothing() -> None:
    limit = RateLimit(rate=1, burst=4)
    limit.take(OWNER, 4, NOON)
    with pytest.raises(RateLimitedError):
        limit.take(OWNER, 1, NOON - timedelta(hours=1))


def test_instances_do_not_share() -> None:
    limit = RateLimit(rate=1, burst=4)
    limit.take(OWNER, 4, NOON)
    limit.take(OTHER, 4, NOON)


def test_what_it_remembers_is_bounded_and_the_longest_silent_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rate_limit, "_MOST_INSTANCES", 10)
    limit = RateLimit(rate=1, burst=4)
    for number in range(1000):
        limit.take(SpiffeId(trust_domain="example.test", path=f"/agent/a/{number}"), 4, NOON)
        limit.take(OWNER, 0, NOON)  # calls all the time
    assert len(limit._buckets) == 10
    assert OWNER in limit._buckets
