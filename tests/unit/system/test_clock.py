"""A clock that jumps less than the one that it follows."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from broker.adapters.system.clock import FollowingClock
from tests.fakes.system import NOON

SECOND = timedelta(seconds=1)


class Machine:
    """A wall clock that anybody may set, a counter that nobody can, and a database's clock behind a wire."""

    def __init__(self) -> None:
        self.wall = NOON
        self.counter = 1000.0
        self.wire = 0.0

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds * SECOND
        self.counter += seconds

    def jump(self, seconds: float) -> None:
        self.wall += seconds * SECOND

    def of_wall(self) -> FollowingClock:
        return FollowingClock.of_wall(lambda: self.wall, lambda: self.counter)

    def of_database(self) -> FollowingClock:
        async def database() -> datetime:
            self.pass_by(self.wire)
            return self.wall

        return FollowingClock(database, to_the_letter=True, counter=lambda: self.counter)


async def test_it_goes_with_time_between_two_looks() -> None:
    machine = Machine()
    clock = machine.of_wall()
    assert clock.now() == NOON
    machine.pass_by(7)
    assert clock.now() == NOON + 7 * SECOND
    await clock.follow()
    assert clock.now() == NOON + 7 * SECOND


@pytest.mark.parametrize("drift", [0.9, -0.9])
async def test_a_small_correction_is_taken_at_once(drift: float) -> None:
    machine = Machine()
    clock = machine.of_wall()
    machine.jump(drift)
    await clock.follow()
    assert clock.now() == machine.wall


@pytest.mark.parametrize("jump", [60.0, -60.0])
async def test_a_jump_of_a_minute_ends_no_task_and_is_made_up_for_slowly(jump: float) -> None:
    machine = Machine()
    clock = machine.of_wall()
    machine.jump(jump)
    for _ in range(10):
        machine.pass_by(1)
        before = clock.now()
        await clock.follow()
        assert abs(clock.now() - before) <= 0.051 * SECOND
    assert abs(clock.now() - (NOON + 10 * SECOND)) <= 0.51 * SECOND
    for _ in range(1300):
        machine.pass_by(1)
        await clock.follow()
    assert clock.now() == machine.wall


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
async def test_a_clock_that_is_set_right_is_believed(jump: float) -> None:
    machine = Machine()
    clock = machine.of_wall()
    machine.jump(jump)
    await clock.follow()
    assert clock.now() == machine.wall


async def test_a_jump_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()
    clock = machine.of_wall()
    machine.jump(60)
    for _ in range(5):
        machine.pass_by(1)
        await clock.follow()
    assert len([record for record in caplog.records if "jumped by 60.0 s" in record.message]) == 1


async def test_what_replicas_share_is_followed_to_the_letter() -> None:
    machine = Machine()
    clock = machine.of_database()
    await clock.follow()
    assert clock.now() == machine.wall
    machine.jump(60)
    await clock.follow()
    assert clock.now() == machine.wall


async def test_half_of_the_way_is_reckoned_with() -> None:
    machine = Machine()
    clock = machine.of_database()
    machine.wire = 0.2
    await clock.follow()
    assert clock.now() == machine.wall + 0.1 * SECOND


async def test_an_answer_that_took_too_long_means_nothing() -> None:
    machine = Machine()
    clock = machine.of_database()
    await clock.follow()
    machine.wire = 0.6
    machine.jump(60)
    await clock.follow()
    assert clock.now() == machine.wall - 60 * SECOND
