"""What is usual for a task type: counts of what completed tasks of it did.

What always holds: a model is plain counts, so that models of several replicas are merged by adding them up, in any order; as
JSON it is objects, strings and numbers alone; it has bounds on names and contexts. What an attacker does must not be learned:
whoever feeds it takes only tasks that completed with success and without a finding. A patient attacker whose every step
stays below all findings can still teach it; the counts per type say how much it would take.

Step probabilities are those of a Markov chain of order two that falls back to order one and none, smoothed as in I. H. Witten
and T. C. Bell, "The Zero-Frequency Problem", IEEE Transactions on Information Theory 1991.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, cast

from broker.anomaly.events import Event, EventKind
from broker.anomaly.meters import Meter, Meters
from broker.anomaly.traits import COMBINATIONS, MOST_STEP, SOURCES, Trait, level_of, power_of, traits_of

VERSION: Final = 1
START: Final = "^"
END: Final = "$"
MOST_TYPES: Final = 512
MOST_NAMES: Final = 128
"""Different steps of one task type; further ones are learned as none."""
MOST_FACTS: Final = 1024
MOST_CONTEXTS: Final = 4096
"""Different contexts of one task type."""

LEVEL_FACTS: Final = tuple(f"level:{step}" for step in range(MOST_STEP + 1))
POWER_FACTS: Final = tuple(f"power:{step}" for step in range(MOST_STEP + 1))
"""Under which names a model counts how high a task reached."""

_NOTHING: Final[Mapping[str, int]] = MappingProxyType({})


class ModelError(ValueError):
    """The data is no model; says which part, and repeats nothing of it."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Of the logarithms of a meter's peaks."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    first: float = 0.0
    """The largest of them."""
    second: float = 0.0
    """The second largest: what two tasks did is nothing that no task does."""

    def score(self, peak: float, *, least_deviation: float) -> float:
        """By how many standard deviations the logarithm of `peak` is above what is usual."""
        if not self.count:
            return 0.0
        mean = self.total / self.count
        spread = math.sqrt(max(0.0, self.squares / self.count - mean * mean))
        return (math.log1p(peak) - mean) / max(spread, least_deviation)


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeModel:
    """Of one task type."""

    tasks: int = 0
    following: Mapping[str, Mapping[str, int]] = field(default_factory=lambda: MappingProxyType({}))
    """How often each step came after a context: none (the empty text), one step, or two with a blank between."""
    facts: Mapping[str, int] = field(default_factory=lambda: _NOTHING)
    """In how many tasks something was so."""
    peaks: Mapping[Meter, Moments] = field(default_factory=lambda: MappingProxyType({}))

    def share(self, fact: str) -> float:
        """In which share of the tasks it was so."""
        return self.facts.get(fact, 0) / self.tasks if self.tasks else 0.0

    def probability(self, before: tuple[str, str], step: str) -> float:
        """Of `step` after two others; never nothing, also for what was never seen."""
        found = 1.0 / (len(self.following.get("", _NOTHING)) + 1)
        for context in ("", before[1], f"{before[0]} {before[1]}"):
            counts = self.following.get(context, _NOTHING)
            if counts:
                kinds, total = len(counts), sum(counts.values())
                found = (counts.get(step, 0) + kinds * found) / (total + kinds)
        return found

    def excess(self, before: tuple[str, str], step: str) -> float:
        """By how many bits `step` surprises more than a step after these two does on average."""
        surprise = -math.log2(self.probability(before, step))
        usual = (self.probability(before, name) for name in self.following.get("", _NOTHING))
        return surprise + sum(p * math.log2(p) for p in usual)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Of all task types, and of the environments of agent classes."""

    types: Mapping[str, TypeModel] = field(default_factory=lambda: MappingProxyType({}))
    environments: Mapping[str, Mapping[str, int]] = field(default_factory=lambda: MappingProxyType({}))
    """Completed tasks of each agent class in each environment."""

    def of(self, task_type: str) -> TypeModel:
        """That of a task type; an empty one where none is known."""
        return self.types.get(task_type, _UNKNOWN)


_UNKNOWN: Final = TypeModel()
NOTHING_LEARNED: Final = Model()


def lesson_of(events: Iterable[Event]) -> Model:
    """What the events of one completed task, in order, teach. Nothing where it was not declared."""
    told = tuple(events)
    declared = next((event for event in told if event.kind is EventKind.DECLARED), None)
    if declared is None:
        return NOTHING_LEARNED
    meters, names, facts = Meters(), [START, START], set[str]()
    traits: set[Trait] = set()
    for event in told:
        decided = event.decided
        if decided is None or event.task_id != declared.task_id:
            continue
        meters.count(decided, event.at)
        own = traits_of(decided)
        facts |= {
            fact_of_combination(one.name) for one in COMBINATIONS if one.last in own and one.before <= traits
        }
        if not decided.allowed:
            continue
        traits |= own & SOURCES
        facts |= {LEVEL_FACTS[level_of(decided)], POWER_FACTS[power_of(decided)], f"name:{decided.name}"}
        if decided.name != names[-1]:
            names.append(decided.name)
    learned = TypeModel(
        tasks=1,
        following=_following((*names, END)),
        facts=dict.fromkeys(sorted(facts), 1),
        peaks={meter: _moments(peak) for meter, peak in meters.peaks.items()},
    )
    return Model(
        types={declared.task_type: learned},
        environments={declared.agent_class: {declared.environment: 1}},
    )


def fact_of_combination(name: str) -> str:
    """Under which name a model counts it."""
    return f"combination:{name}"


def merged(models: Iterable[Model]) -> Model:
    """All of them together; what goes beyond the bounds is left out, the rarest first."""
    types: dict[str, list[TypeModel]] = {}
    classes: dict[str, list[Mapping[str, int]]] = {}
    for model in models:
        for name, learned in model.types.items():
            types.setdefault(name, []).append(learned)
        for name, counts in model.environments.items():
            classes.setdefault(name, []).append(counts)
    kept = sorted(types, key=lambda name: (-sum(one.tasks for one in types[name]), name))[:MOST_TYPES]
    return Model(
        types={name: _merged_types(types[name]) for name in sorted(kept)},
        environments={name: _added(classes[name]) for name in sorted(classes)[:MOST_TYPES]},
    )


def as_data(model: Model) -> dict[str, object]:
    """As plain JSON data."""
    return {
        "version": VERSION,
        "environments": {name: dict(counts) for name, counts in model.environments.items()},
        "types": {
            name: {
                "tasks": one.tasks,
                "following": {context: dict(counts) for context, counts in one.following.items()},
                "facts": dict(one.facts),
                "peaks": {
                    meter.value: [m.count, m.total, m.squares, m.first, m.second]
                    for meter, m in one.peaks.items()
                },
            }
            for name, one in model.types.items()
        },
    }


def from_data(data: object) -> Model:
    """What `as_data` gave.

    Raises:
        ModelError: it is something else.
    """
    top = _mapping(data, "the model")
    if top.get("version") != VERSION:
        message = "version: not one that is read here"
        raise ModelError(message)
    types = {name: _type_from(one) for name, one in _mapping(top.get("types"), "types").items()}
    environments = {
        name: _counts(counts, "environments")
        for name, counts in _mapping(top.get("environments"), "environments").items()
    }
    return merged([Model(types=types, environments=environments)])


def _type_from(data: object) -> TypeModel:
    one = _mapping(data, "types")
    following = _mapping(one.get("following"), "following")
    return TypeModel(
        tasks=_count(one.get("tasks"), "tasks"),
        following={context: _counts(counts, "following") for context, counts in following.items()},
        facts=_counts(one.get("facts"), "facts"),
        peaks=_peaks_from(one.get("peaks")),
    )


def _peaks_from(data: object) -> dict[Meter, Moments]:
    found = {}
    for name, parts in _mapping(data, "peaks").items():
        if not isinstance(parts, list) or len(parts) != 5 or name not in set(Meter):
            message = "peaks: five numbers for each meter"
            raise ModelError(message)
        found[Meter(name)] = Moments(_count(parts[0], "peaks"), *map(_finite, parts[1:]))
    return found


def _finite(value: object) -> float:
    number = math.inf
    if isinstance(value, int | float):
        with suppress(OverflowError):
            number = float(value)
    if not math.isfinite(number) or number < 0:
        message = "peaks: not a finite number that is at least nothing"
        raise ModelError(message)
    return number


def _mapping(data: object, what: str) -> Mapping[str, object]:
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        message = f"{what}: not an object"
        raise ModelError(message)
    return cast("Mapping[str, object]", data)


def _counts(data: object, what: str) -> dict[str, int]:
    return {name: _count(value, what) for name, value in _mapping(data, what).items()}


def _count(value: object, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        message = f"{what}: not a count"
        raise ModelError(message)
    return value


def _following(names: Sequence[str]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for first, second, step in zip(names, names[1:], names[2:], strict=False):
        for context in ("", second, f"{first} {second}"):
            counts = found.setdefault(context, {})
            counts[step] = counts.get(step, 0) + 1
    return found


def _moments(peak: float) -> Moments:
    value = math.log1p(peak)
    return Moments(1, value, value * value, value)


def _merged_moments(moments: Sequence[Moments]) -> Moments:
    largest = sorted((peak for one in moments for peak in (one.first, one.second)), reverse=True)
    return Moments(
        sum(one.count for one in moments),
        math.fsum(one.total for one in moments),
        math.fsum(one.squares for one in moments),
        *largest[:2],
    )


def _merged_types(models: Sequence[TypeModel]) -> TypeModel:
    contexts: dict[str, list[Mapping[str, int]]] = {}
    for model in models:
        for context, counts in model.following.items():
            contexts.setdefault(context, []).append(counts)
    following = {context: _added(counts) for context, counts in contexts.items()}
    kept = sorted(following, key=lambda context: (-sum(following[context].values()), context))[:MOST_CONTEXTS]
    peaks = {
        meter: _merged_moments([one.peaks[meter] for one in models if meter in one.peaks])
        for meter in Meter
        if any(meter in one.peaks for one in models)
    }
    return TypeModel(
        tasks=sum(one.tasks for one in models),
        following={context: following[context] for context in sorted(kept)},
        facts=_added([one.facts for one in models], MOST_FACTS),
        peaks=peaks,
    )


def _added(counts: Iterable[Mapping[str, int]], most: int = MOST_NAMES) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in counts:
        for name, count in one.items():
            found[name] = found.get(name, 0) + count
    kept = sorted(found, key=lambda name: (-found[name], name))[:most]
    return {name: found[name] for name in sorted(kept)}
