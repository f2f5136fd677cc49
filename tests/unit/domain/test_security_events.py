"""What an issuer's event is here: whom it is about, and as what it counts."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.domain.findings import Severity
from broker.domain.security_events import (
    DEFAULT_EVENTS,
    EVENTS,
    EventRule,
    SecurityEvent,
    SetRefusedError,
    Transmitter,
)
from broker.domain.signals import Signal, SignalKind
from tests.fakes.samples import OTHER, OWNER, TASK
from tests.fakes.system import NOON

REPOSITORY = Path(__file__).parents[3]
ISSUER = "https://idp.example.test"
URI = {"format": "uri", "uri": str(OWNER)}
SESSION = {"format": "opaque", "id": TASK}
TEMPLATE = "spiffe://example.test/agent/invoice-bot/{id}"


def a_transmitter(**changed: Any) -> Transmitter:
    return Transmitter(
        **{
            "issuer": ISSUER,
            "audience": "x",
            "template": TEMPLATE,
            "table": {"jane@example.test": OTHER, "00u2": OTHER, "acct:jane@example.test": OTHER},
            **changed,
        }
    )


def an_event(subject: object = URI, **changed: Any) -> SecurityEvent:
    return SecurityEvent(
        **{
            "issuer": ISSUER,
            "jti": "event-1",
            "key_id": "k",
            "issued_at": NOON,
            "subject": subject,
            "events": {EVENTS["session-revoked"]: {}},
            **changed,
        }
    )


def read(event: SecurityEvent, **of_the_transmitter: Any) -> Signal:
    signal = a_transmitter(**of_the_transmitter).signal_of(event, NOON)
    assert signal is not None
    return signal


@pytest.mark.parametrize(
    ("subject", "instance", "task"),
    [
        (URI, OWNER, None),
        ({"format": "opaque", "id": "one"}, OWNER, None),
        ({"format": "opaque", "id": "00u2"}, OTHER, None),
        ({"format": "iss_sub", "iss": ISSUER, "sub": "one"}, OWNER, None),
        ({"format": "iss_sub", "iss": ISSUER, "sub": "00u2"}, OTHER, None),
        ({"format": "email", "email": "jane@example.test"}, OTHER, None),
        ({"format": "account", "uri": "acct:jane@example.test"}, OTHER, None),
        ({"format": "complex", "user": URI}, OWNER, None),
        ({"format": "complex", "application": URI, "session": SESSION}, OWNER, TASK),
        ({"user": URI, "session": SESSION}, OWNER, TASK),
        ({"user": URI, "device": {"format": "opaque", "id": "one"}}, OWNER, None),
    ],
)
def test_a_subject_stands_for_one_instance_and_perhaps_a_task(
    subject: object, instance: object, task: str | None
) -> None:
    for event in (
        an_event(subject),
        an_event(None, events={EVENTS["session-revoked"]: {"subject": subject}}),
    ):
        signal = read(event)
        assert (signal.instance, signal.task_id) == (instance, task)


@pytest.mark.parametrize(
    "subject",
    [
        None,
        "one",
        [],
        {},
        {"format": "uri"},
        {"format": "uri", "uri": "https://example.test"},
        {"format": "uri", "uri": "spiffe://example.test/operator/ann"},
        {"format": "uri", "uri": "spiffe://example.test/agent/invoice-bot"},
        {"format": "uri", "uri": [str(OWNER)]},
        {"format": "opaque", "id": "one/../two"},
        {"format": "opaque", "id": "one/more"},
        {"format": "opaque", "id": ".."},
        {"format": "opaque", "id": ""},
        {"format": "opaque", "id": "{id}"},
        {"format": "opaque", "id": "x" * 129},
        {"format": "opaque", "id": 1},
        {"format": "iss_sub", "iss": "https://evil.test", "sub": "one"},
        {"format": "iss_sub", "sub": "one"},
        {"format": "email", "email": "one"},
        {"format": "phone_number", "phone_number": "one"},
        {"format": "aliases", "identifiers": [URI]},
        {"format": "complex"},
        {"format": "complex", "session": SESSION},
        {"format": "complex", "user": URI, "tenant": {"format": "opaque", "id": "x"}},
        {"format": "complex", "user": URI, "device": {"format": "uri", "uri": str(OTHER)}},
        {"format": "complex", "user": URI, "device": {"format": "opaque", "id": "no/body"}},
        {"format": "complex", "user": {"format": "complex", "user": URI}},
        {"format": "complex", "user": URI, "session": {"format": "opaque", "id": "no task\n"}},
        {"format": "complex", "user": URI, "session": {"format": "uri", "uri": TASK}},
        {"format": "complex", "user": URI, "session": None, "x": 1},
    ],
)
def test_a_subject_that_is_not_clear_stands_for_nobody(subject: object) -> None:
    with pytest.raises(SetRefusedError) as caught:
        a_transmitter().signal_of(an_event(subject), NOON)
    assert caught.value.fault.value == "invalid_request"


def test_without_a_template_names_count_that_the_table_has() -> None:
    with pytest.raises(SetRefusedError, match="stands for no instance"):
        read(an_event({"format": "opaque", "id": "one"}), template="")
    assert read(an_event({"format": "opaque", "id": "00u2"}), template="").instance == OTHER


def test_events_count_as_they_are_ruled_and_others_are_none() -> None:
    signal = read(an_event())
    assert (signal.kind, signal.severity, signal.confidence) == (
        SignalKind.SESSION_REVOKED,
        Severity.HIGH,
        0.9,
    )
    other = an_event(
        events={"https://schemas.openid.net/secevent/ssf/event-type/verification": {"state": "x"}}
    )
    assert a_transmitter().signal_of(other, NOON) is None
    assert a_transmitter(events={}).signal_of(an_event(), NOON) is None


def test_every_event_that_counts_has_a_name_and_is_documented() -> None:
    assert set(DEFAULT_EVENTS) == set(EVENTS.values())
    lines = (REPOSITORY / "docs/signals.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    for name, uri in EVENTS.items():
        rule = DEFAULT_EVENTS[uri]
        (row,) = [row for row in rows if row[0].startswith(("CAEP", "RISC")) and f"`{name}`" in row[0]]
        assert row[1:] == [f"`{rule.kind.value}`", rule.severity.value, str(rule.confidence)]


def test_an_event_that_does_not_count_needs_no_subject() -> None:
    assert a_transmitter().signal_of(an_event(None, events={"urn:x:y": {}}), NOON) is None


def test_of_several_events_the_worst_counts() -> None:
    rules = {
        "urn:x:a": EventRule(kind=SignalKind.OTHER, severity=Severity.LOW, confidence=1),
        "urn:x:b": EventRule(kind=SignalKind.MALWARE, severity=Severity.CRITICAL, confidence=0.5),
        "urn:x:c": EventRule(kind=SignalKind.OTHER, severity=Severity.CRITICAL, confidence=0.4),
    }
    assert read(an_event(events={uri: {} for uri in rules}), events=rules).kind is SignalKind.MALWARE


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({}, ""),
        ({"reason_admin": {"de": "aus", "en": "out"}}, "out"),
        ({"reason_admin": {"de": "aus"}}, "aus"),
        ({"reason_admin": "plain"}, "plain"),
        ({"reason_admin": {}}, ""),
        ({"reason_admin": {"en": 1}}, ""),
        ({"reason": "hijacking"}, "hijacking"),
        ({"reason_admin": {"en": "a\nb\u202e"}}, "a?b?"),
        ({"reason_admin": {"en": "x" * 9999}}, "x" * 500),
    ],
)
def test_words_are_taken_as_far_as_they_are_harmless(payload: dict[str, object], words: str) -> None:
    assert read(an_event(events={EVENTS["session-revoked"]: payload})).happened == words


HOUR_AGO = (NOON - timedelta(hours=1)).timestamp()


@pytest.mark.parametrize(
    ("stamp", "ago"),
    [
        (HOUR_AGO, 60),
        (None, 0),
        ("x", 0),
        (True, 0),
        (HOUR_AGO * 1000, 0),
        (1e300, 0),
        (float("nan"), 0),
        (0, 0),
    ],
)
def test_it_happened_when_it_is_said_to_have_if_it_can_have(stamp: object, ago: int) -> None:
    in_the_event = an_event(events={EVENTS["session-revoked"]: {"event_timestamp": stamp}})
    for event in (in_the_event, an_event(happened_at=stamp)):
        assert read(event).at == NOON - timedelta(minutes=ago)
