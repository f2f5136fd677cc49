"""`tasklease anomaly replay`, `tune` and `parameters`: what detectors would find in recorded work. No broker is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from broker.anomaly.findings import DetectorName, Finding
from broker.anomaly.watching import WatchParameters
from broker.cli.anomaly_inputs import (
    AttacksOption,
    OldestOption,
    Source,
    Trail,
    parameters_in_use,
    parameters_of,
)
from broker.cli.output import err, fail, out, say
from broker.cli.policy_inputs import WITHOUT, CatalogOption, DomainOption
from broker.cli.policy_trail import SinceOption, begin_of
from broker.cli.trail import ConfigOption, StoreOption
from broker.config.anomaly_parameters import as_text, as_yaml, neighbours
from broker.config.detector_parameters import PARAMETERS
from broker.domain.identifiers import TaskId
from broker.domain.proportions import Proportion
from broker.usecases.comparing_findings import Score, bad_tasks, compared, honest_tasks, key_of, score
from broker.usecases.detecting_again import Models, Work, detect, learn
from broker.usecases.tuning_detectors import TooLittleError, Tuner, Tuning


def parameters() -> None:
    """List every parameter of the detectors: what it means, its default, and its bounds."""
    for one in PARAMETERS.values():
        print(f"{one.name}: {as_text(one.default)}")
        bounds = f"{as_text(one.least)} to {as_text(one.most)}"
        print(f"    {one.meaning} ({one.kind}, {bounds})")


def replay(
    catalog: CatalogOption,
    config: ConfigOption = None,
    store: StoreOption = "",
    parameters: Annotated[
        Path | None, typer.Option(help="A file of other parameters, to compare with those in use.")
    ] = None,
    attacks: AttacksOption = None,
    oldest: OldestOption = "",
    since: SinceOption = "",
    trust_domain: DomainOption = WITHOUT,
) -> None:
    """Run the detectors over the recorded work; with other parameters, say what would change: exit code 1 then."""
    base = parameters_in_use(config)
    other = base if parameters is None else parameters_of(parameters)
    begin = begin_of(since)
    trail = Source(
        catalog=catalog,
        trust_domain=trust_domain,
        config=config,
        store=store,
        attacks=attacks,
        oldest=oldest,
    ).read()
    work, labels = trail.work, trail.labels
    if not work.tasks:
        fail("no task is recorded: nothing was replayed", code=2)
    models = learn(work, base, without=labels.bad.keys() | labels.standing)
    judged = frozenset(
        one for one, task in work.tasks.items() if begin is None or task.declared_at.timestamp() >= begin
    )
    before, after = (_since(detect(work, models, chosen), begin, judged) for chosen in (base, other))
    change = compared(before, after)
    for sign, found in (("+", change.appears), ("-", change.disappears)):
        for one in found:
            print(f"{sign} {_line(one)}")
    if parameters is None:
        for one in before:
            print(f"  {_line(one)}")
    _show_counts(before, after, both=parameters is not None)
    bad, honest = bad_tasks(work, labels) & judged, honest_tasks(work, labels) & judged
    scores = [score(found, bad=bad, honest=honest) for found in (before, after)]
    _show_scores(*(scores if parameters is not None else scores[:1]))
    _show_learned(work, models, base)
    _show_what_is_lacking(trail, before, judged, begin)
    out.print(
        f"{len(judged)} tasks judged, "
        + (
            f"{len(before)} findings"
            if parameters is None
            else f"{len(change.appears)} findings appear, {len(change.disappears)} disappear"
        )
    )
    raise typer.Exit(1 if change.appears or change.disappears else 0)


def tune(
    catalog: CatalogOption,
    config: ConfigOption = None,
    store: StoreOption = "",
    output: Annotated[Path, typer.Option("--output", "-o", help="The file of parameters to write.")] = Path(
        "anomalies.yaml"
    ),
    attacks: AttacksOption = None,
    oldest: OldestOption = "",
    most_false: Annotated[
        float,
        typer.Option(min=0, max=1000, help="False alarms of a detector per 1,000 honest tasks, at most."),
    ] = 1.0,
    trust_domain: DomainOption = WITHOUT,
) -> None:
    """Look for better parameters on the earlier part of the trail, and measure them on the later one.

    Writes them to a file, and touches no broker. Exit code 2: there is too little to measure by. 1: the later part says that
    it was better before, and nothing was written.
    """
    if output.exists():
        fail(f"{output} is there already: name another file with --output", code=2)
    base = parameters_in_use(config)
    trail = Source(
        catalog=catalog,
        trust_domain=trust_domain,
        config=config,
        store=store,
        attacks=attacks,
        oldest=oldest,
    ).read()
    labels = trail.labels
    models = learn(trail.work, base, without=labels.bad.keys() | labels.standing)
    say(f"measuring on {len(trail.work.tasks)} tasks; this may take minutes")
    tuner = Tuner(
        work=trail.work,
        labels=labels,
        models=models,
        neighbours=neighbours,
        most_false=most_false / 1000,
    )
    try:
        tuning = tuner(base)
    except TooLittleError as error:
        fail(f"too little to measure by: {error}", code=2)
    _show_tuning(tuning)
    if tuning.parameters == base:
        out.print("no step is better than what is in use: nothing was written")
        return
    if tuning.worse:
        fail("on the later part it was better before: nothing was written")
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(as_yaml(tuning.parameters))
    except OSError as error:
        fail(f"{output}: {error.strerror}", code=2)
    out.print(Text(f"written: {output}; to use it, name it as anomaly_parameters in the broker's settings"))


def _since(found: Iterable[Finding], begin: float | None, judged: frozenset[TaskId]) -> list[Finding]:
    kept = [
        one
        for one in found
        if one.task_id in judged or (one.task_id is None and (begin is None or one.at.timestamp() >= begin))
    ]
    return sorted(kept, key=lambda one: one.at)


def _line(one: Finding) -> str:
    return (
        f"{one.at:%Y-%m-%d %H:%M:%S} {one.instance} {one.task_id or '-'} {one.detector.value}/{one.rule} "
        f"{one.severity.value}: {one.happened}"
    )


def _show_counts(before: list[Finding], after: list[Finding], *, both: bool) -> None:
    old, new = (Counter(one.detector for one in found) for found in (before, after))
    names = ("detector", "in use", "with these") if both else ("detector", "findings")
    table = Table(*names, box=None, pad_edge=False)
    for detector in DetectorName:
        counts = (old[detector], new[detector]) if both else (old[detector],)
        table.add_row(detector.value, *map(str, counts))
    out.print(table)


def _show_scores(*scores: Score) -> None:
    if not scores[0].caught.of and not scores[0].false.of:
        out.print("[dim]no task is labelled: nothing is known of what should be found[/]")
        return
    for text, parts in (
        ("caught", [one.caught for one in scores]),
        ("missed", [Proportion(hits=one.missed, of=one.caught.of) for one in scores]),
        ("false alarms", [one.false for one in scores]),
    ):
        out.print(f"{text}: " + " -> ".join(map(_proportion, parts)))


def _proportion(one: Proportion) -> str:
    if not one.of:
        return "none is known"
    low, high = one.interval
    return f"{one.hits} of {one.of} ({100 * low:.2f} to {100 * high:.2f} %)"


def _show_learned(work: Work, models: Models, base: WatchParameters) -> None:
    types = {task.task_type for task in work.tasks.values()}
    least = max(base.drift.least_tasks, base.volume.least_tasks, base.escalation.least_tasks)
    few = sum(min(model.of(one).tasks for model in models) < least for one in types)
    if few:
        out.print(
            f"[dim]of {few} of {len(types)} task types fewer than {least} tasks were learned from: of these nothing is usual "
            "yet[/]"
        )


def _show_what_is_lacking(
    trail: Trail, before: list[Finding], judged: frozenset[TaskId], begin: float | None
) -> None:
    again = {(task or "", detector, rule) for _, task, detector, rule in map(key_of, before)}
    recorded = [
        one
        for one in trail.findings.found.values()
        if one.detector in set(DetectorName)
        and (one.task_id in judged if one.task_id else begin is None or one.at.timestamp() >= begin)
    ]
    not_again = sum((one.task_id or "", one.detector, one.rule) not in again for one in recorded)
    for count, what in (
        (
            not_again,
            f"of {len(recorded)} recorded findings are not found again: the broker knew addresses, and less of the work",
        ),
        (
            trail.events.unlisted,
            "actions are with what this catalog no longer has: what they read and wrote is not known",
        ),
        (trail.events.unreadable, "records say too little to be judged"),
        (trail.findings.unreadable, "records of findings cannot be read"),
    ):
        if count:
            out.print(f"[dim]{count} {what}[/]")
    out.print(
        "[dim]no record says from which address a call came: rules about places and keys find nothing here[/]"
    )


def _show_tuning(tuning: Tuning) -> None:
    for one in tuning.detectors:
        if not one.tuned:
            err.print(Text(f"{one.detector.value}: too little to measure by, left as it is", style="dim"))
            continue
        out.print(f"{one.detector.value}, on the later part:")
        _show_scores(one.before, one.after)
    out.print("all detectors, on the later part:")
    _show_scores(tuning.before, tuning.after)
