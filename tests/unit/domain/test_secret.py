"""A secret shows its value to nobody who does not ask for it by name (rule R6)."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import pprint
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.identifiers import TokenAccessor
from broker.domain.secret import REDACTED, Secret
from broker.logs import JsonFormatter
from broker.ports.issuing import TokenGrant

VALUE = "hvs.CAESIJ-the-value"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    secret: Secret


def formatted(secret: Secret) -> str:
    record = logging.LogRecord("x", logging.INFO, "x.py", 1, "token %s %r", (secret, secret), None)
    return JsonFormatter().format(record) + logging.Formatter().format(record)


def in_a_traceback(secret: Secret) -> str:
    try:
        raise RuntimeError(secret)  # noqa: TRY301 - its traceback is what is wanted
    except RuntimeError as error:
        lines = traceback.TracebackException.from_exception(error, capture_locals=True).format()
        return "".join(lines)


@pytest.mark.parametrize(
    "show",
    [
        str,
        repr,
        ascii,
        pprint.pformat,
        formatted,
        in_a_traceback,
        lambda secret: f"{secret} {secret!r} {secret!s} {secret:>40}",
        lambda secret: "%s %r" % (secret, secret),  # noqa: UP031 - old formatting is one of the ways
        lambda secret: "{} {!r} {:.50}".format(secret, secret, secret),  # noqa: UP032
        lambda secret: repr([secret, {"k": secret}, (secret,), {"nested": [secret]}]),
        lambda secret: repr(Holder(secret=secret)),
        lambda secret: repr(TokenGrant(accessor=TokenAccessor("a"), token=secret)),
        lambda secret: json.dumps({"k": secret}, default=str),
        lambda secret: str(ValueError(secret)) + repr(ValueError(secret)),
        lambda secret: str(dir(secret)),
    ],
)
def test_no_way_of_showing_it_shows_its_value(show: Callable[[Secret], str]) -> None:
    assert VALUE not in show(Secret(VALUE))
    assert "the-value" not in show(Secret(VALUE))


@pytest.mark.parametrize("copying", [copy.copy, copy.deepcopy, pickle.dumps])
def test_it_cannot_be_copied_or_pickled(copying: Callable[[Secret], object]) -> None:
    with pytest.raises(TypeError) as caught:
        copying(Secret(VALUE))
    assert VALUE not in str(caught.value)


@pytest.mark.parametrize(
    "use",
    [json.dumps, hash, vars, len, iter, bytes, asdict, lambda secret: secret + "", lambda secret: {secret}],
)
def test_it_is_no_string(use: Callable[[Secret], object]) -> None:
    with pytest.raises(TypeError) as caught:
        use(Secret(VALUE))
    assert VALUE not in str(caught.value)


def test_a_holder_of_one_cannot_be_turned_into_a_dictionary() -> None:
    with pytest.raises(TypeError):
        asdict(Holder(secret=Secret(VALUE)))


@given(st.text(max_size=50), st.text(max_size=50))
def test_it_opens_by_reveal_and_compares_by_value(one: str, other: str) -> None:
    assert Secret(one).reveal() == one
    assert (Secret(one) == Secret(other)) is (one == other)
    assert Secret(one) != one
    assert (repr(Secret(one)), str(Secret(one)), f"{Secret(one):x}") == (REDACTED,) * 3
