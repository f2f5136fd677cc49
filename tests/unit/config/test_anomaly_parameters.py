"""Parameters of the detectors from a file: what is taken, and what is said of what is not."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from broker.anomaly.watching import WatchParameters
from broker.config.anomaly_parameters import as_text, as_yaml, load_parameters, with_values
from broker.config.detector_parameters import PARAMETERS, values_of
from broker.config.reading import ConfigError
from broker.config.settings import load_settings
from tests.unit.config.texts import SETTINGS, write

GOOD = """\
retries:
  structural: {level: 4, in_all: 7}
  over_tasks: 0.5
pivots:
  next_task: 1h15m
drift: {}
"""


def of(tmp_path: Path, text: str) -> WatchParameters:
    return load_parameters(write(tmp_path, text, "anomalies.yaml"))


def test_what_is_named_is_set_and_the_rest_has_its_default(tmp_path: Path) -> None:
    found, defaults = of(tmp_path, GOOD), WatchParameters()
    assert (found.retries.structural.level, found.retries.structural.in_all) == (4.0, 7)
    assert isinstance(found.retries.structural.level, float)
    assert found.retries.structural.half_life == defaults.retries.structural.half_life
    assert found.pivots.next_task == timedelta(minutes=75)
    named = {
        "retries.structural.level",
        "retries.structural.in_all",
        "retries.over_tasks",
        "pivots.next_task",
    }
    ours, theirs = values_of(found), values_of(defaults)
    assert {name for name in ours if ours[name] != theirs[name]} == named


def test_an_empty_mapping_changes_nothing(tmp_path: Path) -> None:
    assert of(tmp_path, "{}") == WatchParameters()


@pytest.mark.parametrize(
    ("text", "line", "field", "what"),
    [
        ("retrys: {}", 1, "retrys", "unknown parameter (did you mean 'retries'?)"),
        ("retries:\n  structral: {level: 2}", 2, "retries.structral", "did you mean 'structural'?"),
        ("drift:\n  slack: 1\n  sluck: 2", 3, "drift.sluck", "did you mean 'slack'?"),
        ("drift: 3", 1, "drift", "is a table of parameters"),
        ("drift:\n  slack: {bits: 2}", 2, "drift.slack", "give a number from 0 to 100"),
        ("drift:\n  slack: '2'", 2, "drift.slack", "give a number from 0 to 100"),
        ("drift:\n  slack: true", 2, "drift.slack", "give a number from 0 to 100"),
        ("drift:\n  slack: .nan", 2, "drift.slack", "give a number from 0 to 100"),
        ("drift:\n  enough: .inf", 2, "drift.enough", "give a number from 0.1 to 1000"),
        (f"drift:\n  enough: {10**400}", 2, "drift.enough", "give a number from 0.1 to 1000"),
        ("drift:\n  least_tasks: 0", 2, "drift.least_tasks", "give a whole number from 1 to 1000000"),
        ("drift:\n  least_tasks: 2.5", 2, "drift.least_tasks", "give a whole number"),
        ("drift:\n  least_tasks: true", 2, "drift.least_tasks", "give a whole number"),
        ("pivots:\n  horizon: 24", 2, "pivots.horizon", "give a duration such as"),
        ("pivots:\n  horizon: 9000h", 2, "pivots.horizon", "give a duration from 0s to 720h"),
        ("canaries:\n  most_said: 100000", 2, "canaries.most_said", "give a whole number from 1 to 4096"),
        (
            "retries:\n  honest_refused: 0.8\n  probing_refused: 0.7",
            2,
            "retries.honest_refused",
            "must be below probing_refused",
        ),
    ],
)
def test_what_is_wrong_is_named_with_line_and_remedy(
    tmp_path: Path, text: str, line: int, field: str, what: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        of(tmp_path, text)
    (problem,) = caught.value.problems
    assert (problem.line, problem.field) == (line, field)
    assert what in problem.what


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        of(tmp_path, "drift:\n  slack: x\n  sluck: 2\nvolumes: {}\n")
    assert [problem.line for problem in caught.value.problems] == [2, 3, 4]


def test_every_parameter_is_listed_and_its_default_is_within_its_bounds() -> None:
    assert list(PARAMETERS) == list(values_of(WatchParameters()))
    for one in PARAMETERS.values():
        assert one.least <= one.default <= one.most, one.name  # type: ignore[operator]
        assert type(one.least) is type(one.most) is type(one.default), one.name
        assert one.meaning, one.name


def test_what_bounds_memory_is_bounded_itself() -> None:
    for name, one in PARAMETERS.items():
        if name.rpartition(".")[2] in {
            "most_tasks", "most_said", "most_effects", "most_denied", "most_names", "most_svids",
        }:  # fmt: skip
            assert isinstance(one.most, int), name
            assert one.most <= 4096, name


def test_what_is_written_is_read_as_the_same(tmp_path: Path) -> None:
    for name, one in PARAMETERS.items():
        for value in (one.least, one.most):
            chosen = with_values(WatchParameters(), {name: value})
            if chosen.retries.honest_refused >= chosen.retries.probing_refused:
                continue
            assert of(tmp_path, as_yaml(chosen)) == chosen, name
    several = of(tmp_path, GOOD)
    text = as_yaml(several)
    assert of(tmp_path, text) == several
    assert text.count("retries:") == text.count("structural:") == 1
    assert "default: 15m" in text
    assert as_yaml(WatchParameters()) == "{}\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [(3, "3"), (3.3, "3.3"), (1e-12, "1e-12"), (timedelta(), "0s"), (timedelta(seconds=4530), "1h15m30s")],
)
def test_values_are_written_as_they_are_read(value: float | timedelta, text: str) -> None:
    assert as_text(value) == text


def test_the_setting_is_a_path_beside_the_settings(tmp_path: Path) -> None:
    file = write(tmp_path, SETTINGS + "\nanomaly_parameters: more/anomalies.yaml\n", "broker.yaml")
    assert load_settings(file).anomaly_parameters == tmp_path.resolve() / "more/anomalies.yaml"
    assert load_settings(write(tmp_path, SETTINGS, "plain.yaml")).anomaly_parameters is None
