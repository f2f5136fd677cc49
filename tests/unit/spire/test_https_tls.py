"""What a connection showed, and what a door without an SVID is; the rest is in tests/unit/https, over real connections."""

from __future__ import annotations

from typing import Any

import pytest

from broker.adapters.spire.https_tls import _chain, https_context, shown_by
from broker.adapters.spire.identity import NoIdentityError, WorkloadIdentity
from tests.fakes.samples import BROKER


@pytest.mark.parametrize("connection", [None, object(), b"-----BEGIN CERTIFICATE-----"])
def test_what_is_no_tls_showed_nothing(connection: object) -> None:
    assert shown_by(connection) == (None, [])


def test_without_an_svid_there_is_no_door() -> None:
    identity = WorkloadIdentity(endpoint_socket="unix:///none", expected_id=BROKER)
    with pytest.raises(NoIdentityError):
        https_context(identity)


class NewerPython:
    """A connection of Python 3.13 and later."""

    def get_unverified_chain(self) -> list[bytes]:
        return [bytes([number]) for number in range(20)]


def test_the_public_way_to_a_chain_is_taken_where_there_is_one_and_bounded() -> None:
    connection: Any = NewerPython()
    assert _chain(connection) == [bytes([number]) for number in range(9)]


@pytest.mark.parametrize("connection", [object(), type("Other", (), {"_sslobj": object()})()])
def test_where_there_is_no_way_to_a_chain_there_is_none(connection: Any) -> None:
    assert _chain(connection) == []
