"""What breaks, for a while, and is whole again afterwards. Each is one function; the world is up before and after it."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from broker.devstack import broker_process, postgres, spire, vault
from tests.threats.world import World

STEPS: Final = (
    "declare.token-made", "declare.durable", "acquire.decided", "acquire.token-made", "acquire.intent-durable",
    "acquire.vault-issued", "acquire.issued-durable", "end.durable", "revoke.vault-revoked", "revoke.durable",
)  # fmt: skip
LONGEST: Final = 4.0

Fault = Callable[[World, random.Random], str]
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
    def fault(world: World, dice: random.Random) -> str:
        world.stack.stop_part(part)
        seconds = _for_a_while(dice)
        world.stack.start_part(part)
        return f"{part} stopped for {seconds:.1f} s"

    return fault


def _killed(part: str) -> Fault:
    def fault(world: World, dice: random.Random) -> str:
        world.stack.kill_part(part)
        seconds = _for_a_while(dice)
        world.stack.start_part(part)
        return f"{part} killed, back after {seconds:.1f} s"

    return fault


def _hangs(part: str) -> Fault:
    def fault(world: World, dice: random.Random) -> str:
        with _standing_still(world, part):
            seconds = _for_a_while(dice)
        return f"{part} answers nothing for {seconds:.1f} s"

    return fault


def _sealed(world: World, dice: random.Random) -> str:
    world.stack.vault.admin().sys.seal()
    seconds = _for_a_while(dice)
    world.stack.vault.unseal()
    return f"vault sealed for {seconds:.1f} s"


def _store_unwritable(world: World, dice: random.Random) -> str:
    with world.store_unavailable():
        seconds = _for_a_while(dice)
    return f"the store cannot be written for {seconds:.1f} s"


def _dies_at_a_step(world: World, dice: random.Random) -> str:
    step = dice.choice(STEPS)
    world.stack.stop_part(broker_process.NAME)
    world.stack.broker.launch(crash_at=step)
    end = time.monotonic() + 8
    while world.stack.is_running(broker_process.NAME) and time.monotonic() < end:
        time.sleep(0.05)
    died = not world.stack.is_running(broker_process.NAME)
    if not died:
        world.stack.kill_part(broker_process.NAME)
    world.stack.start_part(broker_process.NAME)
    return f"the broker killed at {step}" if died else f"the broker killed: {step} was not reached"


FAULTS: Final[tuple[Fault, ...]] = (
    _stopped(vault.NAME),
    _hangs(vault.NAME),
    _sealed,
    _stopped(postgres.NAME),
    _hangs(postgres.NAME),
    _stopped(spire.AGENT),
    _killed(broker_process.NAME),
    _hangs(broker_process.NAME),
    _store_unwritable,
    _dies_at_a_step,
)
