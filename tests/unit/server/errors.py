"""One of every error that the broker answers with."""

from __future__ import annotations

from datetime import timedelta

from broker.domain import errors
from broker.domain.errors import BrokerError


def leaves(kind: type[BrokerError] = BrokerError) -> list[type[BrokerError]]:
    """The classes of the tree that are raised: those without subclasses."""
    below = kind.__subclasses__()
    return [leaf for sub in below for leaf in leaves(sub)] if below else [kind]


def sample(kind: type[BrokerError]) -> BrokerError:
    if issubclass(kind, errors.FieldInvalidError):
        return kind([errors.FieldViolation(field="some.field", remedy="another value")])
    if issubclass(kind, errors.LimitReachedError) and kind.__init__ is not BrokerError.__init__:
        return kind("3 actions" if kind is errors.ActionLimitReachedError else 3)  # type: ignore[arg-type]
    if issubclass(kind, errors.OperatorRoleMissingError):
        return kind(["operator"])
    if issubclass(kind, errors.IdempotentResultGoneError):
        return kind("lease-7")
    if kind.__init__ is not BrokerError.__init__:
        return kind()  # type: ignore[call-arg]  # those that say their text themselves
    return kind("in words", retry_after=timedelta(seconds=2), metadata={"extra": "yes"})
