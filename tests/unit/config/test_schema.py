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
GOOD["agent_classes"] |= {
    "processes": {
        "task_types": [],
        "attestation": {"kind": "unix", "gids": "70000-70999", "user": "agent", "path": "/bin/agent"},
        "spiffe_id": "/agent/{class}/eu-{instance}",
        "x509_svid_ttl": "5m",
        "jwt_svid_ttl": "1m",
        "instances": 2,
        "max_instances": 10,
        "parent": "/spire/agent/x",
    },
    "named": {
        "task_types": [],
        "attestation": {"kind": "unix", "group": "agent-{instance}"},
        "instances": ["x"],
    },
    "containers": {"task_types": [], "attestation": {"kind": "docker", "label": "a.b", "image": "i:1"}},
    "pods": {
        "task_types": [],
        "attestation": {
            "kind": "kubernetes",
            "namespace": "agents",
            "service_account": "bot",
            "pod_name": "bot-{instance}",
            "container": "main",
        },
    },
    "units": {"task_types": [], "attestation": {"kind": "systemd", "unit": "bot@{instance}.service"}},
}
GOOD["credential_roles"]["orders"]["canary"] = False
GOOD["answers"] = [
    {"do": "quarantine", "detectors": ["canary"], "rules": ["touched"], "tell": ["siem"]},
    {
        "do": "warn",
        "severity": "medium",
        "confidence": 0.5,
        "agent_classes": ["invoice-bot"],
        "task_types": ["reconcile"],
    },
]
ACROSS = re.compile(
    r"svid_ttl: give 10s|gids: from 1000|: give a text with|gids, group: keep one|attestation: gids|"
    r"instances: (these are|nothing tells|gids go)|spiffe_id: (give|.* is another)|parent: (no empty|is SPIRE)|"
    r"would be an instance of|ttl: give 5s|max_ttl: at most|path: no relative|parameters: (a read|give names|.*: (no \*|give at most))|"
    r"revocation: a credential|heartbeat: give 1s|max_duration: give 1s|there is no (task type|credential role|agent class)|"
    r"rules: .* has no rule|never decides"
)
"""What is said of several values together, or of what durations mean: a schema cannot."""
VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [
        None, True, False, 0, 1, -1, 8, 500, 501, 10_000, 10_001, 65_535, 65_536, 1.5, "", "x", "X", "a-b", "-a", "a-", "a.b",
        "x" * 64, "x" * 65, "x" * 254, "x" * 501, "60s", "1h30m", "5m1s", "1s1m", "99999h", "10", "٣s", "creds/a", "creds/../a",
        "a/", "/a", "*", "postgresql", "generic", "read", "update", "public", "restricted", "revocable", "unrevocable",
        "reconcile", "orders", "a\n", [], ["orders"], ["reconcile"], [1], [None], ["X"], ["a"] * 65, ["a"] * 201, {},
        "70000-70010", "5-6", "1-2-3", "{instance}", "a-{instance}", "/agent/{class}/{instance}", "/spire/server", "unix",
        "docker", "kubernetes", "systemd", "canary", "freeze", "high", 0.5, 2.5, ["drift"], ["signal"], ["a", "a"], ["a\n"], ["b", "c"], 100_000, 100_001,
        {"kind": "unix"}, {"kind": "docker"}, {"kind": "kubernetes"}, {"kind": "systemd", "label": "x"},
        {"a": "b"}, {"a": 1}, {"A": {}}, {str(n): "x" for n in range(33)},
    ]
)  # fmt: skip
KEYS = (
    "kind",
    "gids",
    "instances",
    "parameters",
    "method",
    "canary",
    "severity",
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
