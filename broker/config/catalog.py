"""Reads the catalog: one YAML file, or a folder of them that are taken together.

What always holds: a `Catalog` exists only when every name resolves and every bound is kept; otherwise everything
that is wrong is said at once, each with file, line and remedy. The JSON Schema is made from the same models.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml.comments import CommentedMap

from broker.config.agent_classes import ATTESTATIONS, AgentClassModel, confused, misplaced
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
    AgentClass,
    Catalog,
    CredentialRole,
    Destination,
    IssueMethod,
    Revocation,
    TaskType,
)
from broker.domain.classification import Classification
from broker.domain.engines import ENGINES, Engine

LONGEST_UNREVOCABLE: Final = timedelta(minutes=15)

_PARAMETER_NAME: Final = re.compile(r"[a-z0-9_-]{1,64}")
_LONGEST_PARAMETER: Final = 1024


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DestinationModel(_Model):
    """Where a credential is meant to be used."""

    host: Annotated[str, Field(min_length=1, max_length=253)]
    port: Annotated[int, Field(ge=1, le=65535, strict=True)]
    scheme: Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]{0,31}$")]


class CredentialRoleModel(_Model):
    """A Vault dynamic-secret role that tasks may draw on."""

    description: Text = ""
    engine: Engine
    mount: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$", max_length=128)]
    path: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$", max_length=256)]
    method: IssueMethod = IssueMethod.READ
    parameters: Annotated[dict[str, str], Field(max_length=32)] = {}
    classification: Classification
    destination: DestinationModel
    ttl: Duration
    max_ttl: Duration
    revocation: Revocation
    accept_unrevocable: Annotated[bool, Field(strict=True)] = False
    verified_by: str | None = None

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if not timedelta(seconds=5) <= self.ttl <= self.max_ttl:
            message = "ttl: give 5s up to max_ttl"
            raise ValueError(message)
        if self.max_ttl > LONGEST:
            message = "max_ttl: at most 24h"
            raise ValueError(message)
        if ".." in self.path.split("/") or "." in self.path.split("/"):
            message = "path: no relative segments"
            raise ValueError(message)
        if self.parameters and self.method is IssueMethod.READ:
            message = "parameters: a read takes none; use method: update"
            raise ValueError(message)
        for name, value in self.parameters.items():
            _check_parameter(name, value)
        if self.revocation is Revocation.REVOCABLE and not ENGINES[self.engine].can_revoke:
            message = (
                f"revocation: what {self.engine.value} hands out cannot be revoked: say unrevocable, and "
                "accept_unrevocable: true if it must be"
            )
            raise ValueError(message)
        if self.revocation is Revocation.UNREVOCABLE:
            if not self.accept_unrevocable:
                message = (
                    "revocation: a credential that cannot be revoked is refused; if it must be, say "
                    "accept_unrevocable: true and keep max_ttl at 15m or less"
                )
                raise ValueError(message)
            if self.max_ttl > LONGEST_UNREVOCABLE:
                message = "max_ttl: at most 15m for a credential that cannot be revoked"
                raise ValueError(message)
        return self


def _check_parameter(name: str, value: str) -> None:
    """What Vault's policies can say exactly, and nothing that means more there than it says."""
    if not _PARAMETER_NAME.fullmatch(name):
        message = "parameters: give names of a-z 0-9 _ -, up to 64 long: Vault's policies know no others"
        raise ValueError(message)
    if len(value) > _LONGEST_PARAMETER:
        message = f"parameters: {name}: give at most {_LONGEST_PARAMETER} characters"
        raise ValueError(message)
    if value.startswith("*") or value.endswith("*") or "${" in value:
        message = (
            f"parameters: {name}: no * at either end and no ${{: a policy would allow more, or something else"
        )
        raise ValueError(message)


class TaskTypeModel(_Model):
    """A kind of work."""

    description: Text = ""
    environment: Name
    roles: Annotated[list[Name], Field(max_length=64)] = []
    max_duration: Duration
    heartbeat: Annotated[Duration, Field(json_schema_extra={"default": "10s"})] = timedelta(seconds=10)
    max_leases: Annotated[int, Field(ge=1, le=500, strict=True)] = 20

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


_SECTIONS: Final = ("agent_classes", "task_types", "credential_roles")
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


def load_catalog(path: Path, *, trust_domain: str | None = None) -> Catalog:
    """Read and check the catalog.

    Args:
        path: a file, or a folder of them.
        trust_domain: the broker's own, where classes are that name none. Without it they are nobody's: enough to
            look at a catalog, not to admit anybody.

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
    classes = [(file, node, model.agent_classes) for file, node, model in models]
    problems += misplaced(classes)
    problems += confused(classes)
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
        )
        for name, model in _merged(models, "task_types").items()
    }
    roles = {
        name: CredentialRole(
            name=name,
            description=model.description,
            engine=model.engine,
            mount=model.mount,
            path=model.path,
            method=model.method,
            parameters=MappingProxyType(dict(model.parameters)),
            classification=model.classification,
            destination=Destination(
                host=model.destination.host, port=model.destination.port, scheme=model.destination.scheme
            ),
            ttl=model.ttl,
            max_ttl=model.max_ttl,
            revocation=model.revocation,
            verified_by=model.verified_by,
        )
        for name, model in _merged(models, "credential_roles").items()
    }
    content = {
        section: {
            name: model.model_dump(mode="json") for name, model in sorted(_merged(models, section).items())
        }
        for section in _SECTIONS
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return Catalog(
        agent_classes=MappingProxyType(agent_classes),
        task_types=MappingProxyType(task_types),
        credential_roles=MappingProxyType(roles),
        digest=digest,
    )


def _merged(models: list[CatalogModel], section: str) -> Mapping[str, Any]:
    return {name: value for model in models for name, value in getattr(model, section).items()}
