"""OCSF: each event has what the class Detection Finding requires, with values of the schema."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import jsonschema_rs
import pytest

from broker.adapters.signals.ocsf import Ocsf, detection_finding
from broker.anomaly.findings import DetectorName
from broker.config.telling import OcsfSettings
from broker.domain.findings import SIGNAL, Answer, Mark, Severity
from broker.domain.messages import MessageKind
from broker.usecases.tell_others import a_test_message
from tests.fakes.samples import BROKER, a_finding
from tests.fakes.system import NOON, FakeClock
from tests.unit.telling.places import MESSAGE, Place, a_message, settings_of

TECHNIQUE: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["uid", "name"],
    "properties": {"uid": {"pattern": r"^AML\.T[0-9]{4}(\.[0-9]{3})?$"}, "name": {"minLength": 3}},
}

DETECTION_FINDING: Final[dict[str, Any]] = {
    "type": "object",
    "required": [
        "activity_id", "category_uid", "class_uid", "finding_info", "metadata", "severity_id", "time", "type_uid",
    ],
    "properties": {
        "activity_id": {"enum": [0, 1, 2, 3, 99]},
        "category_uid": {"const": 2},
        "class_uid": {"const": 2004},
        "type_uid": {"enum": [200400, 200401, 200402, 200403, 200499]},
        "severity_id": {"enum": [0, 1, 2, 3, 4, 5, 6, 99]},
        "status_id": {"enum": [0, 1, 2, 3, 4, 5, 6, 99]},
        "confidence_id": {"enum": [0, 1, 2, 3, 99]},
        "confidence_score": {"type": "integer", "minimum": 0, "maximum": 100},
        "is_alert": {"type": "boolean"},
        "time": {"type": "integer", "minimum": 1_700_000_000_000},
        "message": {"type": "string"},
        "metadata": {
            "type": "object",
            "required": ["product", "version"],
            "properties": {
                "version": {"pattern": r"^1\.[0-9]+\.[0-9]+$"},
                "uid": {"type": "string"},
                "logged_time": {"type": "integer"},
                "product": {"type": "object", "required": ["name", "vendor_name"]},
            },
        },
        "finding_info": {
            "type": "object",
            "required": ["uid", "title"],
            "properties": {
                "analytic": {"type": "object", "required": ["type_id"]},
                "attacks": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "properties": {"technique": TECHNIQUE, "sub_technique": TECHNIQUE},
                        "anyOf": [{"required": ["technique"]}, {"required": ["sub_technique"]}],
                        "additionalProperties": False,
                    },
                },
                "data_sources": {"type": "array", "items": {"type": "string"}},
            },
        },
        "evidences": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"actor": {"anyOf": [{"required": ["app_name"]}, {"required": ["session"]}]}},
            },
        },
        "resources": {"type": "array", "items": {"anyOf": [{"required": ["uid"]}, {"required": ["name"]}]}},
        "remediation": {"type": "object", "required": ["desc"]},
    },
    "additionalProperties": False,
}  # fmt: skip
"""What the schema's 1.x says of the attributes that are used here; those that are not are refused, so that each stands above."""

VALID = jsonschema_rs.validator_for(DETECTION_FINDING)


def checked(kind: str = "finding", **changed: Any) -> dict[str, Any]:
    event = detection_finding(a_message(kind, a_finding(**changed)))
    VALID.validate(event)
    assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]
    return event


@pytest.mark.parametrize("detector", [*DetectorName, SIGNAL])
@pytest.mark.parametrize("kind", ["finding", "answered", "marked"])
def test_every_event_has_what_the_class_requires(detector: str, kind: str) -> None:
    for answer in Answer:
        for task in (a_finding().found.task_id, None):
            checked(kind, detector=detector, answer=answer, task_id=task, source="https://edr.test")


@pytest.mark.parametrize("severity", Severity)
def test_severities_are_those_of_the_schema(severity: Severity) -> None:
    wanted = {"low": 2, "medium": 3, "high": 4, "critical": 5}
    assert checked(severity=severity)["severity_id"] == wanted[severity.value]


@pytest.mark.parametrize(
    ("kind", "changed", "wanted"),
    [
        ("finding", {}, (1, 1, True)),
        ("answered", {"answered_at": NOON + timedelta(seconds=1)}, (2, 2, False)),
        ("marked", {"mark": Mark.CONFIRMED}, (2, 2, False)),
        ("marked", {"mark": Mark.FALSE}, (3, 3, False)),
    ],
)
def test_a_finding_is_created_updated_and_closed(
    kind: str, changed: dict[str, Any], wanted: tuple[int, int, bool]
) -> None:
    event = checked(kind, **changed)
    assert (event["activity_id"], event["status_id"], event["is_alert"]) == wanted


def test_an_event_names_the_finding_the_instance_the_task_and_the_techniques() -> None:
    event = checked()
    finding = a_finding()
    assert event["metadata"]["uid"] == MESSAGE
    assert event["finding_info"]["uid"] == finding.finding_id
    assert event["finding_info"]["title"] == "pivot: same-effect"
    assert event["time"] == int(NOON.timestamp() * 1000)
    techniques = event["finding_info"]["attacks"]
    assert [one["technique"]["uid"] for one in techniques] == ["AML.T0053"]
    actor = event["evidences"][0]["actor"]
    assert (actor["app_name"], actor["app_uid"]) == ("invoice-bot", str(finding.found.instance))
    assert actor["session"] == {"uid": finding.found.task_id}
    assert event["remediation"]["desc"] == "the task is ended, and what it holds revoked"
    sub = checked(detector="retry-storm")["finding_info"]["attacks"]
    assert "AML.T0034.002" in [one["sub_technique"]["uid"] for one in sub if "sub_technique" in one]


def test_a_test_message_raises_no_alarm() -> None:
    event = detection_finding(a_test_message("siem", BROKER, NOON, MESSAGE))
    VALID.validate(event)
    assert (event["severity_id"], event["is_alert"]) == (1, False)
    assert event["finding_info"]["title"] == "A test: nothing was found"


@pytest.mark.parametrize("attribute", DETECTION_FINDING["required"])
def test_the_check_would_find_what_is_missing(attribute: str) -> None:
    event = checked()
    del event[attribute]
    assert not VALID.is_valid(event)


async def test_it_is_posted_as_json(place: Place, tmp_path: Path) -> None:
    settings = settings_of(tmp_path, place.url)
    assert isinstance(settings, OcsfSettings)
    receiver = Ocsf(settings, FakeClock())
    await receiver.deliver(a_message(MessageKind.FINDING))
    await receiver.close()
    assert json.loads(place.got[0].body) == checked()
    assert place.got[0].headers["Content-Type"] == "application/json"
