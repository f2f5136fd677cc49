"""The section `signals` of the settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.config.reading import ConfigError
from broker.config.settings import Settings, load_settings
from broker.domain.findings import Severity
from broker.domain.security_events import DEFAULT_EVENTS, EVENTS
from broker.domain.signals import ReporterBounds, SignalKind
from tests.fakes.samples import OWNER
from tests.unit.config.texts import SETTINGS, write

TRANSMITTER = """\
    - issuer: https://idp.example.test
      audience: https://tasklease.example.test/events
      jwks_file: idp.jwks.json
"""
FULL = f"""\
signals:
  most_severe: medium
  per_minute: 30
  reporters:
    - id: spiffe://example.test/edr/
      most_severe: critical
      per_minute: 600
    - id: spiffe://example.test/edr-two
      agent_classes: [invoice-bot]
  listen: 0.0.0.0:8447
  transmitters:
{TRANSMITTER}\
      most_severe: low
      template: spiffe://example.test/agent/invoice-bot/{{id}}
      subjects:
        - {{subject: 00u1, instance: '{OWNER}'}}
      events:
        - {{event: session-revoked, kind: session-revoked, severity: critical, confidence: 1}}
        - {{event: 'https://example.test/event/gone', kind: other, severity: low, confidence: 0.5}}
"""


def read(folder: Path, more: str) -> Settings:
    return load_settings(write(folder, SETTINGS + more, "broker.yaml"))


def test_without_the_section_reporters_weigh_little_and_no_token_is_taken(tmp_path: Path) -> None:
    signals = read(tmp_path, "").signals
    assert (signals.listen, signals.transmitters) == (None, ())
    assert signals.bounds_of("spiffe://example.test/anybody") == ReporterBounds(
        most_severe=Severity.HIGH, per_minute=60
    )


def test_everything_that_can_be_said_is_read(tmp_path: Path) -> None:
    signals = read(tmp_path, FULL).signals
    (one,) = signals.transmitters
    assert one.jwks_file == tmp_path / "idp.jwks.json"
    transmitter = one.transmitter()
    assert transmitter.table == {"00u1": OWNER}
    assert transmitter.template == "spiffe://example.test/agent/invoice-bot/{id}"
    assert transmitter.bounds.most_severe is Severity.LOW
    assert set(transmitter.events) == {EVENTS["session-revoked"], "https://example.test/event/gone"}
    assert transmitter.events[EVENTS["session-revoked"]].kind is SignalKind.SESSION_REVOKED


def test_a_transmitters_events_count_by_default_and_may_be_none(tmp_path: Path) -> None:
    text = f"signals:\n  listen: 127.0.0.1:8447\n  transmitters:\n{TRANSMITTER}"
    (one,) = read(tmp_path, text).signals.transmitters
    assert one.transmitter().events == DEFAULT_EVENTS
    (one,) = read(tmp_path, text + "      events: []\n").signals.transmitters
    assert one.transmitter().events == {}


@pytest.mark.parametrize(
    ("reporter", "most", "per_minute"),
    [
        ("spiffe://example.test/edr/one", Severity.CRITICAL, 600),
        ("spiffe://example.test/edr", Severity.MEDIUM, 30),
        ("spiffe://example.test/edr-two", Severity.HIGH, 60),
        ("spiffe://example.test/edr-two/x", Severity.MEDIUM, 30),
        ("spiffe://example.test/siem", Severity.MEDIUM, 30),
        ("https://idp.example.test", Severity.LOW, 60),
    ],
)
def test_each_reporter_weighs_what_the_first_entry_says_that_names_it(
    tmp_path: Path, reporter: str, most: Severity, per_minute: int
) -> None:
    bounds = read(tmp_path, FULL).signals.bounds_of(reporter)
    assert (bounds.most_severe, bounds.per_minute) == (most, per_minute)


def a_transmitter(more: str = "", **changed: str) -> str:
    good = {"issuer": "https://idp.test", "audience": "x", "jwks_file": "x.json", **changed}
    pairs = [f"{name}: '{value}'" for name, value in good.items() if value] + ([more] if more else [])
    return f"signals: {{listen: '127.0.0.1:1', transmitters: [{{{', '.join(pairs)}}}]}}\n"


WRONG: dict[str, tuple[str, str, str]] = {
    "tokens without an address": (
        "signals: {transmitters: [{issuer: 'https://a.test', audience: x, jwks_file: x}]}\n",
        "signals.listen", "give it together with transmitters",
    ),
    "an address for nobody": ("signals: {listen: '127.0.0.1:1'}\n", "signals.listen", "give it together"),
    "no address": (a_transmitter().replace("127.0.0.1:1", "x"), "signals", "listen: give an address and a port"),
    "the agents' address": (
        "listen: 127.0.0.1:1\n" + a_transmitter(), "signals", "listen: give an address of its own",
    ),
    "the AuthZEN door's address": (
        "authzen: {listen: '127.0.0.1:1'}\n" + a_transmitter(), "signals", "listen: give an address of its own",
    ),
    "an issuer without TLS": (a_transmitter(issuer="http://a.test"), "signals.transmitters.0.issuer", "match pattern"),
    "an issuer that is an SVID's": (a_transmitter(issuer=str(OWNER)), "signals.transmitters.0.issuer", "match pattern"),
    "no audience": (a_transmitter(audience=""), "signals.transmitters.0.audience", "is missing"),
    "no keys": (a_transmitter(jwks_file=""), "signals.transmitters.0.jwks_file", "is missing"),
    "keys in the settings": (a_transmitter("jwks: {}"), "signals.transmitters.0.jwks", "unknown key (did you mean 'jwks_file'?)"),
    "an unknown severity": (a_transmitter("most_severe: fatal"), "signals.transmitters.0.most_severe", "input should be"),
    "no budget": (a_transmitter("per_minute: 0"), "signals.transmitters.0.per_minute", "greater than or equal to 1"),
    "a template without a place": (a_transmitter(template=str(OWNER)), "signals.transmitters.0.template", "give {id} once"),
    "a template for a class": (
        a_transmitter(template="spiffe://example.test/agent/{id}/x"), "signals.transmitters.0.template", "give {id} once",
    ),
    "a template with two places": (
        a_transmitter(template="spiffe://example.test/agent/a/{id}{id}"), "signals.transmitters.0.template", "give {id} once",
    ),
    "a template for operators": (
        a_transmitter(template="spiffe://example.test/operator/{id}"),
        "signals.transmitters.0.template", "give an agent instance",
    ),
    "a subject that is an operator": (
        a_transmitter("subjects: [{subject: a, instance: 'spiffe://example.test/operator/ann'}]"),
        "signals.transmitters.0.subjects.0.instance", "give an agent instance",
    ),
    "a subject twice": (
        a_transmitter(f"subjects: [{{subject: a, instance: '{OWNER}'}}, {{subject: a, instance: '{OWNER}'}}]"),
        "signals.transmitters.0.subjects", "stands twice",
    ),
    "an event that is none": (
        a_transmitter("events: [{event: gone, kind: other, severity: low, confidence: 1}]"),
        "signals.transmitters.0.events.0.event", "give the URI of an event",
    ),
    "an event twice": (
        a_transmitter(
            "events: [{event: session-revoked, kind: other, severity: low, confidence: 1}, "
            f"{{event: '{EVENTS['session-revoked']}', kind: other, severity: low, confidence: 1}}]"
        ),
        "signals.transmitters.0.events", "stands twice",
    ),
    "an event of no kind": (
        a_transmitter("events: [{event: session-revoked, kind: nothing, severity: low, confidence: 1}]"),
        "signals.transmitters.0.events.0.kind", "input should be",
    ),
    "an event that is never sure": (
        a_transmitter("events: [{event: session-revoked, kind: other, severity: low, confidence: 0}]"),
        "signals.transmitters.0.events.0.confidence", "greater than 0",
    ),
    "an issuer twice": (
        "signals: {listen: '127.0.0.1:1', transmitters: ["
        + ", ".join(["{issuer: 'https://a.test', audience: x, jwks_file: x}"] * 2) + "]}\n",
        "signals.transmitters", "an issuer stands twice",
    ),
    "a reporter that is an agent": (
        f"signals: {{reporters: [{{id: '{OWNER}'}}]}}\n", "signals.reporters.0.id", "an agent never reports",
    ),
    "a reporter that is none": ("signals: {reporters: [{id: edr}]}\n", "signals.reporters.0.id", "scheme is not"),
    "a class that is none": (
        "signals: {agent_classes: ['Invoice Bot']}\n", "signals.agent_classes.0", "match pattern",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_with_a_remedy(tmp_path: Path, case: str) -> None:
    text, field, words = WRONG[case]
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    found = [one for one in caught.value.problems if f"{one.field}: {one.what}".startswith(f"{field}")]
    assert any(words in f"{one.field.removeprefix('signals.')}: {one.what}" for one in found), str(
        caught.value
    )
