"""What is done about anomalies, as the catalog's files say it.

What always holds: the first rule that fits decides, so the rules stand in one file, each name in them is known, and none stands
below one that takes everything it fits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator
from ruamel.yaml.comments import CommentedMap

from broker.anomaly.findings import DetectorName
from broker.anomaly.meters import Meter
from broker.anomaly.traits import COMBINATIONS
from broker.config.fields import Name
from broker.config.reading import Problem, line_of, suggestion
from broker.domain.answers import AnswerRule, Answers
from broker.domain.findings import SIGNAL, Answer, Severity

DETECTORS: Final = (*(one.value for one in DetectorName), SIGNAL)
"""Who can say that something was found."""
RULES: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        DetectorName.RETRY_STORM.value: frozenset({"refused-again", "failed-again", "probing"}),
        DetectorName.PIVOT.value: frozenset({"another-way"}),
        DetectorName.ESCALATION.value: frozenset(
            {*(one.name for one in COMBINATIONS), "above-usual", "climbs", "environment", "moved"}
        ),
        DetectorName.DRIFT.value: frozenset({"unlikely-order"}),
        DetectorName.VOLUME.value: frozenset(
            f"{meter.value}{kind}" for meter in Meter for kind in ("", "-over-tasks", "-unknown")
        ),
        DetectorName.IDENTITY_MISUSE.value: frozenset(
            {"two-places", "two-keys", "in-turns", "after-instance", "outside-task"}
        ),
        DetectorName.CANARY.value: frozenset({"touched"}),
    }
)
"""The rules of each detector. What a signal reports is not known here."""


def _detector(name: str) -> str:
    if name not in DETECTORS:
        message = (
            f"there is no detector {name!r}{suggestion(name, DETECTORS)}: give one of {', '.join(DETECTORS)}"
        )
        raise ValueError(message)
    return name


_Detector = Annotated[
    str, AfterValidator(_detector), WithJsonSchema({"type": "string", "enum": list(DETECTORS)})
]


class AnswerModel(BaseModel):
    """What is done about a finding that fits. What is left out fits every finding."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    do: Answer
    severity: Severity = Severity.LOW
    confidence: Annotated[float, Field(ge=0, le=1, strict=True)] = 0.0
    detectors: Annotated[list[_Detector], Field(max_length=64)] = []
    rules: Annotated[list[Name], Field(max_length=64)] = []
    agent_classes: Annotated[list[Name], Field(max_length=200)] = []
    task_types: Annotated[list[Name], Field(max_length=200)] = []
    tell: Annotated[list[Name], Field(max_length=16)] = []

    @model_validator(mode="after")
    def _known_rules(self) -> Self:
        if not self.detectors or SIGNAL in self.detectors:
            return self
        known = {rule for detector in self.detectors for rule in RULES[detector]}
        for name in self.rules:
            if name not in known:
                message = f"rules: {' and '.join(self.detectors)} has no rule {name!r}{suggestion(name, known)}: correct the name"
                raise ValueError(message)
        return self

    def domain(self) -> AnswerRule:
        """As the domain has it."""
        return AnswerRule(
            answer=self.do,
            severity=self.severity,
            confidence=self.confidence,
            detectors=frozenset(self.detectors),
            rules=frozenset(self.rules),
            agent_classes=frozenset(self.agent_classes),
            task_types=frozenset(self.task_types),
            tell=tuple(dict.fromkeys(self.tell)),
        )


AnswersFile = tuple[Path, CommentedMap, Sequence[AnswerModel]]
"""A file of the catalog, and the rules that stand in it."""


def answers_of(models: Iterable[AnswerModel]) -> Answers:
    """The rules in their order, as the domain has them."""
    return Answers(rules=tuple(model.domain() for model in models))


def disordered(files: Sequence[AnswersFile]) -> list[Problem]:
    """Rules in several files, and rules that can never decide."""
    problems = []
    first = ""
    for file, node, models in files:
        if "answers" not in node:
            continue
        line = line_of(node, ["answers"])
        if first:
            what = f"stands in {first} as well: the first rule that fits decides, so keep them in one file"
            problems.append(Problem(file=str(file), line=line, field="answers", what=what))
        first = first or f"{file}:{line}"
        rules = [model.domain() for model in models]
        for index, rule in enumerate(rules):
            if (above := next((n for n in range(index) if _takes_all(rules[n], rule)), None)) is not None:
                what = (
                    f"never decides: the rule in line {line_of(node, ['answers', above])} takes all that it fits; "
                    "put it above that one, or leave it out"
                )
                where = line_of(node, ["answers", index])
                problems.append(Problem(file=str(file), line=where, field=f"answers.{index}", what=what))
    return problems


def _takes_all(above: AnswerRule, below: AnswerRule) -> bool:
    """Whether whatever fits the one below fits the one above."""
    return (
        above.severity.rank <= below.severity.rank
        and above.confidence <= below.confidence
        and all(
            not wide or (narrow and narrow <= wide)
            for wide, narrow in (
                (above.detectors, below.detectors),
                (above.rules, below.rules),
                (above.agent_classes, below.agent_classes),
                (above.task_types, below.task_types),
            )
        )
    )


def unlisted(
    files: Sequence[AnswersFile], *, agent_classes: Collection[str], task_types: Collection[str]
) -> list[Problem]:
    """Names of classes and task types that the catalog does not have."""
    return [
        *_strangers(files, "agent_classes", agent_classes, "no agent class {}: add it"),
        *_strangers(files, "task_types", task_types, "no task type {}: add it"),
    ]


def unknown_receivers(files: Sequence[AnswersFile], receivers: Collection[str]) -> list[Problem]:
    """Names under `tell` that the settings do not have."""
    return list(_strangers(files, "tell", receivers, "no receiver {} in the settings: add it there"))


def _strangers(
    files: Sequence[AnswersFile], field: str, known: Collection[str], what: str
) -> Iterator[Problem]:
    for file, node, models in files:
        for index, model in enumerate(models):
            for position, name in enumerate(getattr(model, field)):
                if name in known:
                    continue
                location = ("answers", index, field, position)
                yield Problem(
                    file=str(file),
                    line=line_of(node, location),
                    field=".".join(map(str, location)),
                    what=f"there is {what.format(f'{name!r}{suggestion(name, known)}')} or correct the name",
                )
