"""A credential's ways into programs, and the ways that are shut."""

from __future__ import annotations

import copy
import json

import pytest

from broker.api.v1 import credentials_pb2
from broker.client import LeasedCredential, Secret


def credential(scheme: str = "postgresql", **secret: str) -> LeasedCredential:
    return LeasedCredential(
        credentials_pb2.AcquireCredentialResponse(
            lease=credentials_pb2.Lease(lease_id="lease-1", role="orders-readonly"),
            secret=secret or {"username": "u", "password": "p"},
            destination=credentials_pb2.Destination(host="db.test", port=5432, scheme=scheme),
        )
    )


def test_a_dsn_quotes_what_needs_it() -> None:
    made = credential(username="u", password=r"it's a \ slash")
    assert made.dsn("orders") == (
        r"host='db.test' port='5432' user='u' password='it\'s a \\ slash' dbname='orders'"
    )


def test_what_is_not_postgresql_has_no_dsn() -> None:
    with pytest.raises(ValueError, match="no credential of PostgreSQL"):
        credential("https", token="t").dsn()


def test_libpqs_variables() -> None:
    assert credential().as_env() == {
        "PGHOST": "db.test",
        "PGPORT": "5432",
        "PGUSER": "u",
        "PGPASSWORD": "p",
    }


def test_variables_of_anything_else_are_named_after_the_role() -> None:
    assert credential("https", **{"api-key": "k"}).as_env() == {
        "TASKLEASE_ORDERS_READONLY_HOST": "db.test",
        "TASKLEASE_ORDERS_READONLY_PORT": "5432",
        "TASKLEASE_ORDERS_READONLY_API_KEY": "k",
    }


def test_a_prefix_names_them_all() -> None:
    assert credential().as_env("ORDERS_") == {
        "ORDERS_HOST": "db.test",
        "ORDERS_PORT": "5432",
        "ORDERS_USERNAME": "u",
        "ORDERS_PASSWORD": "p",
    }


def test_a_secret_opens_by_reveal_alone() -> None:
    secret = Secret("hunter2")
    assert secret.reveal() == "hunter2"
    assert not hasattr(secret, "__dict__")
    for shown in (str(secret), repr(secret), f"{secret}", f"{secret!s:>20}", "%s" % secret, repr([secret])):  # noqa: UP031
        assert "hunter2" not in shown
    for refused in (lambda: copy.copy(secret), lambda: hash(secret), lambda: json.dumps(secret)):
        with pytest.raises(TypeError):
            refused()


def test_secrets_compare_by_value() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"


def test_a_credential_is_a_mapping_of_secrets() -> None:
    made = credential()
    assert set(made) == {"username", "password"}
    assert made["password"].reveal() == "p"
    assert len(made) == 2
    assert {made: 1}[made] == 1
    with pytest.raises(TypeError):
        copy.deepcopy(made)
