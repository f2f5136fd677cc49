"""Labelled traces from seeds: the same seed makes the same traces. Which seeds are for what is fixed here.

Models are learned from traces of `TRAINING`, parameters were set on those of `TUNING`, and what is reported and asserted is
measured on those of `HELD_OUT`, which nothing was set on.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from broker.anomaly.events import Event, EventKind
from broker.anomaly.learning import Model, lesson_of, merged
from broker.domain.task import EndCause
from tests.scenarios.anomaly.acting import Actor
from tests.scenarios.anomaly.attacks import KINDS
from tests.scenarios.anomaly.benign import WORK, daily, interleaved, work

TRAINING, TUNING, HELD_OUT = 1_000_000, 2_000_000, 7_000_000
BENIGN = "benign"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Everything that one instance did."""

    name: str
    label: str
    """`benign`, or the detector that the attack is for."""
    events: tuple[Event, ...]
    first_bad: int | None = None
    """Index of the attack's first event."""

    @property
    def tasks(self) -> int:
        return sum(event.kind is EventKind.DECLARED for event in self.events)


def dice_of(seed: int | str) -> random.Random:
    """Reproducible, and nothing that has to be secret."""
    return random.Random(seed)  # noqa: S311


def benign(seed: int) -> Trace:
    """One instance with one to six tasks, one after the other or at once."""
    actor = Actor(dice_of(seed), f"b{seed}")
    dice = actor.random
    types = dice.choices(sorted(WORK), k=dice.choice([1, 2, 3, 6]))
    if len(types) > 1 and dice.random() < 0.3:
        interleaved(actor, types[:3])
    elif dice.random() < 0.04:
        daily(actor, types[0])
    else:
        for one in types:
            work(actor, one)
            actor.pause(dice.uniform(1, 7200))
    return Trace(name=f"benign-{seed}", label=BENIGN, events=tuple(actor.events))


def benign_tasks(first_seed: int, tasks: int) -> Iterator[Trace]:
    """Traces with at least so many tasks in all."""
    seed, done = first_seed, 0
    while done < tasks:
        trace = benign(seed)
        yield trace
        seed, done = seed + 1, done + trace.tasks


def attacks(first_seed: int, each: int) -> Iterator[Trace]:
    """So many of each attack, some after honest tasks of the instance."""
    for label, kinds in KINDS.items():
        for kind in kinds:
            for number in range(each):
                actor = Actor(dice_of(f"{first_seed}-{kind.__name__}-{number}"), f"a{number}")
                if number % 3 == 0:
                    work(actor, actor.random.choice(sorted(WORK)), noise=0.3)
                    actor.pause(actor.random.uniform(10, 4000))
                kind(actor)
                yield Trace(
                    name=f"{kind.__name__}-{number}",
                    label=label,
                    events=tuple(actor.events),
                    first_bad=actor.bad,
                )


@cache
def learned(each: int = 300) -> Model:
    """From completed tasks of each type, and of a class that works in staging alone."""
    lessons = []
    for number, task_type in enumerate(sorted(WORK)):
        for turn in range(each):
            actor = Actor(dice_of(TRAINING + number * 10_000 + turn), "t")
            work(actor, task_type)
            if any(event.end is EndCause.COMPLETED for event in actor.events):
                lessons.append(lesson_of(actor.events))
    stager = Actor(dice_of(TRAINING - 1), "s", agent_class="stager")
    for _ in range(60):
        begin = len(stager.events)
        work(stager, "review-code")
        lessons.append(lesson_of(stager.events[begin:]))
    return merged(lessons)
