"""What classes and task types were allowed, beside what they used: entries that could go.

Only what the trail shows is counted, and where it shows too little nothing is proposed: an entry that is used once a quarter is
not unused because it was not used this week.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeVar

from broker.domain.catalog import Catalog
from broker.domain.decision import AcquireContext, CallContext, DeclareContext
from broker.usecases.recorded import Recorded

T = TypeVar("T")


class Listing(StrEnum):
    """Which list of the catalog an entry stands in."""

    TASK_TYPES = "task_types"
    ROLES = "roles"
    TOOLS = "tools"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unused:
    """An entry that nobody used."""

    owner: str
    """The class whose `task_types` it is in, or the task type whose `roles` or `tools`."""
    listing: Listing
    name: str
    seen: int
    """How many tasks of the owner the trail shows."""

    def __str__(self) -> str:
        kind = "agent class" if self.listing is Listing.TASK_TYPES else "task type"
        return f"{kind} {self.owner}: {self.listing.value}: {self.name} was not used in {self.seen} tasks"


@dataclass(slots=True, kw_only=True)
class Review:
    """What came of it."""

    began: datetime | None = None
    ended: datetime | None = None
    tasks: Counter[str] = field(default_factory=Counter)
    """Declared tasks, by type."""
    tasks_of_class: Counter[str] = field(default_factory=Counter)
    used: dict[tuple[str, Listing], Counter[str]] = field(default_factory=dict)
    peak_leases: dict[str, int] = field(default_factory=dict)
    """The most leases that a task of the type held at once."""
    longest_chain: dict[str, int] = field(default_factory=dict)
    unused: tuple[Unused, ...] = ()
    kept: tuple[str, ...] = ()
    """What was not used and is not proposed either, with the reason."""


def review(decisions: Iterable[Recorded], catalog: Catalog, *, least: int) -> Review:
    """Compare; an owner with fewer tasks than `least` gets no proposal."""
    found = Review()
    for one in decisions:
        if one.decision.allowed:
            found.began = found.began or one.at
            found.ended = one.at
            _count(found, one)
    unused, kept = [], []
    for owner, listing, names, seen in _lists(found, catalog):
        missing = sorted(names - found.used.get((owner, listing), Counter()).keys())
        if seen < least:
            kept += [f"{owner}: {seen} tasks are too few to say what it does not use"] if missing else []
            continue
        for name in missing:
            if listing is not Listing.TASK_TYPES and name in _in_chain(catalog, owner):
                kept.append(f"{owner}: {name} was not used, but its chain names it")
            else:
                unused.append(Unused(owner=owner, listing=listing, name=name, seen=seen))
    found.unused = tuple(unused)
    found.kept = tuple(dict.fromkeys(kept))
    return found


def _count(found: Review, one: Recorded) -> None:
    match one.context:
        case DeclareContext(agent_class=agent_class, task_type=task_type):
            found.tasks[task_type] += 1
            found.tasks_of_class[agent_class] += 1
            found.used.setdefault((agent_class, Listing.TASK_TYPES), Counter())[task_type] += 1
        case CallContext(task=task, tool_name=name, chain=chain):
            found.used.setdefault((task.task_type, Listing.TOOLS), Counter())[name] += 1
            _peak(found.longest_chain, task.task_type, chain.length + 1)
        case AcquireContext(task=task, role_name=name, chain=chain, live_leases=leases):
            found.used.setdefault((task.task_type, Listing.ROLES), Counter())[name] += 1
            _peak(found.longest_chain, task.task_type, chain.length + 1)
            _peak(found.peak_leases, task.task_type, leases + 1)


def _peak(of: dict[str, int], name: str, value: int) -> None:
    of[name] = max(of.get(name, 0), value)


def _lists(found: Review, catalog: Catalog) -> Iterable[tuple[str, Listing, frozenset[str], int]]:
    """Each list of the catalog, with its owner and how many tasks of it were seen."""
    for agent_class in _sorted(catalog.agent_classes):
        seen = found.tasks_of_class[agent_class.name]
        yield agent_class.name, Listing.TASK_TYPES, agent_class.task_types, seen
    for task_type in _sorted(catalog.task_types):
        seen = found.tasks[task_type.name]
        yield task_type.name, Listing.ROLES, task_type.roles, seen
        yield task_type.name, Listing.TOOLS, task_type.tools, seen


def _sorted(entries: Mapping[str, T]) -> list[T]:
    return [entries[name] for name in sorted(entries)]


def _in_chain(catalog: Catalog, task_type: str) -> frozenset[str]:
    chain = catalog.task_types[task_type].chain
    return chain.pattern.names | frozenset(chain.limits)
