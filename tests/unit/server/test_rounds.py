"""Rounds go on, whatever one of them meets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest

from broker.domain.errors import StoreUnavailableError
from broker.server.rounds import run_rounds
from tests.fakes.system import FakeClock
from tests.unit.usecases.wiring import settle

EVERY = timedelta(seconds=1)


@pytest.mark.parametrize("failure", [StoreUnavailableError, RuntimeError, KeyError])
async def test_a_failed_round_is_logged_and_the_next_one_comes(
    failure: Callable[[], Exception], caplog: pytest.LogCaptureFixture
) -> None:
    rounds = 0

    async def one_round() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            raise failure()

    clock = FakeClock()
    work = asyncio.ensure_future(run_rounds("sweep", one_round, every=EVERY, clock=clock))
    await settle()
    assert (rounds, clock.next_wake) == (1, clock.now() + EVERY)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "sweep" in caplog.text
    clock.advance(seconds=1)
    await settle()
    assert rounds == 2
    assert len(caplog.records) == 1
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
