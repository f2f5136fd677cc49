"""What the commands of `tasklease anomaly` read: the trail as work, parameters, and tasks that are known to have gone wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from broker.anomaly.findings import DetectorName
from broker.anomaly.watching import WatchParameters
from broker.cli.output import fail, say
from broker.cli.policy_inputs import catalog_of
from broker.cli.policy_trail import begin_of
from broker.cli.trail import records_of
from broker.config.anomaly_parameters import load_parameters
from broker.config.reading import ConfigError
from broker.config.settings import load_settings
from broker.domain.audit import AuditRecord
from broker.domain.identifiers import TaskId
from broker.usecases.detecting_again import MOST_EVENTS, TooMuchError, Work, work_of
from broker.usecases.recorded_events import TrailEvents
from broker.usecases.recorded_findings import FindingsOfTrail, Labels, labels_of

AttacksOption = Annotated[
    Path | None,
    typer.Option(
        help="Tasks that are known to have gone wrong: a line each, TASK_ID and perhaps the detector that should see it."
    ),
]
OldestOption = Annotated[
    str, typer.Option(help="Leave out what is older than so long, such as 720h, as if it were not recorded.")
]

_MOST_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Trail:
    """All that was read."""

    work: Work
    findings: FindingsOfTrail
    labels: Labels
    events: TrailEvents


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """From where to read it."""

    catalog: Path
    trust_domain: str
    config: Path | None
    store: str
    attacks: Path | None
    oldest: str

    def read(self) -> Trail:
        """The trail; ends the command where it cannot be read, or is too long."""
        known = _attacks(self.attacks)
        events, findings = TrailEvents(catalog_of(self.catalog, self.trust_domain)), FindingsOfTrail()
        try:
            work = work_of(events.events(findings.passing(self._records())))
        except TooMuchError:
            fail(f"the trail has more than {MOST_EVENTS} events: leave out old ones with --oldest", code=2)
        if unknown := sorted(known.keys() - work.tasks.keys()):
            what = f"--attacks: the trail has no declaration of {unknown[0]}"
            if not self.oldest:
                fail(what, code=2)
            say(f"{what}, and of {len(unknown) - 1} others")
        labels = labels_of(findings.found.values(), known)
        return Trail(work=work, findings=findings, labels=labels, events=events)

    def _records(self) -> Iterator[AuditRecord]:
        begin = begin_of(self.oldest, "--oldest")
        for record in records_of(self.config, self.store):
            if begin is None or record.event.at.timestamp() >= begin:
                yield record


def parameters_in_use(config: Path | None) -> WatchParameters:
    """Those that the broker's settings name; else the defaults."""
    if config is None:
        return WatchParameters()
    try:
        file = load_settings(config).anomaly_parameters
    except ConfigError as error:
        fail(str(error), code=2)
    return WatchParameters() if file is None else parameters_of(file)


def parameters_of(file: Path) -> WatchParameters:
    """Those of a file; ends the command where it cannot be used."""
    try:
        return load_parameters(file)
    except ConfigError as error:
        fail(str(error), code=2)


def _attacks(file: Path | None) -> dict[TaskId, frozenset[str]]:
    if file is None:
        return {}
    try:
        if file.stat().st_size > _MOST_BYTES:
            fail(f"{file}: larger than 1 MiB", code=2)
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        fail(f"{file}: {error.strerror}", code=2)
    except UnicodeDecodeError:
        fail(f"{file}: is not UTF-8", code=2)
    found: dict[TaskId, frozenset[str]] = {}
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if wrong := [word for word in words[1:] if word not in set(DetectorName)]:
            known = ", ".join(DetectorName)
            fail(f"{file}:{number}: {wrong[0]!r} is no detector: give one of {known}", code=2)
        found[TaskId(words[0])] = found.get(TaskId(words[0]), frozenset()) | set(words[1:])
    return found
