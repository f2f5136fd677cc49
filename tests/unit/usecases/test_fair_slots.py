from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from broker.usecases.fair_slots import FairSlots
from tests.unit.usecases.wiring import settle


class Work:
    """Who is at work, and who was, in which order."""

    def __init__(self, at_once: int) -> None:
        self.slots = FairSlots(lambda: at_once)
        self.order: list[str] = []
        self.now = 0
        self.most = 0
        self._let_go: list[asyncio.Event] = []

    async def do(self, key: str) -> None:
        async with self.slots.slot(key):
            self.order.append(key)
            self.now += 1
            self.most = max(self.most, self.now)
            event = asyncio.Event()
            self._let_go.append(event)
            try:
                await event.wait()
            finally:
                self.now -= 1

    async def let_all_go(self) -> None:
        while self._let_go:
            self._let_go.pop(0).set()
            await settle()


async def test_whoever_has_little_to_do_does_not_wait_for_all_of_the_others() -> None:
    work = Work(1)
    tasks = [asyncio.create_task(work.do("many")) for _ in range(50)]
    await settle()
    tasks.append(asyncio.create_task(work.do("few")))
    await settle()
    await work.let_all_go()
    await asyncio.gather(*tasks)
    assert work.order.index("few") <= 2
    assert len(work.order) == 51


async def test_one_that_gives_up_keeps_no_slot() -> None:
    work = Work(1)
    first, second, third = (asyncio.create_task(work.do(key)) for key in "abc")
    await settle()
    second.cancel()
    await settle()
    await work.let_all_go()
    await asyncio.gather(first, second, third, return_exceptions=True)
    assert work.order == ["a", "c"]
    assert work.slots.waiting == 0
    async with asyncio.timeout(1), work.slots.slot("again"):
        pass


async def test_one_that_is_cancelled_in_the_moment_of_its_turn_passes_it_on() -> None:
    slots = FairSlots(lambda: 1)
    await slots._enter("a")
    second = asyncio.create_task(slots._enter("b"))
    third = asyncio.create_task(slots._enter("c"))
    await settle()
    slots._leave()  # it is b's turn, and b does not know yet
    second.cancel()
    await settle()
    assert second.cancelled()
    assert third.done()


async def test_fewer_at_once_are_let_in_from_the_moment_on_that_there_may_only_be_fewer() -> None:
    allowed = 2
    slots = FairSlots(lambda: allowed)
    entering = [asyncio.create_task(slots._enter(key)) for key in "abcd"]
    await settle()
    assert [one.done() for one in entering] == [True, True, False, False]
    allowed = 1
    slots._leave()
    await settle()
    assert [one.done() for one in entering] == [True, True, False, False]
    slots._leave()
    await settle()
    assert [one.done() for one in entering] == [True, True, True, False]
    allowed = 0  # at least one, always
    slots._leave()
    await settle()
    assert all(one.done() for one in entering)


@given(
    at_once=st.integers(1, 4),
    keys=st.lists(st.sampled_from("abcd"), max_size=25),
    given_up=st.sets(st.integers(0, 24)),
)
def test_never_more_than_so_many_and_everybody_has_a_turn(
    at_once: int, keys: list[str], given_up: set[int]
) -> None:
    async def run() -> None:
        work = Work(at_once)
        tasks = [asyncio.create_task(work.do(key)) for key in keys]
        await settle()
        for number in given_up:
            if number < len(tasks) and number >= at_once:
                tasks[number].cancel()
        await settle()
        await work.let_all_go()
        async with asyncio.timeout(5):
            await asyncio.gather(*tasks, return_exceptions=True)
        assert work.most <= at_once
        assert work.slots.waiting == 0
        stayed = [key for number, key in enumerate(keys) if number not in given_up or number < at_once]
        assert sorted(work.order) == sorted(stayed)

    asyncio.run(run())
