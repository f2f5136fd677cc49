"""Traces: what agents do in order, and what has to become of each step. `*.trace.yaml`, each with several.

A trace is work that has to be possible, or an attack; an attack's harm is in the steps that say so, and the others around them
may be as harmless as they look.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from broker.config.fields import JsonObject, Name
from broker.config.reading import (
    ConfigError,
    Problem,
    all_of,
    files_below,
    line_of,
    parse_duration,
    plain,
    problems_of,
    read_yaml,
)
from broker.domain.actions import ActionOutcome
from broker.domain.catalog import Catalog
from broker.domain.errors import DenialClass

SUFFIX: Final = ".trace.yaml"
_BEGIN: Final = datetime(2026, 3, 2, 12, tzinfo=UTC)  # a Monday
_Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
_Label = Annotated[str, Field(min_length=1, max_length=200)]
_Segment = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$")]
_Names = Annotated[list[str], Field(max_length=64)]
_VERBS: Final = ("declare", "call", "acquire", "release", "end")


def _begins(value: object) -> object:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            value = None
    if not isinstance(value, datetime) or value.tzinfo is None:
        message = "give a time with a zone, in quotes, such as '2026-03-02T12:00:00Z'"
        raise ValueError(message)
    return value.astimezone(UTC)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DeclareModel(_Model):
    """A declaration. What is left out is as the catalog's task type has it."""

    type: str
    intent: Annotated[str, Field(min_length=1, max_length=500)] = "as its type says"
    environment: str = ""
    roles: _Names | None = None
    tools: _Names | None = None
    fingerprint: str = ""


class StepModel(_Model):
    """One step: one of `declare`, `call`, `acquire`, `release` and `end`, and what has to become of it."""

    declare: DeclareModel | None = None
    call: str | None = None
    acquire: str | None = None
    release: str | None = None
    end: Literal[True] | None = None
    arguments: JsonObject = {}
    fingerprint: str = ""
    outcome: ActionOutcome | None = None
    """How an allowed call went, as the agent reports it."""
    wait: _Duration = timedelta(seconds=1)
    """How long after the step before."""
    by: _Segment | None = None
    """The instance; the trace's where it is not said."""
    task: Name = "main"
    """Which task, of those that the instance declared; of `declare`, the name it gets."""
    harm: bool = False
    """Whether the attack has succeeded when this is allowed."""
    expect: Literal["allow", "deny"] | None = None
    because: _Names | None = None
    """Ids of the policies that determine it: these and no others."""
    reason: str | None = None
    """The wire's reason of a denial."""
    denial: DenialClass | None = None

    @model_validator(mode="after")
    def _one_verb(self) -> Self:
        said = [verb for verb in _VERBS if getattr(self, verb) is not None]
        if len(said) != 1:
            message = f"say one of {', '.join(_VERBS)}"
            raise ValueError(message)
        if said[0] in {"release", "end"} and (self.expect or self.harm or self.because or self.reason):
            message = f"{said[0]}: nothing is decided there, so nothing can be expected"
            raise ValueError(message)
        if self.call is None and (self.arguments or self.outcome):
            message = "call: arguments and outcome are those of a call"
            raise ValueError(message)
        if self.expect != "deny" and (self.reason or self.denial):
            message = "expect: only a denial has a reason and a class: say deny"
            raise ValueError(message)
        return self

    @property
    def what(self) -> str:
        """For people: `call send-report`."""
        if self.declare is not None:
            return f"declare {self.declare.type}"
        if self.end:
            return "end"
        return next(f"{verb} {name}" for verb in _VERBS if (name := getattr(self, verb)) is not None)


class TraceModel(_Model):
    """One trace."""

    name: _Label
    kind: Literal["work", "attack"]
    about: Annotated[list[_Label], Field(max_length=8)] = []
    """What it is an example of, such as an entry of a list of threats."""
    story: Annotated[str, Field(max_length=2000)] = ""
    agent_class: Annotated[str, Field(alias="class")]
    instance: _Segment = "one"
    begins: Annotated[datetime, BeforeValidator(_begins)] = _BEGIN
    task: DeclareModel | None = None
    """The first declaration; the same as a first step with `declare`, where nothing is expected of it but to be allowed."""
    steps: Annotated[list[StepModel], Field(min_length=1, max_length=1000)]

    @model_validator(mode="after")
    def _harm(self) -> Self:
        harms = [step for step in self.steps if step.harm]
        if self.kind == "attack" and not harms:
            message = "steps: an attack says with harm: true where it has succeeded"
            raise ValueError(message)
        if self.kind == "work" and harms:
            message = "kind: work does no harm: say attack"
            raise ValueError(message)
        return self


class TracesModel(_Model):
    """A file of traces."""

    traces: Annotated[list[TraceModel], Field(min_length=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One trace, and where it stands."""

    file: str
    line: int
    model: TraceModel
    lines: tuple[int, ...]
    """Of its steps."""


def read_traces(place: Path, catalog: Catalog) -> list[Trace]:
    """The traces of a file, or of all files below a folder, in order.

    Raises:
        ConfigError: one cannot be used; says everything that is wrong with all of them.
    """
    paths = files_below(place, SUFFIX) if place.is_dir() else [place]
    return all_of(paths, lambda path: _read(path, catalog))


def _read(path: Path, catalog: Catalog) -> list[Trace]:
    node = read_yaml(path)
    known = [
        field.alias or name
        for model in (TracesModel, TraceModel, StepModel, DeclareModel)
        for name, field in model.model_fields.items()
    ]
    try:
        model = TracesModel.model_validate(plain(node))
    except ValidationError as error:
        raise ConfigError(problems_of(error, path, node, known)) from error
    traces, problems = [], []
    names: set[str] = set()
    for number, trace in enumerate(model.traces):
        where: list[str | int] = ["traces", number]
        line = line_of(node, where)
        if trace.name in names:
            what = "another trace has this name already: choose another"
            problems.append(Problem(file=str(path), line=line, field=f"traces.{number}.name", what=what))
        names.add(trace.name)
        if trace.agent_class not in catalog.agent_classes:
            what = f"the catalog has no class {trace.agent_class!r}: give one of the catalog"
            problems.append(Problem(file=str(path), line=line, field=f"traces.{number}.class", what=what))
        lines = tuple(line_of(node, [*where, "steps", index]) for index in range(len(trace.steps)))
        problems += [
            Problem(file=str(path), line=lines[index], field=f"traces.{number}.steps.{index}", what=what)
            for index, what in _undeclared(trace)
        ]
        traces.append(Trace(file=str(path), line=line, model=trace, lines=lines))
    if problems:
        raise ConfigError(problems)
    return traces


def _undeclared(trace: TraceModel) -> list[tuple[int, str]]:
    """Steps of tasks that nobody declared before: names that stand for nothing."""
    declared = {"main"} if trace.task is not None else set()
    wrong = []
    for index, step in enumerate(trace.steps):
        if step.declare is not None:
            declared.add(step.task)
        elif step.task not in declared:
            wrong.append((index, f"no step before declares task {step.task!r}: declare it"))
    return wrong
