"""R6 in the log: of an exception its type and place are written, never its text."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from broker.logs import JsonFormatter, TextFormatter

SECRET = "hvs.this-is-a-token"


def fail() -> None:
    raise RuntimeError(SECRET)


def record(message: str) -> logging.LogRecord:
    try:
        fail()
    except RuntimeError:
        return logging.LogRecord("broker.test", logging.ERROR, __file__, 1, message, (), sys.exc_info())
    pytest.fail("nothing was raised")


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_an_exceptions_text_is_not_written_but_its_type_and_place_are(formatter: logging.Formatter) -> None:
    line = formatter.format(record("a round failed"))
    assert SECRET not in line
    assert "RuntimeError" in line
    assert "test_logs.py" in line
    assert "a round failed" in line


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_a_record_is_one_line_whatever_it_says(formatter: logging.Formatter) -> None:
    assert len(formatter.format(record("first\r\n2026-01-01 INFO broker: forged")).splitlines()) == 1


def test_json_is_json() -> None:
    line = json.loads(JsonFormatter().format(record("a round failed")))
    assert (line["level"], line["logger"], line["exception"]) == ("error", "broker.test", "RuntimeError")
