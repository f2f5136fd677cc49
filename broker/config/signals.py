"""The section `signals` of the settings: whose word from outside is taken, for how much, and about whom.

What always holds of what is read: a subject of a transmitter stands for agent instances alone, and every transmitter is an issuer
of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from broker.config.fields import Name
from broker.domain.findings import Severity
from broker.domain.security_events import DEFAULT_EVENTS, EVENTS, EventRule, Transmitter
from broker.domain.signals import ReporterBounds, SignalKind
from broker.domain.spiffe import AgentIdentity, InvalidSpiffeIdError, SpiffeId, names_an_agent

_MOST: Final = 256
_MOST_SUBJECTS: Final = 10_000
_URI: Final = re.compile(r"[a-z][a-z0-9+.-]*:[\x21-\x7e]{1,500}")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Bounded(_Model):
    """How much somebody's word weighs."""

    most_severe: Severity = Severity.HIGH
    per_minute: Annotated[int, Field(ge=1, le=100_000)] = 60
    agent_classes: frozenset[Name] = frozenset()

    @property
    def bounds(self) -> ReporterBounds:
        """The same, as the use case asks for it."""
        return ReporterBounds(
            most_severe=self.most_severe, per_minute=self.per_minute, agent_classes=self.agent_classes
        )


class ReporterSettings(_Bounded):
    """One who reports with an SVID, or with a `/` at its end every one below it."""

    id: str

    @field_validator("id")
    @classmethod
    def _id(cls, text: str) -> str:
        try:
            spiffe_id = SpiffeId.parse(text.removesuffix("/"))
        except InvalidSpiffeIdError as error:
            raise ValueError(str(error)) from error
        if names_an_agent(spiffe_id):
            message = "an agent never reports: give a path outside /agent"
            raise ValueError(message)
        return text

    def names(self, reporter: str) -> bool:
        """Whether `reporter` is meant."""
        return reporter.startswith(self.id) if self.id.endswith("/") else reporter == self.id


class SubjectSettings(_Model):
    """What one of a transmitter's names stands for."""

    subject: Annotated[str, Field(min_length=1, max_length=512)]
    instance: str

    @field_validator("instance")
    @classmethod
    def _instance(cls, text: str) -> str:
        _agent(text)
        return text


class EventSettings(_Model):
    """As what an event of a transmitter counts."""

    event: str
    kind: SignalKind
    severity: Severity
    confidence: Annotated[float, Field(gt=0, le=1)]

    @field_validator("event")
    @classmethod
    def _event(cls, text: str) -> str:
        uri = EVENTS.get(text, text)
        if not _URI.fullmatch(uri):
            message = f"give the URI of an event, or one of {', '.join(EVENTS)}"
            raise ValueError(message)
        return uri


class TransmitterSettings(_Bounded):
    """An issuer of Security Event Tokens."""

    issuer: Annotated[str, Field(pattern=r"^https://[\x21-\x7e]+$", max_length=512)]
    audience: Annotated[str, Field(min_length=1, max_length=512)]
    jwks_file: Path
    template: str | None = None
    subjects: Annotated[tuple[SubjectSettings, ...], Field(max_length=_MOST_SUBJECTS)] = ()
    events: Annotated[tuple[EventSettings, ...], Field(max_length=_MOST)] | None = None

    @field_validator("template")
    @classmethod
    def _template(cls, text: str | None) -> str | None:
        if text is not None:
            agent = _agent(text.replace("{id}", "x"))
            if text.count("{id}") != 1 or "{id}" not in text.rpartition("/")[2]:
                message = f"give {{id}} once, in the instance's place, as in {agent.trust_domain}/agent/CLASS/{{id}}"
                raise ValueError(message)
        return text

    @model_validator(mode="after")
    def _once(self) -> Self:
        if len({one.subject for one in self.subjects}) < len(self.subjects):
            message = "subjects: one of them stands twice: keep one"
            raise ValueError(message)
        if self.events is not None and len({one.event for one in self.events}) < len(self.events):
            message = "events: one of them stands twice: keep one"
            raise ValueError(message)
        return self

    def transmitter(self) -> Transmitter:
        """The same, as the use case asks for it."""
        return Transmitter(
            issuer=self.issuer,
            audience=self.audience,
            bounds=self.bounds,
            events=_rules(self.events),
            template=self.template or "",
            table={one.subject: SpiffeId.parse(one.instance) for one in self.subjects},
        )


class SignalSettings(_Bounded):
    """Reporters and transmitters; what stands here of weight is for reporters that are not named."""

    reporters: Annotated[tuple[ReporterSettings, ...], Field(max_length=_MOST)] = ()
    listen: str | None = None
    transmitters: Annotated[tuple[TransmitterSettings, ...], Field(max_length=_MOST)] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.listen is None) != (not self.transmitters):
            message = "listen: give it together with transmitters, or neither"
            raise ValueError(message)
        if len({one.issuer for one in self.transmitters}) < len(self.transmitters):
            message = "transmitters: an issuer stands twice: keep one"
            raise ValueError(message)
        return self

    def bounds_of(self, reporter: str) -> ReporterBounds:
        """How much the word of a reporter weighs: as the first entry that names it says."""
        named = [one.bounds for one in self.transmitters if one.issuer == reporter]
        named += [one.bounds for one in self.reporters if one.names(reporter)]
        return named[0] if named else self.bounds

    def below(self, folder: Path) -> Self:
        """The same, with paths relative to `folder`."""
        absolute = tuple(
            one.model_copy(update={"jwks_file": folder / one.jwks_file}) for one in self.transmitters
        )
        return self.model_copy(update={"transmitters": absolute})


def _rules(events: tuple[EventSettings, ...] | None) -> Mapping[str, EventRule]:
    if events is None:
        return DEFAULT_EVENTS
    return {
        one.event: EventRule(kind=one.kind, severity=one.severity, confidence=one.confidence)
        for one in events
    }


def _agent(text: str) -> SpiffeId:
    try:
        instance = SpiffeId.parse(text)
    except InvalidSpiffeIdError as error:
        raise ValueError(str(error)) from error
    if AgentIdentity.of(instance) is None:
        message = "give an agent instance: spiffe://<trust domain>/agent/<class>/<instance>"
        raise ValueError(message)
    return instance
