"""Turns: one at a time, in order, and nothing is left of them."""

from __future__ import annotations

import asyncio
import random

import pytest

from broker.usecases.turns import Turns


async def test_who_waits_comes_in_the_order_of_arrival_and_other_keys_do_not_wait() -> None:
    turns: Turns[str] = Turns()
    order: list[int] = []
    inside = 0

    async def work(number: int) -> None:
        nonlocal inside
        async with turns.of("a"):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0)
            order.append(number)
            inside -= 1

    async with turns.of("a"):
        waiting = [asyncio.create_task(work(number)) for number in range(5)]
        await asyncio.sleep(0)
        async with turns.of("b"):
            assert (turns.is_taken("a"), turns.is_taken("b"), len(turns)) == (True, True, 2)
        assert order == []
    await asyncio.gather(*waiting)
    assert order == [0, 1, 2, 3, 4]
    assert (len(turns), turns.is_taken("a")) == (0, False)


async def test_who_gives_up_waiting_keeps_nobody_waiting() -> None:
    turns: Turns[str] = Turns()

    async def work() -> str:
        async with turns.of("a"):
            return "done"

    async with turns.of("a"):
        gives_up, stays = asyncio.create_task(work()), asyncio.create_task(work())
        await asyncio.sleep(0)
        gives_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gives_up
    assert await stays == "done"
    assert len(turns) == 0


async def test_an_error_inside_ends_the_turn() -> None:
    turns: Turns[str] = Turns()
    planted = ZeroDivisionError("planted")
    with pytest.raises(ZeroDivisionError):
        async with turns.of("a"):
            raise planted
    assert len(turns) == 0
    async with turns.of("a"):
        assert turns.is_taken("a")


async def test_who_gives_up_when_it_was_just_given_passes_it_on() -> None:
    turns: Turns[str] = Turns()
    order: list[str] = []

    async def work(name: str) -> None:
        async with turns.of("a"):
            order.append(name)

    async with turns.of("a"):
        first, second = asyncio.create_task(work("first")), asyncio.create_task(work("second"))
        await asyncio.sleep(0)
    first.cancel()  # its turn was given to it in the line before
    with pytest.raises(asyncio.CancelledError):
        await first
    await second
    assert (order, len(turns)) == (["second"], 0)


async def test_of_many_that_come_and_give_up_at_random_one_is_inside_at_a_time() -> None:
    turns: Turns[int] = Turns()
    inside: set[int] = set()
    drawn = random.Random(7)  # noqa: S311 - a schedule

    async def work(key: int) -> None:
        async with turns.of(key):
            assert key not in inside
            inside.add(key)
            try:
                for _ in range(drawn.randrange(3)):
                    await asyncio.sleep(0)
            finally:
                inside.remove(key)

    working: list[asyncio.Task[None]] = []
    for _ in range(2_000):
        working.append(asyncio.create_task(work(drawn.randrange(3))))
        if drawn.random() < 0.5:
            await asyncio.sleep(0)
        if drawn.random() < 0.3:
            drawn.choice(working[-20:]).cancel()
    found = await asyncio.gather(*working, return_exceptions=True)
    assert {type(one) for one in found} == {type(None), asyncio.CancelledError}
    assert (len(turns), inside) == (0, set())
