"""The published JSON Schema says what the reader says, of whatever file."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from broker.config.catalog import json_schema, load_catalog
from broker.config.reading import ConfigError, parse_duration
from tests.unit.config.schemas import accepts
from tests.unit.config.texts import CATALOG, write

REPOSITORY = Path(__file__).parents[3]
SCHEMA = json.loads(json_schema())
GOOD = json.loads(json.dumps(YAML(typ="safe", pure=True).load(CATALOG)))
ACROSS = re.compile(
    r"ttl: give 5s|max_ttl: at most|path: no relative|parameters: (a read|give names|.*: (no \*|give at most))|"
    r"revocation: a credential|heartbeat: give 1s|max_duration: give 1s|there is no (task type|credential role)"
)
"""What is said of several values together, or of what durations mean: a schema cannot."""
VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [
        None, True, False, 0, 1, -1, 8, 500, 501, 10_000, 10_001, 65_535, 65_536, 1.5, "", "x", "X", "a-b", "-a", "a-", "a.b",
        "x" * 64, "x" * 65, "x" * 254, "x" * 501, "60s", "1h30m", "5m1s", "1s1m", "99999h", "10", "٣s", "creds/a", "creds/../a",
        "a/", "/a", "*", "postgresql", "generic", "read", "update", "public", "restricted", "revocable", "unrevocable",
        "reconcile", "orders", "a\n", [], ["orders"], ["reconcile"], [1], [None], ["X"], ["a"] * 65, ["a"] * 201, {},
        {"a": "b"}, {"a": 1}, {"A": {}}, {str(n): "x" for n in range(33)},
    ]
)  # fmt: skip
KEYS = (
    "parameters",
    "method",
    "accept_unrevocable",
    "description",
    "version",
    "unknown",
    "X",
    "a.b",
    "x" * 65,
    "",
)


def places(node: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every place in a document."""
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


@st.composite
def documents(draw: st.DrawFn) -> Any:
    """The good catalog with one to three things changed, removed or added."""
    document = copy.deepcopy(GOOD)
    for _ in range(draw(st.integers(1, 3))):
        *above, last = draw(st.sampled_from([place for place in places(document) if place]))
        node = document
        for step in above:
            node = node[step]
        match draw(st.sampled_from(["change", "change", "remove", "add"])):
            case "change":
                node[last] = copy.deepcopy(draw(VALUES))
            case "remove":
                del node[last]
            case _ if isinstance(node, dict):
                node[draw(st.sampled_from(KEYS))] = copy.deepcopy(draw(VALUES))
            case _:
                node.append(copy.deepcopy(draw(VALUES)))
        if not document:
            break
    return document


def read(folder: Path, document: Any) -> list[str]:
    """What the reader says is wrong."""
    try:
        load_catalog(write(folder, json.dumps(document, ensure_ascii=False)))  # YAML takes JSON
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents())
def test_schema_and_reader_take_and_refuse_the_same(tmp_path: Path, document: Any) -> None:
    problems = read(tmp_path, document)
    of_form = [problem for problem in problems if not ACROSS.search(problem)]
    assert accepts(SCHEMA, document) == (not of_form), problems


def test_the_good_catalog_is_good_to_both(tmp_path: Path) -> None:
    assert accepts(SCHEMA, GOOD)
    assert read(tmp_path, GOOD) == []


@pytest.mark.parametrize(
    "file", sorted((REPOSITORY / "examples/catalog").iterdir()), ids=lambda file: file.name
)
def test_the_examples_are_good_to_both(file: Path) -> None:
    assert accepts(SCHEMA, json.loads(json.dumps(YAML(typ="safe", pure=True).load(file.read_text()))))
    assert load_catalog(file).agent_classes


def test_the_published_schema_is_the_one_that_is_made() -> None:
    assert (REPOSITORY / "docs/catalog.schema.json").read_text() == json_schema()


def test_its_defaults_are_what_it_would_take_itself() -> None:
    for model in (SCHEMA, *SCHEMA["$defs"].values()):
        for name, part in model.get("properties", {}).items():
            if "default" in part:
                assert accepts(part, part["default"], SCHEMA), name


@given(st.text(alphabet="0123456789hms ٣-", max_size=12))
def test_durations_are_the_same_to_both(text: str) -> None:
    try:
        parse_duration(text)
        taken = True
    except ValueError:
        taken = False
    part = SCHEMA["$defs"]["TaskTypeModel"]["properties"]["max_duration"]
    assert accepts(part, text) == taken
