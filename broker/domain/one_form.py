"""JSON in one form: equal content is equal text, whatever order it was put together in."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final


def _as_json_has_it(value: object) -> object:
    message = f"JSON has no {type(value).__name__}"
    raise TypeError(message)


def one_form(
    *, ensure_ascii: bool, allow_nan: bool, default: Callable[[Any], object] = _as_json_has_it
) -> Callable[[object], str]:
    """What writes JSON with sorted keys and without spaces.

    The standard library's `JSONEncoder.encode` puts its encoder together anew at each call, which takes as long as writing a
    small object: it is put together once here, where the library has it in C, and gives the same text. What contains itself
    ends in a RecursionError either way.

    Args:
        ensure_ascii: escape all other characters.
        allow_nan: write numbers that JSON does not have as the library does; else ValueError.
        default: makes something that JSON has of what it does not have; else TypeError.
    """
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return json.JSONEncoder(
            default=default,
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=ensure_ascii,
            allow_nan=allow_nan,
            check_circular=False,
        ).encode
    texts: Any = json.encoder.encode_basestring_ascii if ensure_ascii else json.encoder.encode_basestring
    parts: Final = make(None, default, texts, None, ":", ",", True, False, allow_nan)  # noqa: FBT003 - the library's

    def encode(value: object) -> str:
        return "".join(parts(value, 0))

    return encode
