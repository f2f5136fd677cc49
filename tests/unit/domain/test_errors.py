"""The tree of errors in itself; how it looks on the wire is in tests/unit/server/test_status.py."""

from __future__ import annotations

import pytest

from broker.domain.errors import (
    BrokerError,
    DenialClass,
    DeniedError,
    FieldInvalidError,
    FieldViolation,
    TaskFrozenError,
)
from tests.unit.server.errors import leaves, sample


def test_every_leaf_has_a_reason_of_its_own() -> None:
    # A frozen task is on hold as well: the same reason, with another class.
    reasons = [kind.__dict__.get("reason") for kind in leaves() if kind is not TaskFrozenError]
    assert None not in reasons
    assert len(reasons) == len(set(reasons))
    assert BrokerError.reason not in reasons


def test_a_denial_says_what_it_means_to_the_agent_and_nothing_else_does() -> None:
    for kind in leaves():
        if issubclass(kind, DeniedError):
            assert isinstance(kind.denial_class, DenialClass), kind
        else:
            assert kind.denial_class is None, kind


@pytest.mark.parametrize("kind", leaves())
def test_an_error_says_something_in_one_line(kind: type[BrokerError]) -> None:
    error = sample(kind)
    assert str(error) == error.text
    assert error.text.strip()
    assert "\n" not in error.text


def test_not_found_is_said_in_the_same_words_for_every_task() -> None:
    for kind in leaves():
        if kind.__name__.endswith("NotFoundError"):
            assert sample(kind).metadata == {}
            assert sample(kind).text == f"no such {kind.reason.split('_', maxsplit=1)[0].lower()}"


def test_every_violation_is_in_the_text() -> None:
    error = FieldInvalidError(
        [FieldViolation(field="a", remedy="more"), FieldViolation(field="b", remedy="less")]
    )
    assert error.text == "a: more; b: less"
    assert [violation.field for violation in error.violations] == ["a", "b"]
