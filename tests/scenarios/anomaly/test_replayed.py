"""Replaying and tuning on a trail of honest work of one type, with attacks that ask again and again for what was refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from broker.anomaly.findings import DetectorName
from broker.anomaly.watching import WatchParameters
from broker.cli import anomaly
from broker.cli.output import out
from broker.config.anomaly_parameters import as_yaml, load_parameters, neighbours, with_values
from broker.domain.audit import AuditEvent
from broker.domain.identifiers import TaskId
from broker.usecases import detecting_again
from broker.usecases.comparing_findings import bad_tasks, honest_tasks
from broker.usecases.detecting_again import TooMuchError, Work, detect, learn, work_of
from broker.usecases.recorded_findings import Labels
from broker.usecases.tuning_detectors import TooLittleError, Tuner
from tests.scenarios.anomaly.acting import Actor
from tests.scenarios.anomaly.benign import work
from tests.scenarios.anomaly.corpus import BENIGN, Trace, dice_of
from tests.scenarios.anomaly.trails import (
    a_store_with,
    catalog_text,
    found,
    marked,
    moved,
    of_traces,
    without_calls,
)

HONEST, ATTACKS = 260, 16
DEAF = with_values(
    WatchParameters(),
    {"retries.structural.level": 40.0, "retries.structural.in_all": 90, "retries.over_tasks": 900.0},
)
"""With these no storm of the trail below is found."""


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever test made the console first: lines are not broken here."""
    monkeypatch.setattr(out, "_width", 200)


def honest(number: int) -> Trace:
    actor = Actor(dice_of(f"honest-{number}"), "h")
    work(actor, "deploy-service", noise=0.2)
    return Trace(name="honest", label=BENIGN, events=tuple(actor.events))


def storm(number: int) -> Trace:
    actor = Actor(dice_of(f"storm-{number}"), "s")
    task = actor.task("deploy-service")
    actor.act(task, "read-config", "shop")
    for _ in range(8):
        actor.act(task, "roll-back", "shop", allowed=False)
        actor.wait(3)
    actor.end(task)
    return Trace(name="storm", label="retry-storm", events=tuple(actor.events))


def the_traces() -> Iterator[Trace]:
    """A storm after every sixteenth honest task."""
    for number in range(HONEST + ATTACKS):
        make = storm if number % 17 == 16 else honest
        yield moved(make(number), number)


def tasks_of(traces: Iterable[Trace], label: str) -> list[TaskId]:
    return [
        task_id
        for trace in traces
        if trace.label == label and (task_id := trace.events[0].task_id) is not None
    ]


@pytest.fixture(scope="module")
def traces() -> list[Trace]:
    return list(the_traces())


@pytest.fixture(scope="module")
def the_work(traces: list[Trace]) -> Work:
    return work_of(event for trace in traces for event in without_calls(trace))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, traces: list[Trace]) -> Path:
    folder = tmp_path_factory.mktemp("replayed")
    (folder / "catalog.yaml").write_text(catalog_text())
    (folder / "deaf.yaml").write_text(as_yaml(DEAF))
    (folder / "attacks").write_text(
        "# from the incidents of March\n\n"
        + "".join(f"{one} retry-storm\n" for one in tasks_of(traces, "retry-storm"))
    )
    a_store_with(folder / "broker.db", of_traces(traces))
    (folder / "broker.yaml").write_text(
        "trust_domain: example.org\nspiffe_endpoint_socket: unix:/run/x.sock\n"
        "vault: {address: 'https://vault.test:8200'}\ncatalog: catalog.yaml\n"
        "store: {url: 'sqlite:///broker.db'}\nanomaly_parameters: deaf.yaml\n"
    )
    return folder


def run(folder: Path, *words: object, store: str = "broker.db") -> Result:
    place = [] if "--config" in words else ["--store", f"sqlite:///{folder / store}"]
    said = [*map(str, words), *place, "--catalog", str(folder / "catalog.yaml")]
    return CliRunner().invoke(anomaly.app, said)


# Learning ---------------------------------------------------------------------------------------------------


def test_no_task_is_judged_by_what_it_taught(the_work: Work) -> None:
    odd = "task-odd"
    actor = Actor(dice_of("odd"), "odd")
    task = actor.task("deploy-service")
    for tool in ("read-config", "run-tests", "deploy", "comment"):  # the last one is nobody else's
        actor.act(task, tool, "shop")
        actor.wait(5)
    actor.end(task)
    streams = {**the_work.streams, odd: tuple(event for event in actor.events if event.called is None)}
    together = work_of(event for stream in streams.values() for event in stream)
    models = learn(together, WatchParameters(), without=())
    fold = together.tasks[task.task_id].fold
    assert models[fold].of("deploy-service").share("name:comment") > 0
    assert models[1 - fold].of("deploy-service").share("name:comment") == 0
    counts = [model.of("deploy-service").tasks for model in models]
    assert min(counts) > 100
    assert sum(counts) < len(together.tasks)


def test_what_is_known_to_be_bad_teaches_nothing(the_work: Work, traces: list[Trace]) -> None:
    bad = tasks_of(traces, "retry-storm")
    with_all = learn(the_work, DEAF, without=())
    without = learn(the_work, DEAF, without=bad)
    assert sum(one.of("deploy-service").tasks for one in with_all) == sum(
        one.of("deploy-service").tasks for one in without
    ) + len(bad)
    found_first = learn(the_work, WatchParameters(), without=())
    assert sum(one.of("deploy-service").tasks for one in found_first) <= sum(
        one.of("deploy-service").tasks for one in without
    )


def test_more_events_than_are_held_are_refused(monkeypatch: pytest.MonkeyPatch, traces: list[Trace]) -> None:
    monkeypatch.setattr(detecting_again, "MOST_EVENTS", 10)
    with pytest.raises(TooMuchError):
        work_of(event for trace in traces[:3] for event in trace.events)


# Replay -----------------------------------------------------------------------------------------------------


def test_replay_says_what_is_found_and_how_that_compares_with_what_is_known(
    folder: Path, traces: list[Trace]
) -> None:
    result = run(folder, "replay", "--attacks", folder / "attacks")
    assert result.exit_code == 0, result.output
    storms = [line for line in result.stdout.splitlines() if "retry-storm/refused-again medium" in line]
    assert {line.split()[3] for line in storms} == set(tasks_of(traces, "retry-storm"))
    assert f"caught: {ATTACKS} of {ATTACKS} (" in result.stdout
    assert f"missed: 0 of {ATTACKS} (" in result.stdout
    assert "false alarms: 0 of 2" in result.stdout
    assert f"{HONEST + ATTACKS} tasks judged, {len(storms)} findings" in result.stdout


def test_other_parameters_are_compared_with_those_in_use(folder: Path, traces: list[Trace]) -> None:
    attacks = ("--attacks", folder / "attacks")
    result = run(folder, "replay", "--parameters", folder / "deaf.yaml", *attacks)
    assert result.exit_code == 1, result.output
    gone = [line for line in result.stdout.splitlines() if line.startswith("- ")]
    assert len(gone) == ATTACKS
    assert not [line for line in result.stdout.splitlines() if line.startswith("+ ")]
    assert f"caught: {ATTACKS} of {ATTACKS} (80.64 to 100.00 %) -> 0 of {ATTACKS} (0.00 to 19.36 %)" in (
        result.stdout
    )
    assert f"missed: 0 of {ATTACKS} (0.00 to 19.36 %) -> {ATTACKS} of {ATTACKS}" in result.stdout
    # Those in use are the settings': now they are the deaf ones, and the defaults find more.
    (folder / "defaults.yaml").write_text("{}\n")
    turned = run(
        folder,
        "replay",
        "--config",
        folder / "broker.yaml",
        "--parameters",
        folder / "defaults.yaml",
        *attacks,
    )
    assert turned.exit_code == 1, turned.output
    assert len([line for line in turned.stdout.splitlines() if line.startswith("+ ")]) == ATTACKS
    same = run(folder, "replay", "--parameters", folder / "defaults.yaml")
    assert same.exit_code == 0, same.output


def test_since_leaves_out_what_is_older(folder: Path) -> None:
    result = run(folder, "replay", "--since", "1h")
    assert result.exit_code == 0, result.output
    assert "0 tasks judged, 0 findings" in result.stdout


def test_what_is_too_old_is_as_if_it_were_not_recorded(folder: Path) -> None:
    result = run(folder, "replay", "--oldest", "1h")
    assert result.exit_code == 2
    assert "no task is recorded" in result.stderr
    with_attacks = run(folder, "replay", "--oldest", "1h", "--attacks", folder / "attacks")
    assert f"and of {ATTACKS - 1} others" in with_attacks.stderr
    wrong = run(folder, "replay", "--oldest", "yesterday")
    assert wrong.exit_code == 2
    assert "--oldest: give a duration such as" in wrong.stderr


def test_a_trail_that_is_too_long_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detecting_again, "MOST_EVENTS", 10)
    result = run(folder, "replay")
    assert result.exit_code == 2
    assert "leave out old ones with --oldest" in result.stderr


def test_marks_of_people_are_labels(tmp_path: Path, traces: list[Trace]) -> None:
    bad, good = tasks_of(traces, "retry-storm")[0], tasks_of(traces, BENIGN)[:2]
    late = traces[-1].events[-1].at + timedelta(hours=1)
    events = of_traces(traces[:60])
    instances = {event.task_id: event.actor for event in events if event.kind == "task.declared"}
    for number, (task, mark) in enumerate(((bad, False), (good[0], True), (good[1], None))):
        finding_id = f"finding-{number}"
        events.append(found(finding_id, task, instances[task], late, "retry-storm/refused-again"))
        if mark is not None:
            events.append(marked(finding_id, late + timedelta(minutes=1), false=mark))
    nonsense = AuditEvent(kind="anomaly.marked", at=late, actor="spiffe://a/b", facts={"finding": "x"})
    (tmp_path / "catalog.yaml").write_text(catalog_text())
    a_store_with(tmp_path / "broker.db", [*events, nonsense])
    result = run(tmp_path, "replay")
    assert "caught: 1 of 1 (" in result.stdout
    succeeded = {
        event.task_id
        for event in events
        if event.kind == "task.ending" and event.facts["outcome"] == "succeeded"
    }
    # Storms that nobody confirmed are taken for honest work, as they completed.
    honest_ones = (succeeded | {good[0]}) - {bad, good[1]}
    assert f"false alarms: 2 of {len(honest_ones)} (" in result.stdout
    assert "2 of 3 recorded findings are not found again" in result.stdout
    assert "1 records of findings cannot be read" in result.stdout


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("task-nobody\n", "the trail has no declaration of task-nobody"),
        ("task-1 storms\n", ":1: 'storms' is no detector: give one of retry-storm, pivot,"),
    ],
)
def test_attacks_that_are_none_are_refused(folder: Path, tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "attacks").write_text(text)
    result = run(folder, "replay", "--attacks", tmp_path / "attacks")
    assert (result.exit_code, result.stdout) == (2, "")
    assert what in result.stderr


def test_parameters_with_a_mistake_and_an_empty_trail_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("drift: {slack: much}\n")
    result = run(folder, "replay", "--parameters", tmp_path / "bad.yaml")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "bad.yaml:1: drift.slack: give a number from 0 to 100" in result.stderr
    a_store_with(folder / "empty.db", [])
    nothing = run(folder, "replay", store="empty.db")
    assert nothing.exit_code == 2
    assert "no task is recorded" in nothing.stderr


# Tune -------------------------------------------------------------------------------------------------------


def test_tuning_finds_parameters_that_hear_and_writes_them(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "tuned.yaml"
    words = ("tune", "--config", folder / "broker.yaml", "--attacks", folder / "attacks", "-o", output)
    result = run(folder, *words)
    assert result.exit_code == 0, result.output
    assert "retry-storm, on the later part:" in result.stdout
    assert "caught: 0 of 8 (0.00 to 32.44 %) -> 8 of 8 (67.56 to 100.00 %)" in result.stdout
    assert "drift: too little to measure by" in result.stderr
    tuned = load_parameters(output)
    assert tuned.retries.structural.level < DEAF.retries.structural.level or (
        tuned.retries.structural.in_all < DEAF.retries.structural.in_all
    )
    assert tuned.drift == DEAF.drift
    again = run(folder, *words)
    assert again.exit_code == 2
    assert "is there already" in again.stderr


def test_what_is_good_is_left_as_it_is(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "tuned.yaml"
    result = run(folder, "tune", "--attacks", folder / "attacks", "-o", output)
    assert result.exit_code == 0, result.output
    assert "no step is better than what is in use" in result.stdout
    assert not output.exists()


def test_too_little_evidence_is_refused(folder: Path, tmp_path: Path, traces: list[Trace]) -> None:
    output = tmp_path / "tuned.yaml"
    result = run(folder, "tune", "-o", output)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "no task is known to have gone wrong" in result.stderr
    few = tmp_path / "few"
    few.write_text("".join(f"{one}\n" for one in tasks_of(traces, "retry-storm")[:4]))
    result = run(folder, "tune", "--attacks", few, "-o", output)
    assert result.exit_code == 2
    assert "the earlier part has 2 tasks that went wrong" in result.stderr
    assert not output.exists()


def test_the_later_part_is_measured_and_nothing_is_chosen_on_it(the_work: Work, traces: list[Trace]) -> None:
    bad = tasks_of(traces, "retry-storm")
    labels = Labels(
        bad={one: frozenset({"retry-storm"}) for one in bad}, false=frozenset(), standing=frozenset()
    )
    models = learn(the_work, DEAF, without=bad)

    def tuned(work: Work) -> WatchParameters:
        tuner = Tuner(work=work, labels=labels, models=models, neighbours=neighbours, most_false=0.001)
        return tuner(DEAF).parameters

    cut = the_work.tasks[bad[len(bad) // 2]].declared_at
    silent = {
        name: tuple(
            event for event in stream if event.at < cut or event.decided is None or event.decided.allowed
        )
        for name, stream in the_work.streams.items()
    }
    assert tuned(replace(the_work, streams=silent)) == tuned(the_work) != DEAF


def test_worse_on_the_later_part_is_said(folder: Path, tmp_path: Path, traces: list[Trace]) -> None:
    """Storms of the earlier part are what work that counts as honest looks like in the later part."""
    bad = tasks_of(traces, "retry-storm")
    few = tmp_path / "attacks"
    honest_ones = [one for one in tasks_of(traces, BENIGN) if int(one.rsplit("-", 1)[1]) > 140][:5]
    few.write_text("".join(f"{one} retry-storm\n" for one in [*bad[:5], *honest_ones]))
    output = tmp_path / "tuned.yaml"
    words = ("--attacks", few, "-o", output, "--most-false", "1000")
    result = run(folder, "tune", "--config", folder / "broker.yaml", *words)
    assert result.exit_code == 1, result.output
    assert "on the later part it was better before: nothing was written" in result.stderr
    assert not output.exists()


def test_a_tuner_without_enough_honest_work_refuses(traces: list[Trace]) -> None:
    storms = [trace for trace in traces if trace.label != BENIGN]
    work = work_of(event for trace in storms for event in without_calls(trace))
    labels = Labels(bad={one: frozenset() for one in work.tasks}, false=frozenset(), standing=frozenset())
    tuner = Tuner(
        work=work,
        labels=labels,
        models=learn(work, WatchParameters(), without=()),
        neighbours=neighbours,
        most_false=0.0,
    )
    with pytest.raises(TooLittleError, match="8 and 0; it takes 5 of one detector and 100 in each"):
        tuner(WatchParameters())


def test_one_detector_alone_finds_what_it_finds_among_all(the_work: Work) -> None:
    models = learn(the_work, WatchParameters(), without=())
    every = list(detect(the_work, models, WatchParameters()))
    alone = list(detect(the_work, models, WatchParameters(), by=DetectorName.RETRY_STORM))
    assert alone == [one for one in every if one.detector is DetectorName.RETRY_STORM]
    assert alone


def test_labels_tell_honest_and_bad_tasks_apart(the_work: Work, traces: list[Trace]) -> None:
    bad, good = tasks_of(traces, "retry-storm"), tasks_of(traces, BENIGN)
    labels = Labels(
        bad={bad[0]: frozenset({"pivot"}), bad[1]: frozenset()},
        false=frozenset(),
        standing=frozenset({good[0]}),
    )
    assert bad_tasks(the_work, labels) == {bad[0], bad[1]}
    assert bad_tasks(the_work, labels, DetectorName.RETRY_STORM) == {bad[1]}
    found_honest = honest_tasks(the_work, labels)
    assert good[0] not in found_honest
    assert not found_honest & {bad[0], bad[1]}


def test_every_parameter_is_listed_with_its_meaning() -> None:
    result = CliRunner().invoke(anomaly.app, ["parameters"])
    assert result.exit_code == 0
    assert "retries.structural.half_life: 30m\n" in result.stdout
    assert "(duration, 1s to 24h)" in result.stdout
