"""Operators in the settings: whoever can never be one is refused with file, line and a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.config.reading import ConfigError
from broker.config.settings import Settings, load_settings
from broker.domain.operators import OperatorRole
from broker.domain.spiffe import SpiffeId

BEFORE = """trust_domain: example.org
spiffe_endpoint_socket: unix:///run/agent.sock
vault:
  address: https://vault.example.org
catalog: catalog
"""


def settings(tmp_path: Path, operators: str, before: str = BEFORE) -> Settings:
    path = tmp_path / "broker.yaml"
    path.write_text(before + operators)
    return load_settings(path)


def roles(given: Settings, who: str) -> frozenset[OperatorRole]:
    return given.who_operates().roles_of(SpiffeId.parse(who))


def test_nobody_operates_unless_the_settings_say_so(tmp_path: Path) -> None:
    given = settings(tmp_path, "")
    assert given.operators == ()
    assert not roles(given, "spiffe://example.org/operator/ann")


def test_ids_and_groups_have_the_roles_that_they_are_given(tmp_path: Path) -> None:
    given = settings(
        tmp_path,
        """operators:
  - id: spiffe://example.org/oncall/
    roles: [viewer, operator]
  - id: spiffe://example.org/platform/ci
    roles: [registrar, approver]
""",
    )
    assert roles(given, "spiffe://example.org/oncall/ann") == {OperatorRole.VIEWER, OperatorRole.OPERATOR}
    assert roles(given, "spiffe://example.org/platform/ci") == {OperatorRole.REGISTRAR, OperatorRole.APPROVER}
    assert not roles(given, "spiffe://example.org/platform/other")


@pytest.mark.parametrize(
    ("operator", "what"),
    [
        ("spiffe://example.org/agent/", "an agent can never be an operator"),
        ("spiffe://example.org/agent/ops/ann", "an agent can never be an operator"),
        ("spiffe://example.org/tasklease/broker", "the broker itself can never be an operator"),
        ("spiffe://example.org/tasklease/", "the broker itself can never be an operator"),
        ("spiffe://example.org/", "a whole trust domain cannot be an operator"),
        ("spiffe://elsewhere.org/ops/", "the broker's own trust domain"),
        ("ops/ann", "scheme is not spiffe://"),
    ],
)
def test_who_can_never_be_one_is_refused_with_its_line(tmp_path: Path, operator: str, what: str) -> None:
    text = f"operators:\n  - id: spiffe://example.org/ops/ann\n    roles: [viewer]\n  - id: {operator}\n    roles: [operator]\n"
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, text)
    (problem,) = caught.value.problems
    assert (problem.line, problem.field) == (9, "operators.1.id")
    assert what in problem.what


def test_a_broker_of_another_name_is_no_operator_either(tmp_path: Path) -> None:
    text = "broker_id: spiffe://example.org/ops/broker\noperators:\n  - id: spiffe://example.org/ops/\n    roles: [operator]\n"
    with pytest.raises(ConfigError, match="the broker itself"):
        settings(tmp_path, text)


@pytest.mark.parametrize(
    ("lines", "field"),
    [
        ("roles: []", "operators.0.roles"),
        ("roles: [admin]", "operators.0.roles.0"),
        ("roles: operator", "operators.0.roles"),
        ("role: [operator]", "operators.0.role"),
        ("# nothing", "operators.0.roles"),
    ],
)
def test_roles_are_of_the_four_and_at_least_one(tmp_path: Path, lines: str, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, f"operators:\n  - id: spiffe://example.org/ops/ann\n    {lines}\n")
    assert field in [problem.field for problem in caught.value.problems]
