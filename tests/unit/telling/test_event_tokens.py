"""Security event tokens: a receiver with the published keys can verify them, and they say what CAEP's events must."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from broker.adapters.signals.event_tokens import (
    CREDENTIAL_CHANGE,
    CREDENTIAL_TYPE,
    SESSION_REVOKED,
    VERIFICATION,
    EventTokens,
    SigningKey,
)
from broker.adapters.signals.posting import BadReceiverFileError
from broker.config.telling import SetSettings
from broker.domain.findings import Answer
from broker.ports.telling import Fate
from broker.usecases.tell_others import a_test_message
from tests.fakes.samples import BROKER, OWNER, TASK, a_finding
from tests.fakes.system import NOON, FakeClock
from tests.unit.telling.places import MESSAGE, Place, a_message, settings_of, write
from tests.unit.telling.places import Answer as Reply

ISSUER = "https://tasklease.example.test"
AUDIENCE = "https://idp.test/receiver"


def pem(key: Any, password: bytes | None = None) -> bytes:
    hidden = BestAvailableEncryption(password) if password else NoEncryption()
    data: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, hidden)
    return data


def settings(folder: Path, url: str = "https://idp.test", **more: Any) -> SetSettings:
    file = folder / "key.pem"
    if not file.exists():
        write(folder, "key.pem", pem(ec.generate_private_key(ec.SECP256R1())))
    made = settings_of(
        folder, url, **{"kind": "set", "issuer": ISSUER, "audience": AUDIENCE, "key_file": str(file), **more}
    )
    assert isinstance(made, SetSettings)
    return made


def ended(**changed: Any) -> Any:
    return a_finding(answered_at=NOON + timedelta(seconds=2), **changed)


async def pushed(place: Place, folder: Path, kind: str, finding: Any) -> dict[str, Any]:
    """The claims, verified as a receiver would."""
    ours = settings(folder, place.url)
    receiver = EventTokens(ours, FakeClock())
    delivery = await receiver.deliver(a_message(kind, finding))
    await receiver.close()
    assert delivery.fate is Fate.TAKEN
    got = place.got[-1]
    assert got.headers["Content-Type"] == "application/secevent+jwt"
    header = jwt.get_unverified_header(got.body)
    keys = jwt.PyJWKSet.from_dict({"keys": [SigningKey(ours).jwk]})
    claims: dict[str, Any] = jwt.decode(
        got.body, keys[header["kid"]].key, algorithms=["ES256"], audience=AUDIENCE, issuer=ISSUER,
        options={"verify_iat": False},
    )  # fmt: skip
    assert (header["alg"], header["typ"]) == ("ES256", "secevent+jwt")
    return claims


async def test_an_ended_task_is_a_revoked_session(place: Place, tmp_path: Path) -> None:
    place.answers.append(Reply(status=202))
    claims = await pushed(place, tmp_path, "session-revoked", ended())
    (event,) = claims["events"].items()
    assert event[0] == SESSION_REVOKED
    assert event[1]["event_timestamp"] == int(NOON.timestamp()) + 2
    assert event[1]["initiating_entity"] == "policy"
    assert claims["sub_id"] == {
        "format": "complex",
        "application": {"format": "uri", "uri": str(OWNER)},
        "session": {"format": "opaque", "id": TASK},
    }
    assert (claims["jti"], claims["txn"]) == (MESSAGE, a_finding().finding_id)
    assert claims["iat"] == int(NOON.timestamp())
    assert "exp" not in claims, "RFC 8417, 2.2: an event does not expire"
    assert "sub" not in claims


async def test_what_was_handed_out_is_a_changed_credential(place: Place, tmp_path: Path) -> None:
    claims = await pushed(place, tmp_path, "credential-change", ended())
    (event,) = claims["events"].items()
    assert event[0] == CREDENTIAL_CHANGE
    assert (event[1]["change_type"], event[1]["credential_type"]) == ("revoke", CREDENTIAL_TYPE)


@pytest.mark.parametrize("changed", [{"answer": Answer.QUARANTINE}, {"task_id": None}])
async def test_of_a_quarantined_instance_everything_has_ended(
    place: Place, tmp_path: Path, changed: dict[str, Any]
) -> None:
    claims = await pushed(place, tmp_path, "session-revoked", ended(**changed))
    assert claims["sub_id"] == {"format": "uri", "uri": str(OWNER)}


async def test_a_test_message_is_the_profile_s_verification_event(place: Place, tmp_path: Path) -> None:
    receiver = EventTokens(settings(tmp_path, place.url), FakeClock())
    await receiver.deliver(a_test_message("idp", BROKER, NOON, MESSAGE))
    await receiver.close()
    claims = jwt.decode(place.got[0].body, options={"verify_signature": False})
    assert claims["events"] == {VERIFICATION: {"state": MESSAGE}}


@pytest.mark.parametrize(
    ("body", "fate", "what"),
    [
        ({"err": "invalid_key", "description": "planted"}, Fate.FAILED, "status 400: invalid_key"),
        ({"err": "planted"}, Fate.REFUSED, "status 400"),
        (["planted"], Fate.REFUSED, "status 400"),
        ({"err": ["planted"]}, Fate.REFUSED, "status 400"),
    ],
)
async def test_an_error_of_the_standard_is_said_and_nothing_else_of_it(
    place: Place, tmp_path: Path, body: object, fate: Fate, what: str
) -> None:
    place.answers.append(Reply(status=400, body=json.dumps(body).encode()))
    receiver = EventTokens(settings(tmp_path, place.url), FakeClock())
    delivery = await receiver.deliver(a_message("session-revoked", ended()))
    await receiver.close()
    assert (delivery.fate, delivery.what) == (fate, what)


def test_a_key_s_id_is_its_thumbprint_unless_the_settings_name_one(tmp_path: Path) -> None:
    key = SigningKey(settings(tmp_path))
    assert key.key_id == SigningKey(settings(tmp_path)).key_id
    assert len(key.key_id) == 43
    assert SigningKey(settings(tmp_path, key_id="2026-03")).jwk["kid"] == "2026-03"
    assert "d" not in key.jwk


KEYS = {
    "another curve": pem(ec.generate_private_key(ec.SECP384R1())),
    "another algorithm": pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
    "a password": pem(ec.generate_private_key(ec.SECP256R1()), b"password"),
    "no key": b"planted",
}


@pytest.mark.parametrize("name", KEYS)
def test_a_key_that_cannot_be_used_is_refused_at_the_start(tmp_path: Path, name: str) -> None:
    file = write(tmp_path, "bad.pem", KEYS[name])
    with pytest.raises(BadReceiverFileError, match=r"bad\.pem must hold") as caught:
        EventTokens(settings(tmp_path, key_file=file), FakeClock())
    assert "planted" not in str(caught.value)
    with pytest.raises(BadReceiverFileError, match="cannot be read"):
        EventTokens(settings(tmp_path, key_file=str(tmp_path / "gone.pem")), FakeClock())
