"""Tests beside policies: `*.test.yaml` files, each with cases that say what has to come out, and because of what."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from broker.adapters.policy.cedar import DECISION_PREFIX, ERROR
from broker.adapters.policy.facts import Context
from broker.config.fields import JsonObject
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
    suggestion,
)
from broker.domain.actions import Chain, digest_of
from broker.domain.catalog import AgentClass, Catalog, TaskType
from broker.domain.decision import AcquireContext, CallContext, Decision, DeclareContext, Fingerprint
from broker.domain.flows import LABELS
from broker.domain.identifiers import TaskId
from broker.domain.spiffe import SpiffeId
from broker.domain.task import Scope, Task
from broker.ports.policy import PolicyEngine
from broker.usecases.deciding import asked

SUFFIX: Final = ".test.yaml"
_WHEN: Final = datetime(2026, 3, 2, 12, tzinfo=UTC)  # a Monday
_TASK: Final = TaskId("task-of-a-policy-test")
_NOWHERE: Final = "example.test"
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")

_Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
_Count = Annotated[int, Field(ge=0, strict=True)]
_Names = Annotated[list[str], Field(max_length=1000)]


def _aware(value: object) -> object:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            value = None
    if not isinstance(value, datetime):
        message = "give a time such as 2026-03-02T12:00:00Z"
        raise ValueError(message)  # noqa: TRY004 - pydantic wants a ValueError
    if value.tzinfo is not None:
        return value.astimezone(UTC)
    return datetime.combine(value.date(), value.time(), UTC)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskModel(_Model):
    """The task of a case. What is left out is as the catalog's task type has it."""

    type: str
    environment: str | None = None
    intent: str = "a policy's test"
    roles: _Names | None = None
    tools: _Names | None = None
    fingerprint: Fingerprint = Fingerprint.SAME
    age: _Duration = timedelta(minutes=1)


class CaseModel(_Model):
    """What is asked, and what has to come out."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    action: Literal["declare", "acquire", "call"]
    agent_class: Annotated[str, Field(alias="class")]
    instance: str = "one"
    task: TaskModel
    tool: str | None = None
    role: str | None = None
    arguments: JsonObject = {}
    labels: _Names = []
    steps: _Names = []
    denials: _Count = 0
    earlier_denials: _Count = 0
    live_leases: _Count = 0
    oldest_lease: _Duration | None = None
    open_anomalies: _Count = 0
    at: Annotated[datetime, BeforeValidator(_aware)] = _WHEN
    expect: Literal["allow", "deny"] | None = None
    """Left out, it is there to be explained, and is no test."""
    because: _Names | None = None
    """The ids of the policies that determine it: these and no others. Left out, only the verdict counts."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.because is not None and self.expect is None:
            message = "because: say with expect what it is a reason for"
            raise ValueError(message)
        if self.action == "call" and (self.tool is None or self.role is not None):
            message = "tool: a call is one of a tool: give tool, and no role"
            raise ValueError(message)
        if self.action == "acquire" and (self.role is None or self.tool is not None):
            message = "role: what is acquired is a role: give role, and no tool"
            raise ValueError(message)
        if self.action == "declare" and (self.role is not None or self.tool is not None):
            message = "task: a declaration has its roles and tools under task: give neither role nor tool"
            raise ValueError(message)
        return self


class CasesModel(_Model):
    """A file of cases."""

    cases: Annotated[list[CaseModel], Field(min_length=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """How one case went."""

    file: str
    line: int
    name: str
    expected: bool
    """Whether the case says what has to come out."""
    passed: bool
    context: Context
    """What was asked."""
    decision: Decision
    text: str
    """What was expected and what came out; empty when it passed."""

    def __str__(self) -> str:
        verdict = "passed" if self.passed else f"FAILED: {self.text}"
        return f"{self.file}:{self.line}: {self.name}: {verdict}"


def run_cases(policies: PolicyEngine, catalog: Catalog, folder: Path) -> list[CaseResult]:
    """Ask the policies for each case of the files below `folder`, in order.

    Raises:
        ConfigError: a file cannot be used; says everything that is wrong with all of them.
    """
    found = all_of(files_below(folder, SUFFIX), lambda path: _read(path, catalog))
    return [_run(policies, catalog, str(path), line, case) for path, line, case in found]


def _read(path: Path, catalog: Catalog) -> list[tuple[Path, int, CaseModel]]:
    node = read_yaml(path)
    known = [field.alias or name for name, field in CaseModel.model_fields.items()]
    known += [*TaskModel.model_fields, *CasesModel.model_fields]
    try:
        model = CasesModel.model_validate(plain(node))
    except ValidationError as error:
        raise ConfigError(problems_of(error, path, node, known)) from error
    cases = [(path, line_of(node, ["cases", number]), case) for number, case in enumerate(model.cases)]
    problems = []
    names: dict[str, int] = {}
    for number, (_, line, case) in enumerate(cases):
        if case.name in names:
            what = f"the case of line {names[case.name]} has this name already: choose another"
            problems.append(Problem(file=str(path), line=line, field=f"cases.{number}.name", what=what))
        names.setdefault(case.name, line)
        for field, what in _unlisted(case, catalog):
            place: list[str | int] = ["cases", number, *field.split(".")]
            problems.append(
                Problem(file=str(path), line=line_of(node, place), field=f"cases.{number}.{field}", what=what)
            )
    if problems:
        raise ConfigError(problems)
    return cases


def _unlisted(case: CaseModel, catalog: Catalog) -> list[tuple[str, str]]:
    """Fields that name what the catalog does not have, or what can be no instance."""
    wrong = []
    named: list[tuple[str, str | None, Sequence[str]]] = [
        ("class", case.agent_class, list(catalog.agent_classes)),
        ("task.type", case.task.type, list(catalog.task_types)),
        ("tool", case.tool, list(catalog.tools)),
        ("role", case.role, list(catalog.credential_roles)),
        *(("task.roles", name, list(catalog.credential_roles)) for name in case.task.roles or ()),
        *(("task.tools", name, list(catalog.tools)) for name in case.task.tools or ()),
        *(("steps", name, [*catalog.tools, *catalog.credential_roles]) for name in case.steps),
    ]
    for field, name, listed in named:
        if name is not None and name not in listed:
            wrong.append(
                (field, f"the catalog has no {name!r}{suggestion(name, listed)}: give a name of the catalog")
            )
    wrong.extend(
        (
            "labels",
            f"there is no label {name!r}{suggestion(name, LABELS)}: give one of {', '.join(sorted(LABELS))}",
        )
        for name in case.labels
        if name not in LABELS
    )
    if not _SEGMENT.fullmatch(case.instance):
        wrong.append(("instance", "give a name of letters, digits and . _ -"))
    return wrong


def _run(policies: PolicyEngine, catalog: Catalog, file: str, line: int, case: CaseModel) -> CaseResult:
    context = _context(catalog, case)
    decision = asked(policies, context, catalog)
    verdict = "allow" if decision.allowed else "deny"
    because = sorted(
        policy.removeprefix(DECISION_PREFIX)
        for policy in decision.policies
        if policy.startswith(DECISION_PREFIX)
    )
    beyond = [policy for policy in decision.policies if not policy.startswith(DECISION_PREFIX)]
    said = f"{verdict} because of {', '.join(because or beyond) or 'nothing'}"
    if decision.text:
        said += f" ({decision.text})"
    text = ""
    if case.expect not in {None, verdict}:
        text = f"expected {case.expect}, got {said}"
    elif ERROR in decision.policies and case.expect is not None and case.because is None:
        text = f"expected {case.expect}, and a policy failed: that is a denial, but not one that was meant: {said}"
    elif case.because is not None and because != sorted(
        name.removeprefix(DECISION_PREFIX) for name in case.because
    ):
        text = f"expected {case.expect} because of {', '.join(case.because) or 'nothing'}, got {said}"
    return CaseResult(
        file=file,
        line=line,
        name=case.name,
        expected=case.expect is not None,
        passed=not text,
        context=context,
        decision=decision,
        text=text,
    )


def _context(catalog: Catalog, case: CaseModel) -> Context:
    agent_class: AgentClass = catalog.agent_classes[case.agent_class]
    trust_domain = agent_class.trust_domain or _NOWHERE
    caller = SpiffeId.parse(f"spiffe://{trust_domain}/agent/{case.agent_class}/{case.instance}")
    task = _task(case, caller, catalog.task_types[case.task.type])
    if case.action == "declare":
        return DeclareContext(
            caller=caller,
            agent_class=case.agent_class,
            task_type=task.task_type,
            intent=task.intent,
            scope=task.scope,
            environment=task.environment,
            at=case.at,
        )
    oldest = None if case.oldest_lease is None else case.at - case.oldest_lease
    if case.role is not None:
        return AcquireContext(
            caller=caller,
            task=task,
            role_name=case.role,
            role=catalog.credential_roles[case.role],
            fingerprint=case.task.fingerprint,
            live_leases=case.live_leases,
            earlier_denials=case.earlier_denials,
            at=case.at,
            chain=_chain(case),
            oldest_lease=oldest,
            open_anomalies=case.open_anomalies,
        )
    tool = catalog.tools[case.tool or ""]
    return CallContext(
        caller=caller,
        task=task,
        tool_name=tool.name,
        tool=tool,
        arguments=case.arguments,
        arguments_digest=digest_of(case.arguments),
        effect=tool.effect(case.arguments),
        fingerprint=case.task.fingerprint,
        live_leases=case.live_leases,
        earlier_denials=case.earlier_denials,
        at=case.at,
        chain=_chain(case),
        oldest_lease=oldest,
        open_anomalies=case.open_anomalies,
    )


def _task(case: CaseModel, caller: SpiffeId, task_type: TaskType) -> Task:
    said = case.task
    created_at = case.at - said.age
    return Task(
        task_id=_TASK,
        owner=caller,
        agent_class=case.agent_class,
        task_type=task_type.name,
        intent=said.intent,
        scope=Scope(
            roles=task_type.roles if said.roles is None else frozenset(said.roles),
            tools=task_type.tools if said.tools is None else frozenset(said.tools),
        ),
        environment=task_type.environment if said.environment is None else said.environment,
        created_at=created_at,
        deadline=created_at + task_type.max_duration,
        heartbeat_interval=task_type.heartbeat,
        heartbeat_due=case.at + task_type.heartbeat,
    )


def _chain(case: CaseModel) -> Chain:
    return Chain(
        length=len(case.steps) + case.denials,
        steps=tuple(case.steps),
        labels=frozenset(case.labels),
        denials=case.denials,
        last=case.steps[-1] if case.steps else "",
    )
