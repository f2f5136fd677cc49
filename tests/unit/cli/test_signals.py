"""`tasklease signals`: a test message to a receiver, and the keys that receivers of tokens need."""

from __future__ import annotations

import json
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.unit.cli.test_commands import complaint, tasklease
from tests.unit.config.texts import SETTINGS
from tests.unit.telling.places import AUTHORITY, SECRET, write
from tests.unit.telling.test_event_tokens import pem


def config(folder: Path, url: str = "https://127.0.0.1:1/") -> str:
    write(folder, "ca.pem", AUTHORITY.pem)
    write(folder, "secret", SECRET)
    write(folder, "key.pem", pem(ec.generate_private_key(ec.SECP256R1())))
    tell = f"""\
tell:
  soc: {{kind: webhook, url: '{url}', ca_file: ca.pem, secret_file: secret}}
  idp: {{kind: set, url: '{url}', issuer: 'https://us.test', audience: them, key_file: key.pem, key_id: k1}}
  other: {{kind: set, url: '{url}', issuer: 'https://us.test', audience: them, key_file: key.pem, key_id: k1}}
"""
    return write(folder, "broker.yaml", SETTINGS.replace("catalog.yaml", str(folder / "catalog.yaml")) + tell)


def test_the_public_keys_are_a_set_and_each_key_is_there_once(tmp_path: Path) -> None:
    result = tasklease("signals", "keys", "--config", config(tmp_path))
    assert result.exit_code == 0, result.output
    keys = jwt.PyJWKSet.from_dict(json.loads(result.stdout))
    assert [key.key_id for key in keys.keys] == ["k1"]
    assert '"d"' not in result.stdout


def test_a_receiver_that_is_not_there_is_named(tmp_path: Path) -> None:
    said = complaint(tasklease("signals", "test", "sock", "--config", config(tmp_path)), 2)
    assert said == "error: no receiver of that name below `tell` (did you mean 'soc'?)"


@pytest.mark.usefixtures("socket_enabled")
def test_a_receiver_that_cannot_be_reached_is_a_failure(tmp_path: Path) -> None:
    result = tasklease("signals", "test", "soc", "--config", config(tmp_path))
    assert complaint(result, 1) == "error: not taken: cannot be connected to"


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    file = config(tmp_path)
    (tmp_path / "secret").unlink()
    said = complaint(tasklease("signals", "test", "soc", "--config", file), 2)
    assert "tell.soc" in said
    assert "cannot be read" in said
