"""The report: recall, false alarms per 1,000 benign tasks and further actions until detection, each with its interval.

Proportions have Wilson's interval (E. B. Wilson, 1927), the median that of binomial order statistics; both at 95 %.

    python -m tests.scenarios.anomaly.measure [held-out|tuning] [benign tasks] [of each attack]
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from broker.anomaly.events import EventKind
from broker.anomaly.findings import Finding
from broker.anomaly.learning import Model
from broker.anomaly.watching import Watch, WatchParameters
from broker.domain.proportions import Proportion
from tests.scenarios.anomaly.corpus import BENIGN, HELD_OUT, TUNING, Trace, attacks, benign_tasks, learned

Z = 1.959964


@dataclass(slots=True)
class Kind:
    """What came of the attacks of one kind."""

    traces: int = 0
    found: int = 0
    by_its_own: int = 0
    """Found by the detector that the kind is named after."""
    delays: list[int] = field(default_factory=list)
    missed: Counter[str] = field(default_factory=Counter)

    def add(self, other: Kind) -> None:
        self.traces += other.traces
        self.found += other.found
        self.by_its_own += other.by_its_own
        self.delays += other.delays


@dataclass(slots=True)
class Report:
    """All of it."""

    kinds: dict[str, Kind] = field(default_factory=dict)
    benign_tasks: int = 0
    false_tasks: Counter[str] = field(default_factory=Counter)
    """Benign tasks with a false alarm, by detector; under `all` those with any."""
    examples: list[str] = field(default_factory=list)

    @property
    def every(self) -> Kind:
        found = Kind()
        for kind in self.kinds.values():
            found.add(kind)
        return found

    @property
    def recall(self) -> float:
        return self.every.found / self.every.traces

    @property
    def false_per_thousand(self) -> float:
        return 1000 * self.false_tasks["all"] / self.benign_tasks

    @property
    def median(self) -> float:
        return median_of(self.every.delays)[0]


def measure(traces: Iterable[Trace], model: Model, parameters: WatchParameters | None = None) -> Report:
    """Fold each trace and see what is found."""
    report = Report()
    for trace in traces:
        found = findings_of(trace, model, parameters)
        if trace.label == BENIGN:
            _count_benign(report, trace, [finding for _, finding in found])
        else:
            _count_attack(report.kinds.setdefault(trace.label, Kind()), trace, found)
    return report


def findings_of(
    trace: Trace, model: Model, parameters: WatchParameters | None = None
) -> list[tuple[int, Finding]]:
    """Each finding with the index of the event that it was found at."""
    watch = Watch(model, parameters)
    return [(number, one) for number, event in enumerate(trace.events) for one in watch.observe(event)]


def _count_benign(report: Report, trace: Trace, found: list[Finding]) -> None:
    report.benign_tasks += trace.tasks
    by_task = {(one.task_id, one.detector.value) for one in found}
    report.false_tasks.update(detector for _, detector in by_task)
    report.false_tasks["all"] += len({task for task, _ in by_task})
    report.examples += [f"{trace.name}: {one.detector.value} {one.rule}: {one.happened}" for one in found]


def _count_attack(kind: Kind, trace: Trace, found: list[tuple[int, Finding]]) -> None:
    bad = trace.first_bad
    if bad is None:
        message = f"{trace.name} has no beginning"
        raise ValueError(message)
    kind.traces += 1
    after = [(number, one) for number, one in found if number >= bad]
    if not after:
        kind.missed[trace.name.rsplit("-", 1)[0]] += 1
        return
    kind.found += 1
    kind.by_its_own += any(one.detector.value == trace.label for _, one in after)
    counted = {EventKind.CALLED} if trace.label == "identity-misuse" else {EventKind.DECIDED}
    acted = [number for number in range(bad, after[0][0] + 1) if trace.events[number].kind in counted]
    kind.delays.append(max(0, len(acted) - 1))


def wilson(hits: int, of: int) -> tuple[float, float]:
    """The interval of a proportion."""
    return Proportion(hits=hits, of=of).interval


def median_of(values: list[int]) -> tuple[float, float, float]:
    """The median and its interval by order statistics."""
    if not values:
        return math.nan, math.nan, math.nan
    ordered, many = sorted(values), len(values)
    half = Z * math.sqrt(many) / 2
    low, high = max(0, math.floor(many / 2 - half)), min(many - 1, math.ceil(many / 2 + half))
    middle = (ordered[(many - 1) // 2] + ordered[many // 2]) / 2
    return middle, ordered[low], ordered[high]


def as_text(report: Report) -> str:
    """As a table in Markdown."""
    lines = [
        "| attacks | traces | recall (95 %) | by its own detector | median of further actions (95 %) | false per 1,000 (95 %) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, kind in (*report.kinds.items(), ("all", report.every)):
        low, high = wilson(kind.found, kind.traces)
        middle, least, most = median_of(kind.delays)
        false = report.false_tasks[name]
        under, over = wilson(false, report.benign_tasks)
        lines.append(
            f"| {name} | {kind.traces} | {kind.found / kind.traces:.3f} ({low:.3f} to {high:.3f}) "
            f"| {kind.by_its_own / kind.traces:.3f} | {middle:g} ({least:g} to {most:g}) "
            f"| {1000 * false / report.benign_tasks if report.benign_tasks else 0:.2f} "
            f"({1000 * under:.2f} to {1000 * over:.2f}) |"
        )
    lines.append(f"\n{report.benign_tasks} benign tasks.")
    return "\n".join(lines)


def measured(first_seed: int, tasks: int, each: int) -> Report:
    """On the generated corpus from this seed on."""
    traces = (*benign_tasks(first_seed, tasks), *attacks(first_seed, each))
    return measure(traces, learned())


def main(arguments: list[str]) -> None:
    """Write the report."""
    seeds = TUNING if arguments[:1] == ["tuning"] else HELD_OUT
    tasks, each = (int(one) for one in (arguments[1:3] if len(arguments) > 2 else ("20000", "100")))
    report = measured(seeds, tasks, each)
    sys.stdout.write(as_text(report) + "\n")
    for name, kind in report.kinds.items():
        for missed, times in kind.missed.items():
            sys.stdout.write(f"missed: {name} {missed} {times}\n")
    for line, times in Counter(line.split(": ", 1)[1] for line in report.examples).most_common(30):
        sys.stdout.write(f"false: {times} x {line}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
