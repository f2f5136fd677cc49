"""Webhooks: signed so that a receiver with the standard's own words in hand can check it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest

from broker.adapters.signals.posting import BadReceiverFileError
from broker.adapters.signals.webhooks import Webhook
from broker.config.telling import WebhookSettings
from broker.ports.telling import Fate
from tests.fakes.samples import a_finding
from tests.fakes.system import NOON, FakeClock
from tests.unit.telling.places import KEY, MESSAGE, SECRET, Got, Place, a_message, settings_of, write

OLD_KEY = b"old-key-" * 4
OLD_SECRET = "whsec_" + base64.b64encode(OLD_KEY).decode()


def webhook(folder: Path, url: str = "https://soc.test", **more: Any) -> Webhook:
    settings = settings_of(
        folder, url, kind="webhook", secret_file=write(folder, "secret", SECRET + "\n"), **more
    )
    assert isinstance(settings, WebhookSettings)
    return Webhook(settings, FakeClock())


def signed_by(key: bytes, got: Got) -> bool:
    """As a receiver checks it, by the standard's words."""
    content = f"{got.headers['webhook-id']}.{got.headers['webhook-timestamp']}.{got.body.decode()}"
    mac = hmac.new(key, content.encode(), hashlib.sha256)
    wanted = base64.b64encode(mac.digest()).decode()
    versions = [one.split(",", 1) for one in got.headers["webhook-signature"].split(" ")]
    return any(version == "v1" and hmac.compare_digest(wanted, given) for version, given in versions)


async def test_a_receiver_can_check_the_signature(place: Place, tmp_path: Path) -> None:
    receiver = webhook(tmp_path, place.url)
    assert (await receiver.deliver(a_message())).fate is Fate.TAKEN
    await receiver.close()
    (got,) = place.got
    assert signed_by(KEY, got)
    assert not signed_by(OLD_KEY, got)
    assert got.headers["webhook-id"] == MESSAGE
    assert got.headers["webhook-timestamp"] == str(int(NOON.timestamp()))
    assert got.headers["Content-Type"] == "application/json"


async def test_the_body_says_what_was_found(place: Place, tmp_path: Path) -> None:
    receiver = webhook(tmp_path, place.url)
    await receiver.deliver(a_message("answered"))
    await receiver.close()
    body = json.loads(place.got[0].body)
    finding = a_finding()
    assert (body["type"], body["timestamp"]) == ("finding.answered", "2026-03-01T12:00:00.000000Z")
    assert body["data"] == {
        "id": finding.finding_id,
        "detector": "pivot",
        "rule": "same-effect",
        "severity": "high",
        "confidence": 0.9,
        "instance": "spiffe://example.test/agent/invoice-bot/one",
        "agent_class": "invoice-bot",
        "task": finding.found.task_id,
        "at": "2026-03-01T12:00:00.000000Z",
        "found_at": "2026-03-01T12:00:00.000000Z",
        "evidence": [f"action-{1:026}"],
        "expected": "no other way to what was denied",
        "happened": "'read-orders' after a denial",
        "source": "",
        "answer": "end-task",
        "answered_at": "",
        "mark": "",
    }


async def test_while_a_secret_is_replaced_both_are_good(place: Place, tmp_path: Path) -> None:
    receiver = webhook(tmp_path, place.url, old_secret_file=write(tmp_path, "old", OLD_SECRET))
    await receiver.deliver(a_message())
    write(tmp_path, "old", SECRET)
    write(tmp_path, "secret", OLD_SECRET)
    await receiver.deliver(a_message())
    await receiver.close()
    for got in place.got:
        assert signed_by(KEY, got)
        assert signed_by(OLD_KEY, got)
        assert len(got.headers["webhook-signature"].split(" ")) == 2


async def test_a_secret_that_is_gone_sends_nothing(place: Place, tmp_path: Path) -> None:
    receiver = webhook(tmp_path, place.url)
    (tmp_path / "secret").unlink()
    assert (await receiver.deliver(a_message())).fate is Fate.FAILED
    assert not place.got


@pytest.mark.parametrize(
    "secret",
    [
        base64.b64encode(KEY).decode(),
        "whsec_" + base64.b64encode(b"planted" * 3).decode(),
        "whsec_" + base64.b64encode(b"planted" * 10).decode(),
        "whsec_planted!" + "A" * 40,
        "",
    ],
)
def test_a_secret_that_is_none_is_refused_at_the_start_and_not_repeated(tmp_path: Path, secret: str) -> None:
    file = write(tmp_path, "bad", secret)
    settings = settings_of(tmp_path, "https://soc.test", kind="webhook", secret_file=file)
    assert isinstance(settings, WebhookSettings)
    with pytest.raises(BadReceiverFileError) as caught:
        Webhook(settings, FakeClock())
    assert not secret or secret not in str(caught.value)


async def test_no_secret_is_in_what_python_shows_of_it(tmp_path: Path) -> None:
    receiver = webhook(tmp_path)
    assert SECRET not in repr(vars(receiver))
    assert KEY not in vars(receiver).values()
