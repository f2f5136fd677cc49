"""Credential roles, as the catalog's files say them."""

from __future__ import annotations

import re
from datetime import timedelta
from types import MappingProxyType
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from broker.config.catalog_tools import PLAIN_RESOURCE, DestinationModel
from broker.config.fields import LONGEST, Duration, Text
from broker.domain.catalog import CredentialRole, IssueMethod, Revocation
from broker.domain.classification import Classification
from broker.domain.effects import Verb
from broker.domain.engines import ENGINES, Engine
from broker.domain.flows import Origin, Writes

LONGEST_UNREVOCABLE: Final = timedelta(minutes=15)

_PARAMETER_NAME: Final = re.compile(r"[a-z0-9_-]{1,64}")
_LONGEST_PARAMETER: Final = 1024


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


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
    effects: Annotated[list[Verb], Field(min_length=1)] = list(Verb)
    resource: Annotated[str, Field(pattern=PLAIN_RESOURCE, max_length=256)] = ""
    origin: Origin = Origin.TRUSTED
    writes: Writes = Writes.NOTHING
    canary: Annotated[bool, Field(strict=True)] = False

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

    def domain(self, name: str) -> CredentialRole:
        """As the domain has it."""
        return CredentialRole(
            name=name,
            description=self.description,
            engine=self.engine,
            mount=self.mount,
            path=self.path,
            method=self.method,
            parameters=MappingProxyType(dict(self.parameters)),
            classification=self.classification,
            destination=self.destination.domain(),
            ttl=self.ttl,
            max_ttl=self.max_ttl,
            revocation=self.revocation,
            verified_by=self.verified_by,
            verbs=frozenset(self.effects),
            resource=self.resource,
            origin=self.origin,
            writes=self.writes,
            canary=self.canary,
        )


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
