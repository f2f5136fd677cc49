"""The form that the broker's identifiers are said to have."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable

import pytest

from broker.adapters.system.ids import RandomIds
from broker.server import bounds

IDS = RandomIds()
KINDS = [(IDS.task_id, "task"), (IDS.lease_id, "lease"), (IDS.request_id, "req")]


@pytest.mark.parametrize(("make", "prefix"), KINDS)
def test_an_identifier_is_its_kind_and_26_characters_of_crockfords_base_32(
    make: Callable[[], str], prefix: str
) -> None:
    for _ in range(200):
        assert re.fullmatch(prefix + "-[0-9a-hjkmnp-tv-z]{26}", make())


@pytest.mark.parametrize(("make", "_prefix"), KINDS)
def test_no_two_are_the_same(make: Callable[[], str], _prefix: str) -> None:
    assert len({make() for _ in range(5000)}) == 5000


def test_identifiers_sort_by_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns()
    made = []
    for milliseconds in (0, 1, 2, 1_000, 86_400_000, 10**12):
        monkeypatch.setattr(time, "time_ns", lambda at=now + milliseconds * 1_000_000: at)
        made.append(IDS.task_id())
    assert made == sorted(made)


def test_the_same_millisecond_tells_nothing_of_the_next_identifier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)
    made = [IDS.task_id().removeprefix("task-") for _ in range(2000)]
    assert len({text[:10] for text in made}) == 1  # the time
    for place in range(10, 26):
        assert len({text[place] for text in made}) == 32, place  # all of chance's 80 bits are used


def test_the_door_takes_what_was_made() -> None:
    assert bounds.task_id(IDS.task_id())
    assert bounds.lease_id(IDS.lease_id())


def test_fractions_are_below_one_and_differ() -> None:
    made = {IDS.fraction() for _ in range(1000)}
    assert all(0 <= fraction < 1 for fraction in made)
    assert len(made) > 990


def test_a_forked_child_makes_others_than_its_parent() -> None:
    IDS.task_id()  # randomness for the next ones is in memory now
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, "\n".join(IDS.task_id()[-16:] for _ in range(100)).encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        theirs = set(pipe.read().split())
    assert len(theirs) == 100
    assert not theirs & {IDS.task_id()[-16:] for _ in range(200)}
