"""Security Event Tokens (RFC 8417): what an issuer says happened, and what that is here.

What always holds: only an issuer that the settings name is listened to; its subjects stand for instances as the settings say,
and a subject that could be read in two ways stands for nobody.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, NoReturn

from broker.domain.findings import Severity
from broker.domain.identifiers import TaskId
from broker.domain.signals import (
    CLOCKS_DIFFER,
    OLDEST,
    ReporterBounds,
    Signal,
    SignalKind,
    as_one_line,
)
from broker.domain.spiffe import AgentIdentity, InvalidSpiffeIdError, SpiffeId

_CAEP: Final = "https://schemas.openid.net/secevent/caep/event-type/"
_RISC: Final = "https://schemas.openid.net/secevent/risc/event-type/"
EVENTS: Final[Mapping[str, str]] = {
    "session-revoked": _CAEP + "session-revoked",
    "credential-change": _CAEP + "credential-change",
    "account-disabled": _RISC + "account-disabled",
    "account-purged": _RISC + "account-purged",
    "credential-compromise": _RISC + "credential-compromise",
    "account-credential-change-required": _RISC + "account-credential-change-required",
}
"""Short names, for the settings, and what they stand for on the wire."""

_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_TASK: Final = re.compile(r"[a-z0-9-]{1,64}")
_WHOM: Final = frozenset({"user", "device", "application"})
_NOBODY: Final = "has a sub_id that stands for no instance here"


class SetFault(StrEnum):
    """What a transmitter is told: the codes of RFC 8935, section 2.4."""

    INVALID_REQUEST = "invalid_request"
    INVALID_KEY = "invalid_key"
    INVALID_ISSUER = "invalid_issuer"
    INVALID_AUDIENCE = "invalid_audience"
    ACCESS_DENIED = "access_denied"


class SetRefusedError(Exception):
    """A token that is not taken, and would not be if it came again. The text repeats nothing of it."""

    def __init__(self, fault: SetFault, description: str) -> None:
        super().__init__(description)
        self.fault = fault
        self.description = description


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityEvent:
    """A token whose signature, issuer, audience and age were checked."""

    issuer: str
    jti: str
    key_id: str
    issued_at: datetime
    happened_at: object = None
    """`toe`, as it was."""
    subject: object = None
    """`sub_id`, as it was."""
    events: Mapping[str, Mapping[str, object]]
    """By the URI of what happened; one at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRule:
    """As what an event counts."""

    kind: SignalKind
    severity: Severity
    confidence: float


DEFAULT_EVENTS: Final[Mapping[str, EventRule]] = {
    EVENTS["session-revoked"]: EventRule(
        kind=SignalKind.SESSION_REVOKED, severity=Severity.HIGH, confidence=0.9
    ),
    EVENTS["credential-change"]: EventRule(
        kind=SignalKind.CREDENTIAL_CHANGE, severity=Severity.MEDIUM, confidence=0.7
    ),
    EVENTS["account-disabled"]: EventRule(
        kind=SignalKind.ACCOUNT_DISABLED, severity=Severity.CRITICAL, confidence=0.9
    ),
    EVENTS["account-purged"]: EventRule(
        kind=SignalKind.ACCOUNT_DISABLED, severity=Severity.CRITICAL, confidence=0.9
    ),
    EVENTS["credential-compromise"]: EventRule(
        kind=SignalKind.CREDENTIAL_EXPOSURE, severity=Severity.HIGH, confidence=0.9
    ),
    EVENTS["account-credential-change-required"]: EventRule(
        kind=SignalKind.CREDENTIAL_CHANGE, severity=Severity.MEDIUM, confidence=0.7
    ),
}
"""What counts where the settings say nothing. Any other event is taken and ignored, as RFC 8417 has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transmitter:
    """An issuer that is listened to."""

    issuer: str
    audience: str
    """As which it knows this broker."""
    bounds: ReporterBounds = field(default_factory=ReporterBounds)
    events: Mapping[str, EventRule] = field(default_factory=lambda: DEFAULT_EVENTS)
    template: str = ""
    """A SPIFFE ID with `{id}` in it, in place of which an opaque id or the `sub` of an `iss_sub` is put."""
    table: Mapping[str, SpiffeId] = field(default_factory=dict)
    """What its names stand for; goes before the template."""

    def signal_of(self, event: SecurityEvent, now: datetime) -> Signal | None:
        """What the event is here; None where it is none that counts. Of several the worst.

        Raises:
            SetRefusedError: it is about nobody who can be told.
        """
        known = [(self.events[uri], payload) for uri, payload in event.events.items() if uri in self.events]
        if not known:
            return None
        rule, payload = max(known, key=lambda one: (one[0].severity.rank, one[0].confidence))
        subject = payload.get("subject") if event.subject is None else event.subject
        instance, task_id = self._subject(subject)
        return Signal(
            reporter=self.issuer,
            event_id=event.jti,
            kind=rule.kind,
            severity=rule.severity,
            confidence=rule.confidence,
            instance=instance,
            task_id=task_id,
            happened=as_one_line(_words(payload)),
            at=_moment(payload.get("event_timestamp", event.happened_at), now) or event.issued_at,
        )

    def _subject(self, subject: object) -> tuple[SpiffeId, TaskId | None]:
        if not isinstance(subject, Mapping):
            _refuse("has no sub_id")
        if subject.get("format", "complex") != "complex":
            return self._instance(subject), None
        members = {name: value for name, value in subject.items() if name != "format"}
        if not members.keys() <= _WHOM | {"session"}:
            _refuse("has a sub_id with more in it than user, device, application and session")
        session = members.pop("session", None)
        named = {self._instance(member) for member in members.values()}
        if len(named) != 1:
            _refuse("has a sub_id that does not name exactly one instance")
        return named.pop(), None if session is None else _task(session)

    def _instance(self, subject: object) -> SpiffeId:
        if not isinstance(subject, Mapping):
            _refuse("has a sub_id that is no object")
        found: SpiffeId | None = None
        match dict(subject):
            case {"format": "uri", "uri": str(name)}:
                found = self.table.get(name) or _agent(name)
            case {"format": "opaque", "id": str(name)}:
                found = self._named(name)
            case {"format": "iss_sub", "iss": self.issuer, "sub": str(name)}:
                found = self._named(name)
            case {"format": "email", "email": str(name)} | {"format": "account", "uri": str(name)}:
                found = self.table.get(name)
            case _:
                pass
        if found is None:
            _refuse(_NOBODY)
        return found

    def _named(self, name: str) -> SpiffeId | None:
        found = self.table.get(name)
        if found is None and self.template and _ID.fullmatch(name):
            found = _agent(self.template.replace("{id}", name))
        return found


def _agent(text: str) -> SpiffeId | None:
    try:
        instance = SpiffeId.parse(text)
    except InvalidSpiffeIdError:
        return None
    return instance if AgentIdentity.of(instance) is not None else None


def _task(session: object) -> TaskId:
    name = session.get("id") if isinstance(session, Mapping) and session.get("format") == "opaque" else None
    if not isinstance(name, str) or not _TASK.fullmatch(name):
        _refuse("has a session that is no task's id: format opaque")
    return TaskId(name)


def _words(payload: Mapping[str, object]) -> str:
    """Of `reason_admin` (CAEP 1.0, section 2) or `reason` (RISC): English, or else what is there first."""
    said = payload.get("reason_admin", payload.get("reason", ""))
    if isinstance(said, Mapping):
        said = next(_in_order(said), "")
    return said if isinstance(said, str) else ""


def _in_order(said: Mapping[str, object]) -> Iterator[object]:
    if "en" in said:
        yield said["en"]
    yield from said.values()


def _moment(value: object, now: datetime) -> datetime | None:
    """Seconds since 1970, where that is a time at which it can have happened."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        at = datetime.fromtimestamp(value, UTC)
    except (OverflowError, ValueError, OSError):
        return None
    return at if now - OLDEST <= at <= now + CLOCKS_DIFFER else None


def _refuse(why: str) -> NoReturn:
    raise SetRefusedError(SetFault.INVALID_REQUEST, f"the token {why}") from None
