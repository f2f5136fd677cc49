"""What the catalog says about anomalies: which answer a finding gets, and what is said of rules that cannot be meant so."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from broker.adapters.catalog.files import CatalogFiles
from broker.anomaly.findings import DetectorName
from broker.config.catalog import load_catalog
from broker.config.catalog_answers import RULES
from broker.config.reading import ConfigError, Problem
from broker.domain.answers import DEFAULT_RULES, AnswerRule, Chosen
from broker.domain.findings import Answer, Found, Severity
from tests.fakes.samples import OWNER, TASK
from tests.fakes.system import NOON
from tests.unit.config.texts import CATALOG, write

REPOSITORY = Path(__file__).parents[3]
ANSWERS = """\
answers:
  - do: freeze
    severity: high
    confidence: 0.5
    detectors: [drift, signal]
    rules: [unlikely-order, session-revoked]
    agent_classes: [invoice-bot]
    task_types: [reconcile]
    tell: [siem, pager, siem]
  - do: warn
"""
FIRST = len(CATALOG.splitlines()) + 1
"""The line of `answers:`."""
FOUND = Found(
    detector="drift",
    rule="unlikely-order",
    severity=Severity.CRITICAL,
    confidence=0.9,
    instance=OWNER,
    task_id=TASK,
    at=NOON,
)


def problems(path: Path, receivers: tuple[str, ...] | None = None) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        load_catalog(path, receivers=receivers)
    return caught.value.problems


def rules(*lines: str) -> str:
    return CATALOG + "answers:\n" + "".join(f"  - {line}\n" for line in lines)


def test_rules_are_read_as_they_stand(tmp_path: Path) -> None:
    catalog = load_catalog(write(tmp_path, CATALOG + ANSWERS))
    assert catalog.answers.rules == (
        AnswerRule(
            answer=Answer.FREEZE,
            severity=Severity.HIGH,
            confidence=0.5,
            detectors=frozenset({"drift", "signal"}),
            rules=frozenset({"unlikely-order", "session-revoked"}),
            agent_classes=frozenset({"invoice-bot"}),
            task_types=frozenset({"reconcile"}),
            tell=("siem", "pager"),
        ),
        AnswerRule(answer=Answer.WARN),
    )


@pytest.mark.parametrize(
    ("changed", "task_type", "chosen"),
    [
        ({}, "reconcile", Chosen(answer=Answer.FREEZE, tell=("siem", "pager"))),
        ({"severity": Severity.MEDIUM}, "reconcile", Chosen(answer=Answer.WARN)),
        ({"confidence": 0.4}, "reconcile", Chosen(answer=Answer.WARN)),
        ({"detector": "pivot"}, "reconcile", Chosen(answer=Answer.WARN)),
        ({"rule": "other"}, "reconcile", Chosen(answer=Answer.WARN)),
        ({"task_id": None}, "", Chosen(answer=Answer.WARN)),
    ],
)
def test_the_first_rule_that_fits_decides(
    tmp_path: Path, changed: dict[str, object], task_type: str, chosen: Chosen
) -> None:
    answers = load_catalog(write(tmp_path, CATALOG + ANSWERS)).answers
    found = replace(FOUND, **changed)  # type: ignore[arg-type]
    assert answers.to(found, agent_class="invoice-bot", task_type=task_type) == chosen


def test_where_the_catalog_says_nothing_the_defaults_decide(tmp_path: Path) -> None:
    answers = load_catalog(write(tmp_path, CATALOG)).answers
    assert answers.rules == ()
    assert answers.to(FOUND, agent_class="invoice-bot", task_type="reconcile").answer is Answer.QUARANTINE


@pytest.mark.parametrize(
    ("lines", "line", "field", "words"),
    [
        (["severity: low"], 1, "answers.0.do", "is missing: add it"),
        (["do: kill"], 1, "answers.0.do", "'note', 'warn', 'approve', 'freeze', 'end-task' or 'quarantine'"),
        (["do: note\n    when: high"], 2, "answers.0.when", "unknown key"),
        (["do: note\n    severety: high"], 2, "answers.0.severety", "did you mean 'severity'?"),
        (["do: note\n    severity: bad"], 2, "answers.0.severity", "'low', 'medium', 'high' or 'critical'"),
        (["do: note\n    confidence: 1.1"], 2, "answers.0.confidence", "less than or equal to 1"),
        (["do: note\n    confidence: .nan"], 2, "answers.0.confidence", "less than or equal to 1"),
        (["do: note\n    confidence: -0.1"], 2, "answers.0.confidence", "greater than or equal to 0"),
        (["do: note\n    confidence: true"], 2, "answers.0.confidence", "valid number"),
        (["do: note\n    confidence: '0.5'"], 2, "answers.0.confidence", "valid number"),
        (
            ["do: note\n    detectors: [drift, pivots]"], 2, "answers.0.detectors.1",
            "there is no detector 'pivots' (did you mean 'pivot'?): give one of retry-storm,",
        ),
        (
            ["do: note\n    detectors: [canary]\n    rules: [touch]"], 3, "answers.0.rules",
            "canary has no rule 'touch' (did you mean 'touched'?): correct the name",
        ),
        (["do: note\n    rules: ['']"], 2, "answers.0.rules.0", "should match pattern"),
        (
            ["do: warn\n    confidence: 0.5", "do: note\n    agent_classes:\n      - invoice-bat"], 5,
            "answers.1.agent_classes.0",
            "there is no agent class 'invoice-bat' (did you mean 'invoice-bot'?): add it or correct the name",
        ),
        (
            ["do: note\n    task_types: [reconcil]"], 2, "answers.0.task_types.0",
            "there is no task type 'reconcil' (did you mean 'reconcile'?): add it or correct the name",
        ),
        (["do: note\n    tell: [The SIEM]"], 2, "answers.0.tell.0", "should match pattern"),
        (["do: note", "do: warn\n    severity: high"], 2, "answers.1", f"never decides: the rule in line {FIRST + 1} takes"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_line_and_remedy(
    tmp_path: Path, lines: list[str], line: int, field: str, words: str
) -> None:
    (problem,) = problems(write(tmp_path, rules(*lines)))
    assert (problem.line, problem.field) == (FIRST + line, field)
    assert words in problem.what


@pytest.mark.parametrize("text", ["answers: {}\n", "answers:\n", "answers: note\n"])
def test_answers_are_a_list(tmp_path: Path, text: str) -> None:
    (problem,) = problems(write(tmp_path, CATALOG + text))
    assert (problem.line, problem.field) == (FIRST, "answers")


@pytest.mark.parametrize(
    ("above", "below"),
    [
        ("{do: note, severity: high}", "{do: warn}"),
        ("{do: note, confidence: 0.5}", "{do: warn, confidence: 0.4}"),
        ("{do: note, detectors: [drift]}", "{do: warn, detectors: [drift, pivot]}"),
        ("{do: note, detectors: [drift]}", "{do: warn, severity: critical}"),
        ("{do: note, rules: [climbs]}", "{do: warn, rules: [moved]}"),
        ("{do: note, task_types: [reconcile]}", "{do: warn, agent_classes: [invoice-bot]}"),
    ],
)
def test_a_rule_that_still_has_something_to_decide_is_taken(tmp_path: Path, above: str, below: str) -> None:
    assert len(load_catalog(write(tmp_path, rules(above, below))).answers.rules) == 2


def test_rules_stand_in_one_file(tmp_path: Path) -> None:
    first = write(tmp_path, CATALOG + ANSWERS, "a.yaml")
    second = write(tmp_path, "version: 1\nanswers: []\n", "b.yaml")
    (problem,) = problems(tmp_path)
    assert (problem.file, problem.line, problem.field) == (str(second), 2, "answers")
    assert problem.what == (
        f"stands in {first}:{FIRST} as well: the first rule that fits decides, so keep them in one file"
    )


def test_names_may_stand_in_another_file_than_the_rules(tmp_path: Path) -> None:
    write(tmp_path, "version: 1\n" + ANSWERS, "a.yaml")
    write(tmp_path, CATALOG, "b.yaml")
    assert len(load_catalog(tmp_path).answers.rules) == 2


def test_receivers_that_the_settings_do_not_have_are_named(tmp_path: Path) -> None:
    file = write(tmp_path, CATALOG + ANSWERS)
    assert load_catalog(file, receivers=("siem", "pager")).answers == load_catalog(file).answers
    (problem,) = problems(file, receivers=("siem", "pagers"))
    assert (problem.file, problem.line, problem.field) == (str(file), FIRST + 8, "answers.0.tell.1")
    assert problem.what == (
        "there is no receiver 'pager' (did you mean 'pagers'?) in the settings: add it there or correct the name"
    )
    assert len(problems(file, receivers=())) == 3


async def test_a_changed_catalog_that_names_an_unknown_receiver_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, CATALOG)
    files = CatalogFiles(file, receivers=("siem",))
    before = files.current()
    write(tmp_path, rules("{do: note, tell: [pager]}"))
    assert not await files.reload_if_changed()
    assert files.current() is before
    write(tmp_path, rules("{do: note, tell: [siem]}"))
    assert await files.reload_if_changed()


def test_the_digest_is_of_the_rules_and_their_order_as_well(tmp_path: Path) -> None:
    texts = (
        CATALOG,
        rules("{do: note, severity: high}", "{do: warn, confidence: 0.5}"),
        rules("{do: warn, confidence: 0.5}", "{do: note, severity: high}"),
        rules("{do: warn, confidence: 0.6}", "{do: note, severity: high}"),
    )
    digests = [load_catalog(write(tmp_path, text)).digest for text in texts]
    assert len(set(digests)) == len(texts)
    assert load_catalog(write(tmp_path, CATALOG + "answers: []\n")).digest == digests[0]


def test_every_rule_of_every_detector_is_known_by_name() -> None:
    assert set(RULES) == set(DetectorName)
    folder = REPOSITORY / "broker/anomaly"
    written = {
        name for file in folder.glob("*.py") for name in re.findall(r'\brule="([a-z-]+)"', file.read_text())
    }
    assert written
    assert written <= {name for names in RULES.values() for name in names}


def test_the_defaults_stand_in_the_documentation() -> None:
    text = (
        (REPOSITORY / "docs/anomalies.md").read_text().split("## What is done\n", 1)[1].split("\n## ", 1)[0]
    )
    table = text.split("| severity | confidence | answer |\n| --- | --- | --- |\n", 1)[1].split("\n\n", 1)[0]
    assert table.splitlines() == [
        f"| {_these(rule.severity)} | {f'{rule.confidence:g} or more' if rule.confidence else 'any'} "
        f"| `{rule.answer.value}` |"
        for rule in DEFAULT_RULES
    ]
    for answer in Answer:
        assert f"| `{answer.value}` | " in text


def _these(least: Severity) -> str:
    found = [one.value for one in Severity if one.rank >= least.rank]
    return "any" if len(found) == len(Severity) else ", ".join(found)
