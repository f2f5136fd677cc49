"""Signals: what somebody outside says of an agent instance, and how much their word weighs.

What always holds: what is reported can only make things stricter; it counts as at most as severe as its reporter may say, and
its words are one line of printable characters that says whose words they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from broker.domain.findings import SIGNAL, Found, Severity
from broker.domain.identifiers import ActionId, TaskId
from broker.domain.spiffe import SpiffeId

MOST_WORDS: Final = 500
"""Characters."""
MOST_EVIDENCE: Final = 16
OLDEST: Final = timedelta(days=1)
"""What happened before that is no signal any more."""
CLOCKS_DIFFER: Final = timedelta(minutes=1)
"""By so much may a reporter's clock be ahead."""

_EXPECTED: Final = "nothing that somebody outside has to report"


class SignalKind(StrEnum):
    """What is reported. Kinds are never renamed: the rules of answers name them."""

    PROMPT_INJECTION = "prompt-injection"
    """The agent was given instructions by what it read."""
    DATA_EXFILTRATION = "data-exfiltration"
    """Data left that should not."""
    MALWARE = "malware"
    """Foreign code runs where the instance runs."""
    POLICY_VIOLATION = "policy-violation"
    """Something was done that a rule elsewhere forbids."""
    CREDENTIAL_EXPOSURE = "credential-exposure"
    """A credential was seen where it does not belong."""
    CREDENTIAL_CHANGE = "credential-change"
    """A credential of the account behind the instance was changed."""
    SESSION_REVOKED = "session-revoked"
    """Who stands behind the instance has lost their session."""
    ACCOUNT_DISABLED = "account-disabled"
    """Who stands behind the instance has lost their account."""
    IDENTITY_MISUSE = "identity-misuse"
    """Somebody else acts as the instance."""
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReporterBounds:
    """How much a reporter's word weighs."""

    most_severe: Severity = Severity.HIGH
    """Whatever is reported counts as no worse."""
    per_minute: int = 60
    """New signals, on average and at once."""
    agent_classes: frozenset[str] = frozenset()
    """Of whom it may speak; empty: of every class of the catalog."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """What was reported, bounded, before anything was asked about it."""

    reporter: str
    """A SPIFFE ID, or an issuer of Security Event Tokens."""
    event_id: str
    """The reporter's own: the same again is the same finding."""
    kind: SignalKind
    severity: Severity
    """As the reporter says."""
    confidence: float
    instance: SpiffeId
    task_id: TaskId | None
    happened: str
    """The reporter's words."""
    at: datetime
    evidence: tuple[ActionId, ...] = ()

    def as_found(self, bounds: ReporterBounds, now: datetime) -> Found:
        """The finding that it makes."""
        about = f"{self.reporter} reports {self.kind.value}"
        words = self.happened.replace('"', "'")  # so that where they end cannot be feigned
        return Found(
            detector=SIGNAL,
            rule=self.kind.value,
            severity=min(self.severity, bounds.most_severe, key=lambda severity: severity.rank),
            confidence=self.confidence,
            instance=self.instance,
            task_id=self.task_id,
            at=min(self.at, now),
            evidence=self.evidence,
            expected=_EXPECTED,
            happened=f'{about}: "{words}"' if words else about,
            source=self.reporter,
            key=self.event_id,
        )


def says_the_same(one: Found, other: Found) -> bool:
    """Whether two findings of one event id are about one and the same.

    When it happened, how severe it counts and how sure it is are left out: a reporter that sends again may know better by
    now, and the settings may have changed. The first word counts.
    """
    return _said(one) == _said(other)


def _said(found: Found) -> tuple[object, ...]:
    return (found.rule, found.instance, found.task_id, found.evidence, found.happened)


def is_one_line(text: str) -> bool:
    """Whether it can stand in a log, a terminal or a page without doing anything there.

    No control characters, line ends, or characters that are not seen or turn the text around.
    """
    return len(text) <= MOST_WORDS and text.isprintable()


def as_one_line(text: str) -> str:
    """`text` with what `is_one_line` refuses replaced or cut off."""
    return "".join(one if one.isprintable() else "?" for one in text[:MOST_WORDS])
