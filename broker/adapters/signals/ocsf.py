"""Findings as OCSF Detection Findings (class 2004), for a SIEM.

What always holds: each event has what the class requires; `metadata.uid` is the message's id, the same at each attempt, and
`finding_info.uid` the finding's, the same in each of its events.
"""

from __future__ import annotations

import json
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Any, Final

from broker import __version__
from broker.adapters.signals.posting import Poster
from broker.anomaly.findings import DetectorName
from broker.anomaly.mapping import FILE, FindingMapping, read_mapping
from broker.config.telling import OcsfSettings
from broker.domain.findings import Answer, Mark, Severity
from broker.domain.messages import Message, MessageKind
from broker.ports.system import Clock
from broker.ports.telling import Delivery
from broker.usecases.finding_words import finding_in

VERSION: Final = "1.6.0"
"""Of the schema."""
CLASS: Final = 2004

_CREATE, _UPDATE, _CLOSE = 1, 2, 3
_NEW, _IN_PROGRESS, _SUPPRESSED = 1, 2, 3
_INFORMATIONAL: Final = 1
_SEVERITIES: Final = {Severity.LOW: 2, Severity.MEDIUM: 3, Severity.HIGH: 4, Severity.CRITICAL: 5}
_BEHAVIORAL, _UNKNOWN = 2, 0
_DONE: Final = {
    Answer.NOTE: "recorded",
    Answer.WARN: "the agent is warned",
    Answer.APPROVE: "the task's next step waits for a person",
    Answer.FREEZE: "the task gets nothing new",
    Answer.END_TASK: "the task is ended, and what it holds revoked",
    Answer.QUARANTINE: "the instance is quarantined, and all of its tasks ended",
}


class Ocsf:
    """Implements ports.telling.Receiver."""

    def __init__(self, settings: OcsfSettings, clock: Clock) -> None:
        """Check the settings' files.

        Raises:
            BadReceiverFileError: one cannot be used.
        """
        self._poster = Poster(settings, clock)

    async def deliver(self, message: Message) -> Delivery:
        """See ports.telling."""
        body = json.dumps(detection_finding(message), separators=(",", ":")).encode()
        return (await self._poster.post(body, {"Content-Type": "application/json"})).delivery

    async def close(self) -> None:
        """See ports.telling."""
        await self._poster.close()


def detection_finding(message: Message) -> dict[str, Any]:
    """The event."""
    finding = finding_in(message)
    is_test = message.kind == MessageKind.TEST
    activity, status = _state(message.kind, finding["mark"])
    severity = _INFORMATIONAL if is_test else _SEVERITIES[Severity(finding["severity"])]
    attacks = _attacks(finding["detector"])
    return {
        "activity_id": activity,
        "category_uid": 2,
        "class_uid": CLASS,
        "type_uid": CLASS * 100 + activity,
        "time": _milliseconds(finding["found_at"]),
        "severity_id": severity,
        "status_id": status,
        "is_alert": activity == _CREATE and not is_test,
        "confidence_id": _confidence(finding["confidence"]),
        "confidence_score": round(finding["confidence"] * 100),
        "message": finding["happened"] or f"{finding['detector']}: {finding['rule']}",
        "metadata": {
            "version": VERSION,
            "uid": message.message_id,
            "product": {"name": "Tasklease", "vendor_name": "Tasklease", "version": __version__},
            "logged_time": int(message.created_at.timestamp() * 1000),
        },
        "finding_info": _info(finding, attacks, message, is_test=is_test),
        "evidences": [{"actor": _actor(finding), "data": {"actions": finding["evidence"]}}],
        "resources": _resources(finding),
        "remediation": {"desc": _DONE[Answer(finding["answer"])]},
    }


def _info(
    finding: dict[str, Any], attacks: list[dict[str, Any]], message: Message, *, is_test: bool
) -> dict[str, Any]:
    title = "A test: nothing was found" if is_test else f"{finding['detector']}: {finding['rule']}"
    ours = finding["detector"] in set(DetectorName)
    info: dict[str, Any] = {
        "uid": finding["id"],
        "title": title,
        "created_time": _milliseconds(finding["found_at"]),
        "first_seen_time": _milliseconds(finding["at"]),
        "modified_time": int(message.created_at.timestamp() * 1000),
        "analytic": {"name": finding["detector"], "type_id": _BEHAVIORAL if ours else _UNKNOWN},
    }
    if finding["expected"]:
        info["desc"] = f"expected: {finding['expected']}; happened: {finding['happened']}"
    if finding["source"]:
        info["data_sources"] = [finding["source"]]
    if attacks:
        info["attacks"] = attacks
    return info


def _actor(finding: dict[str, Any]) -> dict[str, Any]:
    actor: dict[str, Any] = {
        "app_name": finding["agent_class"] or finding["instance"],
        "app_uid": finding["instance"],
    }
    if finding["task"]:
        actor["session"] = {"uid": finding["task"]}
    return actor


def _resources(finding: dict[str, Any]) -> list[dict[str, Any]]:
    found = [{"uid": finding["instance"], "type": "Agent instance"}]
    if finding["task"]:
        found.append({"uid": finding["task"], "type": "Task"})
    return found


def _state(kind: str, mark: str) -> tuple[int, int]:
    """Activity and status."""
    if mark == Mark.FALSE:
        return _CLOSE, _SUPPRESSED
    if kind in {MessageKind.FINDING, MessageKind.TEST}:
        return _CREATE, _NEW
    return _UPDATE, _IN_PROGRESS


def _confidence(confidence: float) -> int:
    """1 to 3: low, medium, high."""
    return 1 + (confidence >= 0.5) + (confidence >= 0.8)


def _attacks(detector: str) -> list[dict[str, Any]]:
    if detector not in set(DetectorName):
        return []
    mapping = _mapping()
    return [
        {
            "sub_technique" if identifier.count(".") > 1 else "technique": {
                "uid": identifier,
                "name": mapping.names[identifier],
            }
        }
        for identifier in mapping.entries[DetectorName(detector)].atlas
    ]


@cache
def _mapping() -> FindingMapping:
    return read_mapping(files("broker.anomaly").joinpath(FILE).read_text(encoding="utf-8"))


def _milliseconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)
