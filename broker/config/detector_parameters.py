"""Every parameter of the detectors that may be set: its name in a file, what it means, and within which bounds.

The defaults stand beside the detectors (broker.anomaly). Whatever bounds memory is bounded here as well, so that no file lets an
agent fill the broker.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Final

from broker.anomaly.watching import WatchParameters

Value = int | float | timedelta

_DAY: Final = timedelta(days=1)
_MONTH: Final = 30 * _DAY
_SECOND: Final = timedelta(seconds=1)
_NONE: Final = timedelta()
_MANY: Final = 1_000_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One of them."""

    name: str
    """Where it stands in a file: `retries.structural.level`."""
    meaning: str
    default: Value
    least: Value
    most: Value

    @property
    def kind(self) -> str:
        """What to write: a whole number, a number or a duration."""
        match self.default:
            case timedelta():
                return "duration"
            case int():
                return "whole number"
            case float():
                return "number"


_Row = tuple[str, Value, Value]

_MEMORY: Final[Mapping[str, _Row]] = {
    "most_tasks": ("tasks of one instance that are remembered", 1, 256),
    "most_said": ("findings that are remembered, so as not to be repeated", 1, 4096),
}

_PATIENCE: Final[Mapping[str, _Row]] = {
    "level": ("height of the leaky count of refusals at which it is a storm", 1.0, 1000.0),
    "half_life": ("in which the count halves", _SECOND, _DAY),
    "in_all": ("times in one task, at any pace and without a yes between, that are a storm", 2, 10_000),
}


def _patience(name: str, of_what: str) -> dict[str, _Row]:
    return {
        f"{name}.{part}": (f"{of_what}: {meaning}", least, most)
        for part, (meaning, least, most) in _PATIENCE.items()
    }


_ROWS: Final[Mapping[str, Mapping[str, _Row]]] = {
    "retries": {
        **_patience("structural", "refused for good"),
        **_patience("grantable", "refused until a person says yes"),
        **_patience("transient", "refused for now"),
        **_patience("failed", "failed"),
        "over_tasks": (
            "by how much the count may be higher where several tasks are refused the same",
            0.0,
            1000.0,
        ),
        "most_effects": ("refused effects that are remembered", 16, 4096),
        "honest_refused": (
            "share of an honest agent's first contacts that are refused for good, at most",
            0.001,
            0.999,
        ),
        "probing_refused": ("the same of an agent that probes, at least", 0.001, 0.999),
        "false_alarm": ("probability that the test takes an honest run for probing", 1e-12, 0.5),
        "grantable_counts": ("how much of a refusal one is that a person could turn into a yes", 0.0, 1.0),
        "most_refused": ("different effects refused for good in one task that are probing", 2, 10_000),
        "most_over_tasks": ("the same summed up over tasks, each of which may have one", 1.0, 10_000.0),
        "counted_of_task": ("how many of one task are summed up", 1, 1000),
    },
    "pivots": {
        "most_denied": ("denied effects that are remembered", 16, 1000),
        "enough": ("weights of touches that sum up to a pivot", 0.1, 100.0),
        "narrower": ("weight of reading less than was denied", 0.0, 100.0),
        "other_change": ("weight of another change of the resource that was denied", 0.0, 100.0),
        "other_place": ("weight of the same at another destination", 0.0, 100.0),
        "same_place": ("weight of another change at the destination that was denied", 0.0, 100.0),
        "next_task": ("how long the same tool in another task is a pivot", _NONE, _MONTH),
        "horizon": ("how long another tool in another task is one", _NONE, _MONTH),
        "most_names": ("tools and roles used before a denial that are remembered", 16, 4096),
        "usual": ("share of completed tasks from which on a tool or role is a type's usual one", 0.0, 1.0),
        "least_tasks": ("completed tasks of a type before anything is usual", 1, 1_000_000),
    },
    "escalation": {
        "least_tasks": ("completed tasks of a type before anything is usual or not", 1, 1_000_000),
        "tasks_for_rare": ("the same before what was never seen counts by itself", 1, 1_000_000),
        "usual": ("share of completed tasks from which on something is usual", 0.0, 1.0),
        "rises": ("times that a task asks for more than ever before that are a climb", 1, 1000),
        "over_tasks": ("how far apart the halves of a combination may lie in two tasks", _NONE, _MONTH),
        "close_tasks": ("the same where not enough was seen to say what is usual", _NONE, _MONTH),
        "after_refusal": (
            "how long after a refusal a task in a higher environment is a climb",
            _NONE,
            _MONTH,
        ),
    },
    "drift": {
        "least_tasks": ("completed tasks of a type before anything is said", 1, 1_000_000),
        "slack": ("bits of surprise beyond the average that each step may have", 0.0, 100.0),
        "surprise": ("bits beyond the slack that make a step out of place", 0.0, 100.0),
        "enough": ("bits beyond the slack that sum up to a finding", 0.1, 1000.0),
        "most_at_once": ("bits that one step adds at most", 0.1, 1000.0),
    },
    "volume": {
        "least_tasks": ("completed tasks of a type before they are what is compared with", 1, 1_000_000),
        "least_deviation": ("standard deviation of the logarithm that a type has at least", 0.01, 10.0),
        "slack": ("deviations above the mean that each task may have", 0.0, 100.0),
        "enough": ("deviations beyond the slack that sum up to a finding", 0.1, 1000.0),
        "most_carried": ("what earlier tasks add up to at most", 0.0, 1000.0),
        **{
            f"honest_{meter}": (f"{what} that are all right for any type", 0.0, _MANY)
            for meter, what in (
                ("burst", "actions at once"),
                ("sustained", "actions at one speed for long"),
                ("total", "actions"),
                ("resources", "different resources"),
            )
        },
        **{
            f"unknown_{meter}": (f"{what} that are too many for a type that is not known", 1.0, _MANY)
            for meter, what in (
                ("burst", "actions at once"),
                ("sustained", "actions at one speed for long"),
                ("total", "actions"),
                ("resources", "different resources"),
            )
        },
    },
    "identity": {
        "most_svids": ("SVIDs of one instance that are remembered", 2, 1024),
        "under_way": (
            "by how much a decision may be later than the end that it did not know of",
            _NONE,
            timedelta(hours=1),
        ),
        "grace": ("by how much a call may be later than an end on purpose", _NONE, _DAY),
        "calls_after_lapse": ("calls for a task that lapsed that an honest agent may make", 0, 10_000),
    },
    "canaries": {},
}


def _values(node: object, prefix: str = "") -> Iterator[tuple[str, Value]]:
    """Every value of the dataclasses below, with its name in a file."""
    if not is_dataclass(node):
        return
    for part in fields(node):
        value, name = getattr(node, part.name), f"{prefix}{part.name}"
        if isinstance(value, int | float | timedelta):
            yield name, value
        else:
            yield from _values(value, f"{name}.")


def values_of(parameters: WatchParameters) -> dict[str, Value]:
    """Each parameter's value by its name."""
    return dict(_values(parameters))


def _table() -> Mapping[str, Parameter]:
    rows = {
        f"{detector}.{name}": row
        for detector, own in _ROWS.items()
        for name, row in {**own, **_MEMORY}.items()
    }
    return MappingProxyType(
        {
            name: Parameter(name=name, meaning=meaning, default=default, least=least, most=most)
            for name, default in _values(WatchParameters())
            for meaning, least, most in (rows[name],)
        }
    )


PARAMETERS: Final = _table()
"""All of them by name, in the order of the detectors."""
