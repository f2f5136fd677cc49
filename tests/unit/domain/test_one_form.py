"""JSON in one form: what was written before stays readable by its hash."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.one_form import one_form

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(value=VALUES, ensure_ascii=st.booleans())
def test_it_is_what_the_library_writes(value: Any, *, ensure_ascii: bool) -> None:
    library = json.JSONEncoder(
        sort_keys=True, separators=(",", ":"), ensure_ascii=ensure_ascii, allow_nan=False
    )
    assert one_form(ensure_ascii=ensure_ascii, allow_nan=False)(value) == library.encode(value)


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_a_number_that_json_does_not_have_is_refused(number: float) -> None:
    write = one_form(ensure_ascii=True, allow_nan=False)
    with pytest.raises(ValueError, match="JSON"):
        write({"a": [number]})
    assert write({"a": 1}) == '{"a":1}'


def test_what_json_does_not_have_is_refused_and_leaves_nothing_behind() -> None:
    write = one_form(ensure_ascii=True, allow_nan=True)
    value: dict[str, object] = {"a": {1, 2}}
    with pytest.raises(TypeError, match="JSON has no set"):
        write(value)
    value["a"] = 1
    assert write(value) == '{"a":1}'


def test_where_the_library_has_no_encoder_in_c_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json.encoder, "c_make_encoder", None)
    assert (
        one_form(ensure_ascii=False, allow_nan=False)({"é": [1, 2.5], "a": None}) == '{"a":null,"é":[1,2.5]}'
    )
