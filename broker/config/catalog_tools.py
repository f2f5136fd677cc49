"""Tools, what they do, and the allowed chains of task types, as the catalog's files say it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Annotated, Any, Final, Self

import jsonschema_rs
from pydantic import BaseModel, ConfigDict, Field, model_validator

from broker.config.fields import Duration, Name, Text
from broker.domain.catalog import AttributeType, Destination, Obligations, Tool
from broker.domain.chain_pattern import PatternError, compile_pattern
from broker.domain.chain_rule import ChainRule, StepLimit
from broker.domain.classification import Classification
from broker.domain.effects import Verb
from broker.domain.flows import Origin, Reads, Writes

_ARGUMENT: Final = r"[A-Za-z_][A-Za-z0-9_]{0,63}"
RESOURCE: Final = rf"^$|^([A-Za-z0-9_.:-]+|\{{{_ARGUMENT}\}})(/([A-Za-z0-9_.:-]+|\{{{_ARGUMENT}\}}))*$"
PLAIN_RESOURCE: Final = r"^([A-Za-z0-9_.:-]+(/[A-Za-z0-9_.:-]+)*)?$"
_TYPES: Final = {
    "string": AttributeType.STRING,
    "integer": AttributeType.INTEGER,
    "boolean": AttributeType.BOOLEAN,
}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DestinationModel(_Model):
    """Where a credential or a tool is meant to be used."""

    host: Annotated[str, Field(min_length=1, max_length=253)]
    port: Annotated[int, Field(ge=1, le=65535, strict=True)]
    scheme: Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]{0,31}$")]

    def domain(self) -> Destination:
        """As the domain has it."""
        return Destination(host=self.host, port=self.port, scheme=self.scheme)


class ReadsModel(_Model):
    """What a tool reads."""

    classification: Classification = Classification.PUBLIC
    origin: Origin = Origin.TRUSTED


class ObligationsModel(_Model):
    """What whoever runs a tool has to do with what it returns, or needs for it."""

    redact: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=128)], ...], Field(max_length=64)
    ] = ()
    limit_rows: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] | None = None
    credential_role: Name | None = None


def _nothing() -> dict[str, Any]:
    return {"type": "object", "properties": {}, "additionalProperties": False}


class ToolModel(_Model):
    """What an agent can call."""

    description: Text = ""
    effect: Verb
    resource: Annotated[str, Field(pattern=RESOURCE, max_length=256)]
    destination: DestinationModel | None = None
    reads: ReadsModel = ReadsModel()
    writes: Writes = Writes.NOTHING
    arguments: dict[str, Any] = Field(default_factory=_nothing)
    attributes: Annotated[
        tuple[Annotated[str, Field(pattern=rf"^{_ARGUMENT}$")], ...], Field(max_length=32)
    ] = ()
    obligations: ObligationsModel = ObligationsModel()
    canary: Annotated[bool, Field(strict=True)] = False

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        _check_schema(self.arguments)
        named = re.findall(r"\{(.*?)\}", self.resource)
        for name in (*named, *self.attributes):
            if self.attribute_type(name) is None:
                message = (
                    f"arguments: {name} is named, so it needs a property of type string, integer, boolean or a list of "
                    "strings"
                )
                raise ValueError(message)
        for name in named:
            if name not in self.arguments.get("required", []) or self.attribute_type(name) not in {
                AttributeType.STRING,
                AttributeType.INTEGER,
            }:
                message = f"resource: {{{name}}} has to be a required argument of type string or integer"
                raise ValueError(message)
        if self.writes is Writes.EXTERNAL and self.destination is None:
            message = "destination: a tool that writes to the outside has one"
            raise ValueError(message)
        return self

    def attribute_type(self, name: str) -> AttributeType | None:
        """What the argument is to policies; None where they cannot look at it."""
        found = self.arguments.get("properties", {}).get(name)
        match found:
            case {"type": "array", "items": {"type": "string"}}:
                return AttributeType.STRINGS
            case {"type": str(kind)}:
                return _TYPES.get(kind)
            case _:
                return None

    def domain(self, name: str) -> Tool:
        """As the domain has it."""
        types = {one: self.attribute_type(one) for one in self.attributes}
        return Tool(
            name=name,
            description=self.description,
            verb=self.effect,
            resource=self.resource,
            destination=None if self.destination is None else self.destination.domain(),
            reads=Reads(classification=self.reads.classification, origin=self.reads.origin),
            writes=self.writes,
            arguments=MappingProxyType(self.arguments),
            attributes=MappingProxyType({one: kind for one, kind in types.items() if kind is not None}),
            obligations=Obligations(
                redact=self.obligations.redact,
                limit_rows=self.obligations.limit_rows,
                credential_role=self.obligations.credential_role,
            ),
            canary=self.canary,
        )


def _check_schema(schema: Mapping[str, Any]) -> None:
    """An object, closed, and nothing that is fetched from elsewhere."""
    if schema.get("type") != "object" or not isinstance(schema.get("properties", {}), dict):
        message = "arguments: give a JSON Schema of type object with properties"
        raise ValueError(message)
    if schema.get("additionalProperties") is not False:
        message = "arguments: say additionalProperties: false: what is not listed is refused"
        raise ValueError(message)
    if any(not ref.startswith("#") for ref in _references(schema)):
        message = "arguments: $ref may point into the schema only (#/...)"
        raise ValueError(message)
    try:
        jsonschema_rs.meta.validate(dict(schema))
        jsonschema_rs.validator_for(dict(schema))
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        message = f"arguments: not a JSON Schema: {str(error).splitlines()[0]}"
        raise ValueError(message) from None


def _references(node: object) -> Iterable[str]:
    match node:
        case dict():
            for key, value in node.items():
                if key in {"$ref", "$dynamicRef"}:
                    yield str(value)
                yield from _references(value)
        case list():
            for value in node:
                yield from _references(value)
        case _:
            return


class StepLimitModel(_Model):
    """How often a step may be taken."""

    at_most: Annotated[int, Field(ge=0, le=100_000, strict=True)]
    per: Duration | None = None

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.per is not None and not timedelta(seconds=1) <= self.per <= timedelta(hours=24):
            message = "per: give 1s to 24h"
            raise ValueError(message)
        return self


class ChainModel(_Model):
    """The allowed chain of a task type."""

    pattern: Annotated[str, Field(max_length=2000)] = ".*"
    limits: Annotated[dict[Name, tuple[StepLimitModel, ...]], Field(max_length=64)] = {}

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        try:
            compile_pattern(self.pattern)
        except PatternError as error:
            message = f"pattern: {error}"
            raise ValueError(message) from None
        return self

    @property
    def names(self) -> frozenset[str]:
        """The tools and roles that it names."""
        return compile_pattern(self.pattern).names | frozenset(self.limits)

    def domain(self) -> ChainRule:
        """As the domain has it."""
        return ChainRule(
            pattern=compile_pattern(self.pattern),
            limits=MappingProxyType(
                {
                    name: tuple(StepLimit(at_most=one.at_most, per=one.per) for one in limits)
                    for name, limits in self.limits.items()
                }
            ),
        )
