"""Findings: what a detector says is not right, in words for people and without any argument's value."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from broker.anomaly.events import Event
from broker.domain.findings import Severity
from broker.domain.identifiers import ActionId, TaskId
from broker.domain.spiffe import SpiffeId

MOST_EVIDENCE: Final = 16
"""Actions that a finding names: the newest ones."""

_NAME: Final = re.compile(r"[a-z0-9-]{1,64}")


class DetectorName(StrEnum):
    """The detectors; never renamed, as findings and the mapping name them."""

    RETRY_STORM = "retry-storm"
    PIVOT = "pivot"
    ESCALATION = "escalation"
    DRIFT = "drift"
    VOLUME = "volume"
    IDENTITY_MISUSE = "identity-misuse"
    CANARY = "canary"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One of them."""

    detector: DetectorName
    rule: str
    """Which of the detector's rules: a stable name."""
    severity: Severity
    confidence: float
    """0 to 1: how sure the detector is that no honest work looks so."""
    instance: SpiffeId
    task_id: TaskId | None
    at: datetime
    evidence: tuple[ActionId, ...]
    expected: str
    happened: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """What a detector adds to the event that it found something at."""

    rule: str
    severity: Severity
    confidence: float
    expected: str
    happened: str
    evidence: tuple[ActionId, ...] = ()


def finding(detector: DetectorName, event: Event, alarm: Alarm) -> Finding:
    """The finding at `event`; its own action is evidence as well."""
    own = () if event.decided is None else (event.decided.action_id,)
    own = own if event.closed is None else (event.closed.action_id,)
    return Finding(
        detector=detector,
        rule=alarm.rule,
        severity=alarm.severity,
        confidence=alarm.confidence,
        instance=event.instance,
        task_id=event.task_id,
        at=event.at,
        evidence=tuple(dict.fromkeys((*alarm.evidence, *own)))[-MOST_EVIDENCE:],
        expected=alarm.expected,
        happened=alarm.happened,
    )


def findings(detector: DetectorName, event: Event, alarms: Sequence[Alarm | None]) -> tuple[Finding, ...]:
    """Those of the alarms that went off; mostly none."""
    if alarms.count(None) == len(alarms):
        return ()
    return tuple(finding(detector, event, alarm) for alarm in alarms if alarm is not None)


def named(name: str) -> str:
    """A tool's or role's name in quotes; a name that no catalog could have came from an agent and is not repeated."""
    return f"'{name}'" if _NAME.fullmatch(name) else "something that is not listed"
