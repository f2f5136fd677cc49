"""What breaks, for a while, and is whole again afterwards. Each is one function; the world is up before and after it."""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from broker.devstack import broker_process, postgres, spire, vault
from tests.chaos.surroundings import Breakable
from tests.threats.world import World

STEPS: Final = (
    "declare.token-made", "declare.durable", "acquire.decided", "acquire.token-made", "acquire.intent-durable",
    "acquire.vault-issued", "acquire.issued-durable", "end.durable", "revoke.vault-revoked", "revoke.durable",
)  # fmt: skip
LONGEST: Final = 4.0
SECOND: Final = broker_process.name_of(2)

Fault = Callable[[Breakable, random.Random], str]
"""Breaks, waits, mends; returns what it did, for people."""


@contextmanager
def _standing_still(world: World, part: str) -> Iterator[None]:
    running = world.stack._processes.running(part)
    assert running is not None
    os.kill(running.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(running.pid, signal.SIGCONT)


def _for_a_while(dice: random.Random) -> float:
    seconds = dice.uniform(0.3, LONGEST)
    time.sleep(seconds)
    return seconds


def _stopped(part: str) -> Fault:
    def fault(around: Breakable, dice: random.Random) -> str:
        world = around.world
        world.stack.stop_part(part)
        seconds = _for_a_while(dice)
        world.stack.start_part(part)
        return f"{part} stopped for {seconds:.1f} s"

    return fault


def _killed(part: str) -> Fault:
    def fault(around: Breakable, dice: random.Random) -> str:
        world = around.world
        world.stack.kill_part(part)
        seconds = _for_a_while(dice)
        world.stack.start_part(part)
        return f"{part} killed, back after {seconds:.1f} s"

    return fault


def _hangs(part: str) -> Fault:
    def fault(around: Breakable, dice: random.Random) -> str:
        world = around.world
        with _standing_still(world, part):
            seconds = _for_a_while(dice)
        return f"{part} answers nothing for {seconds:.1f} s"

    return fault


def _sealed(around: Breakable, dice: random.Random) -> str:
    world = around.world
    world.stack.vault.admin().sys.seal()
    seconds = _for_a_while(dice)
    world.stack.vault.unseal()
    return f"vault sealed for {seconds:.1f} s"


def _store_unwritable(around: Breakable, dice: random.Random) -> str:
    world = around.world
    with world.store_unavailable():
        seconds = _for_a_while(dice)
    return f"the store cannot be written for {seconds:.1f} s"


def _dies_at_a_step(around: Breakable, dice: random.Random) -> str:
    world = around.world
    step, broker = dice.choice(STEPS), dice.choice(world.stack.brokers)
    world.stack.stop_part(broker.name)
    broker.launch(crash_at=step)
    end = time.monotonic() + 8
    while world.stack.is_running(broker.name) and time.monotonic() < end:
        time.sleep(0.05)
    died = not world.stack.is_running(broker.name)
    if not died:
        world.stack.kill_part(broker.name)
    world.stack.start_part(broker.name)
    return f"{broker.name} killed at {step}" if died else f"{broker.name} killed: {step} was not reached"


def _vault_answers_500(around: Breakable, dice: random.Random) -> str:
    around.door.broken, before = True, around.door.refused
    seconds = _for_a_while(dice)
    around.door.broken = False
    return f"vault answers 500 for {seconds:.1f} s, {around.door.refused - before} times"


def _vault_is_slow(around: Breakable, dice: random.Random) -> str:
    around.door.delay = dice.uniform(0.2, 2.0)
    seconds = _for_a_while(dice)
    said = f"vault takes {around.door.delay:.1f} s for each answer, for {seconds:.1f} s"
    around.door.delay = 0.0
    return said


def _disk_full(around: Breakable, dice: random.Random) -> str:
    """No byte more into any file, for the broker: not the store's, and not its log's."""
    running = around.world.stack._processes.running(broker_process.NAME)
    assert running is not None
    before = resource.prlimit(running.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (0, before[1]))
    seconds = _for_a_while(dice)
    resource.prlimit(running.pid, resource.RLIMIT_FSIZE, before)
    return f"the disk is full for {seconds:.1f} s"


def _clock_jumps(around: Breakable, dice: random.Random) -> str:
    jump = dice.choice((-60, 60))
    around.clock.set(jump)
    time.sleep(2)  # it is read once a second
    seconds = _for_a_while(dice)
    around.clock.set(0)
    time.sleep(2)
    return f"the brokers' clocks jump by {jump} s, and back after {seconds:.1f} s"


def _cable_pulled(around: Breakable, dice: random.Random) -> str:
    assert around.network is not None
    with around.network.cut():
        seconds = _for_a_while(dice)
    return f"{SECOND} cut off from everything for {seconds:.1f} s"


OF_ANY: Final[tuple[Fault, ...]] = (
    _stopped(vault.NAME),
    _hangs(vault.NAME),
    _sealed,
    _vault_answers_500,
    _vault_is_slow,
    _stopped(postgres.NAME),
    _hangs(postgres.NAME),
    _killed(broker_process.NAME),
    _hangs(broker_process.NAME),
    _store_unwritable,
    _dies_at_a_step,
    _clock_jumps,
)
FAULTS: Final[dict[int, tuple[Fault, ...]]] = {
    1: (*OF_ANY, _stopped(spire.AGENT), _disk_full),
    2: (*OF_ANY, _killed(SECOND), _hangs(SECOND), _cable_pulled),
}
"""By how many replicas there are."""
