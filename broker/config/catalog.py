"""Reads the catalog: one YAML file, or a folder of them that are taken together.

What always holds: a `Catalog` exists only when every name resolves and every bound is kept; otherwise everything
that is wrong is said at once, each with file, line and remedy. The JSON Schema is made from the same models.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml.comments import CommentedMap

from broker.config.agent_classes import ATTESTATIONS, AgentClassModel, confused, misplaced
from broker.config.catalog_answers import (
    AnswerModel,
    answers_of,
    disordered,
    unknown_receivers,
    unlisted,
)
from broker.config.catalog_roles import CredentialRoleModel
from broker.config.catalog_tools import (
    ChainModel,
    DestinationModel,
    ObligationsModel,
    ReadsModel,
    StepLimitModel,
    ToolModel,
)
from broker.config.fields import LONGEST, Duration, Name, Text
from broker.config.reading import (
    ConfigError,
    Problem,
    line_of,
    plain,
    problems_of,
    read_yaml,
    suggestion,
)
from broker.domain.catalog import (
    MOST_ACTIONS,
    AgentClass,
    AttributeType,
    Catalog,
    IssueMethod,
    TaskType,
)
from broker.domain.engines import ENGINES


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskTypeModel(_Model):
    """A kind of work."""

    description: Text = ""
    environment: Name
    roles: Annotated[list[Name], Field(max_length=64)] = []
    max_duration: Duration
    heartbeat: Annotated[Duration, Field(json_schema_extra={"default": "10s"})] = timedelta(seconds=10)
    max_leases: Annotated[int, Field(ge=1, le=500, strict=True)] = 20
    tools: Annotated[list[Name], Field(max_length=64)] = []
    chain: ChainModel = ChainModel()
    max_actions: Annotated[int, Field(ge=1, le=10_000, strict=True)] = MOST_ACTIONS

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if not timedelta(seconds=1) <= self.heartbeat <= timedelta(minutes=5):
            message = "heartbeat: give 1s to 5m"
            raise ValueError(message)
        if not timedelta(seconds=1) <= self.max_duration <= LONGEST:
            message = "max_duration: give 1s to 24h"
            raise ValueError(message)
        return self


def _one(value: object) -> object:
    """`true` and `1.0` equal 1, but are not what is asked for."""
    return value if type(value) is int else None


class CatalogModel(_Model):
    """One catalog file. Several files in a folder are taken together."""

    version: Annotated[Literal[1], BeforeValidator(_one)]
    agent_classes: dict[Name, AgentClassModel] = {}
    task_types: dict[Name, TaskTypeModel] = {}
    credential_roles: dict[Name, CredentialRoleModel] = {}
    tools: dict[Name, ToolModel] = {}
    answers: Annotated[list[AnswerModel], Field(max_length=200)] = []


_SECTIONS: Final = ("agent_classes", "task_types", "credential_roles", "tools")
_KNOWN_KEYS: Final = sorted(
    {
        key
        for model in (
            CatalogModel,
            AgentClassModel,
            *ATTESTATIONS,
            TaskTypeModel,
            CredentialRoleModel,
            DestinationModel,
            ToolModel,
            ReadsModel,
            ObligationsModel,
            ChainModel,
            StepLimitModel,
            AnswerModel,
        )
        for key in model.model_fields
    }
)


def json_schema() -> str:
    """The catalog's JSON Schema, as it is published."""
    schema = CatalogModel.model_json_schema()
    for section in _SECTIONS:  # other names are refused
        schema["properties"][section]["additionalProperties"] = False
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Tasklease catalog"
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def load_catalog(
    path: Path, *, trust_domain: str | None = None, receivers: Collection[str] | None = None
) -> Catalog:
    """Read and check the catalog.

    Args:
        path: a file, or a folder of them.
        trust_domain: the broker's own, where classes are that name none. Without it they are nobody's: enough to
            look at a catalog, not to admit anybody.
        receivers: those that the settings have, for `tell` to name. Without them, whoever is named is taken.

    Raises:
        ConfigError: everything that is wrong with it.
    """
    files = catalog_files(path)
    problems: list[Problem] = []
    models: list[tuple[Path, CommentedMap, CatalogModel]] = []
    for file in files:
        try:
            node = read_yaml(file)
        except ConfigError as error:
            problems += error.problems
            continue
        try:
            models.append((file, node, CatalogModel.model_validate(plain(node))))
        except ValidationError as error:
            problems += problems_of(error, file, node, _KNOWN_KEYS)
    if problems:
        raise ConfigError(problems)
    problems += _duplicates(models)
    problems += _unresolved(models)
    problems += _bad_verifiers(models)
    problems += _two_of_a_name(models)
    problems += _canaries_at_work(models)
    classes = [(file, node, model.agent_classes) for file, node, model in models]
    problems += misplaced(classes)
    problems += confused(classes)
    answers = [(file, node, model.answers) for file, node, model in models]
    problems += disordered(answers)
    problems += unlisted(
        answers,
        agent_classes={name for _, _, model in models for name in model.agent_classes},
        task_types={name for _, _, model in models for name in model.task_types},
    )
    problems += [] if receivers is None else unknown_receivers(answers, receivers)
    if problems:
        raise ConfigError(problems)
    return _catalog([model for _, _, model in models], trust_domain)


def catalog_files(path: Path) -> list[Path]:
    """The catalog's files, in order.

    Raises:
        ConfigError: there are none.
    """
    try:
        if path.is_dir():
            yaml = (file for file in path.iterdir() if file.suffix in {".yaml", ".yml"})
            files = sorted(file for file in yaml if file.is_file())
        else:
            files = [path] if path.exists() else []
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        raise ConfigError([Problem(file=str(path), line=0, field="", what=what)]) from error
    if not files:
        what = "there is no catalog here: give a .yaml file or a folder of them"
        raise ConfigError([Problem(file=str(path), line=0, field="", what=what)])
    return files


def _duplicates(models: list[tuple[Path, CommentedMap, CatalogModel]]) -> list[Problem]:
    problems = []
    seen: dict[tuple[str, str], str] = {}
    for file, node, model in models:
        for section in _SECTIONS:
            for name in getattr(model, section):
                line = line_of(node, [section, name])
                first = seen.setdefault((section, name), f"{file}:{line}")
                if first != f"{file}:{line}":
                    what = f"stands in {first} as well: keep one"
                    problems.append(Problem(file=str(file), line=line, field=f"{section}.{name}", what=what))
    return problems


def _unresolved(models: list[tuple[Path, CommentedMap, CatalogModel]]) -> list[Problem]:
    task_types = {name for _, _, model in models for name in model.task_types}
    roles = {name for _, _, model in models for name in model.credential_roles}
    tools = {name for _, _, model in models for name in model.tools}
    problems = []
    for file, node, model in models:
        references = (
            [
                (("agent_classes", owner, "task_types", index), name, task_types, "task type")
                for owner, agent_class in model.agent_classes.items()
                for index, name in enumerate(agent_class.task_types)
            ]
            + [
                (("task_types", owner, "roles", index), name, roles, "credential role")
                for owner, task_type in model.task_types.items()
                for index, name in enumerate(task_type.roles)
            ]
            + [
                (("credential_roles", owner, "verified_by"), role.verified_by, roles, "credential role")
                for owner, role in model.credential_roles.items()
                if role.verified_by is not None
            ]
            + [
                (("task_types", owner, "tools", index), name, tools, "tool")
                for owner, task_type in model.task_types.items()
                for index, name in enumerate(task_type.tools)
            ]
            + [
                (
                    ("task_types", owner, "chain"),
                    name,
                    {*task_type.tools, *task_type.roles},
                    "tool or role of it",
                )
                for owner, task_type in model.task_types.items()
                for name in sorted(task_type.chain.names)
            ]
            + [
                (("tools", owner, "obligations", "credential_role"), role, roles, "credential role")
                for owner, tool in model.tools.items()
                if (role := tool.obligations.credential_role) is not None
            ]
        )
        for location, name, known, what in references:
            if name not in known:
                problems.append(
                    Problem(
                        file=str(file),
                        line=line_of(node, location),
                        field=".".join(map(str, location)),
                        what=f"there is no {what} {name!r}{suggestion(name, known)}: add it or correct the name",
                    )
                )
    return problems


def _two_of_a_name(models: list[tuple[Path, CommentedMap, CatalogModel]]) -> list[Problem]:
    """In a chain a name is one step, and in policies an argument has one type."""
    roles = {name for _, _, model in models for name in model.credential_roles}
    types: dict[str, tuple[AttributeType | None, str]] = {}
    problems = []
    for file, node, model in models:
        for owner, tool in model.tools.items():
            line = line_of(node, ["tools", owner])
            if owner in roles:
                what = "a credential role has this name: chains could not tell them apart"
                problems.append(Problem(file=str(file), line=line, field=f"tools.{owner}", what=what))
            for name in tool.attributes:
                kind = tool.attribute_type(name)
                first, whose = types.setdefault(name, (kind, owner))
                if first is not kind:
                    what = f"{name} is of another type at tool {whose!r}: policies need one, so rename it"
                    where = f"tools.{owner}.attributes"
                    problems.append(Problem(file=str(file), line=line, field=where, what=what))
    return problems


def _canaries_at_work(models: list[tuple[Path, CommentedMap, CatalogModel]]) -> list[Problem]:
    """Whoever works as they should must never come by a canary."""
    canaries = {
        name for _, _, model in models for name, role in model.credential_roles.items() if role.canary
    }
    problems = []
    for file, node, model in models:
        for owner, tool in model.tools.items():
            if tool.obligations.credential_role in canaries and not tool.canary:
                location = ("tools", owner, "obligations", "credential_role")
                what = f"{tool.obligations.credential_role!r} is a canary: honest work with this tool would touch it"
                problems.append(
                    Problem(file=str(file), line=line_of(node, location), field=".".join(location), what=what)
                )
    return problems


def _bad_verifiers(models: list[tuple[Path, CommentedMap, CatalogModel]]) -> list[Problem]:
    """Whoever verifies is asked for by the broker alone, and asks a backend of the same kind."""
    roles = {name: role for _, _, model in models for name, role in model.credential_roles.items()}
    used = {name for _, _, model in models for task in model.task_types.values() for name in task.roles}
    problems = []
    for file, node, model in models:
        for owner, role in model.credential_roles.items():
            if role.verified_by is None or (verifier := roles.get(role.verified_by)) is None:
                continue
            what = ""
            if not ENGINES[role.engine].account_field:
                what = f"what {role.engine.value} hands out is checked by Vault's lookup alone: leave it out"
            elif verifier.engine is not role.engine:
                what = f"{role.verified_by!r} is of engine {verifier.engine.value}, not {role.engine.value}"
            elif role.verified_by in used:
                what = f"{role.verified_by!r} is a role of tasks as well: make one for the broker alone"
            elif verifier.method is not IssueMethod.READ:
                what = f"{role.verified_by!r} has to be one that is read (method: read)"
            if what:
                location = ("credential_roles", owner, "verified_by")
                line = line_of(node, location)
                problems.append(Problem(file=str(file), line=line, field=".".join(location), what=what))
    return problems


def _catalog(models: list[CatalogModel], trust_domain: str | None) -> Catalog:
    agent_classes = {
        name: AgentClass(
            name=name,
            trust_domain=model.trust_domain or trust_domain,
            description=model.description,
            task_types=frozenset(model.task_types),
            max_tasks=model.max_tasks,
            attestation=model.attestation.domain(),
            id_template=model.spiffe_id,
            x509_svid_ttl=model.x509_svid_ttl,
            jwt_svid_ttl=model.jwt_svid_ttl,
            instances=model.instances,
            max_instances=model.max_instances,
            ready=model.ready,
            parent=model.parent or "",
        )
        for name, model in _merged(models, "agent_classes").items()
    }
    task_types = {
        name: TaskType(
            name=name,
            description=model.description,
            environment=model.environment,
            roles=frozenset(model.roles),
            max_duration=model.max_duration,
            heartbeat=model.heartbeat,
            max_leases=model.max_leases,
            tools=frozenset(model.tools),
            chain=model.chain.domain(),
            max_actions=model.max_actions,
        )
        for name, model in _merged(models, "task_types").items()
    }
    roles = {name: model.domain(name) for name, model in _merged(models, "credential_roles").items()}
    answers = [rule for model in models for rule in model.answers]
    content: dict[str, object] = {
        section: {
            name: model.model_dump(mode="json") for name, model in sorted(_merged(models, section).items())
        }
        for section in _SECTIONS
    }
    content["answers"] = [rule.model_dump(mode="json") for rule in answers]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return Catalog(
        agent_classes=MappingProxyType(agent_classes),
        task_types=MappingProxyType(task_types),
        credential_roles=MappingProxyType(roles),
        tools=MappingProxyType(
            {name: model.domain(name) for name, model in _merged(models, "tools").items()}
        ),
        answers=answers_of(answers),
        digest=digest,
    )


def _merged(models: list[CatalogModel], section: str) -> Mapping[str, Any]:
    return {name: value for model in models for name, value in getattr(model, section).items()}
