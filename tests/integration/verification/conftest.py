"""One stack that takes JWT-SVIDs and a partner's instances, and two other SPIRE servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.verification.realms import Realms


@pytest.fixture(scope="package")
def shared_realms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Realms]:
    realms = Realms(tmp_path_factory.mktemp("realms"))
    try:
        realms.up()
        yield realms
    finally:
        realms.down()


@pytest.fixture
def realms(shared_realms: Realms) -> Realms:
    """Federated with the partner, as it is at the start."""
    shared_realms.federate()
    return shared_realms
