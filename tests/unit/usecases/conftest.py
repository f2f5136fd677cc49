"""One broker a test."""

from __future__ import annotations

import pytest

from tests.unit.usecases.wiring import Broker, a_broker


@pytest.fixture
def broker() -> Broker:
    return a_broker()
