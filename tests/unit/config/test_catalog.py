"""The catalog: what is taken, and what is said of what is not."""

from __future__ import annotations

import dataclasses
import re
from datetime import timedelta
from pathlib import Path

import pytest

from broker.config.catalog import load_catalog
from broker.config.reading import ConfigError, Problem
from broker.domain.catalog import Destination, IssueMethod, Revocation
from broker.domain.classification import Classification
from broker.domain.engines import Engine
from tests.unit.config.texts import CATALOG, with_line, write


def problems(path: Path) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        load_catalog(path)
    return caught.value.problems


WRONG: dict[str, tuple[int, str, str, str]] = {
    "no version": (1, "", "version", "is missing: add it"),
    "another version": (1, "version: 2", "version", "input should be 1"),
    "a version that is true": (1, "version: true", "version", "input should be 1"),
    "a version that is a text": (1, "version: '1'", "version", "input should be 1"),
    "an unknown section": (1, "version: 1\nrules: {}", "rules", "unknown key"),
    "a misspelt section": (7, "task_type:", "task_type", "unknown key (did you mean 'task_types'?): remove it"),
    "a misspelt key": (12, "    heartbeats: 10s", "task_types.reconcile.heartbeats", "(did you mean 'heartbeat'?)"),
    "a key of another section": (9, "    environment: staging\n    ttl: 60s", "task_types.reconcile.ttl", "unknown key"),
    "a section that is a list": (2, "agent_classes: []\nx:", "agent_classes", "valid dictionary"),
    "a section that is empty": (2, "agent_classes:\nx:", "agent_classes", "valid dictionary"),
    "an entry that is nothing": (8, "  reconcile:\n  other:", "task_types.reconcile", "valid dictionary"),
    "a name in capitals": (3, "  Invoice-Bot:", "agent_classes.Invoice-Bot", "string should match pattern"),
    "a name with a dot": (3, "  invoice.bot:", "agent_classes.invoice.bot", "string should match pattern"),
    "a name that ends in a dash": (3, "  invoice-:", "agent_classes.invoice-", "string should match pattern"),
    "a name that is too long": (3, f"  {'x' * 65}:", f"agent_classes.{'x' * 65}", "string should match pattern"),
    "a description that is too long": (
        4, f"    description: {'x' * 501}", "agent_classes.invoice-bot.description", "at most 500 characters",
    ),
    "a trust domain in capitals": (
        4, "    trust_domain: Partner.test", "agent_classes.invoice-bot.trust_domain", "match pattern",
    ),
    "a trust domain with a scheme": (
        4, "    trust_domain: spiffe://partner.test", "agent_classes.invoice-bot.trust_domain", "match pattern",
    ),
    "a trust domain that is empty": (4, "    trust_domain: ''", "agent_classes.invoice-bot.trust_domain", "match pattern"),
    "a trust domain that is too long": (
        4, f"    trust_domain: {'a' * 256}", "agent_classes.invoice-bot.trust_domain", "at most 255 characters",
    ),
    "no task types": (5, "", "agent_classes.invoice-bot.task_types", "is missing: add it"),
    "task types that are a text": (5, "    task_types: reconcile", "agent_classes.invoice-bot.task_types", "valid list"),
    "a task type that is a number": (5, "    task_types: [1]", "agent_classes.invoice-bot.task_types.0", "valid string"),
    "no tasks": (6, "    max_tasks: 0", "agent_classes.invoice-bot.max_tasks", "greater than or equal to 1"),
    "tasks in a text": (6, "    max_tasks: '8'", "agent_classes.invoice-bot.max_tasks", "valid integer"),
    "tasks that are true": (6, "    max_tasks: true", "agent_classes.invoice-bot.max_tasks", "valid integer"),
    "an unlisted task type": (
        5, "    task_types: [reconcil]", "agent_classes.invoice-bot.task_types.0",
        "there is no task type 'reconcil' (did you mean 'reconcile'?): add it or correct the name",
    ),
    "an unlisted role": (
        10, "    roles:\n      - orders\n      - customers", "task_types.reconcile.roles.1",
        "there is no credential role 'customers': add it or correct the name",
    ),
    "a duration that is a number": (11, "    max_duration: 30", "task_types.reconcile.max_duration", "give a duration such as"),
    "a heartbeat that is too quick": (12, "    heartbeat: 0s", "task_types.reconcile.heartbeat", "give 1s to 5m"),
    "a heartbeat that is too slow": (12, "    heartbeat: 301s", "task_types.reconcile.heartbeat", "give 1s to 5m"),
    "a task without end": (11, "    max_duration: 24h1s", "task_types.reconcile.max_duration", "give 1s to 24h"),
    "too many leases": (13, "    max_leases: 501", "task_types.reconcile.max_leases", "less than or equal to 500"),
    "an unknown engine": (16, "    engine: oracle", "credential_roles.orders.engine", "input should be 'postgresql', 'mysql'"),
    "an engine that cannot revoke": (16, "    engine: aws-sts", "credential_roles.orders.revocation", "what aws-sts hands out cannot be revoked: say unrevocable"),
    "a mount that leads elsewhere": (17, "    mount: ../sys", "credential_roles.orders.mount", "match pattern"),
    "a mount with a wildcard": (17, "    mount: 'data*'", "credential_roles.orders.mount", "match pattern"),
    "a path that leads elsewhere": (18, "    path: creds/../../sys", "credential_roles.orders.path", "no relative segments"),
    "a path with a wildcard": (18, "    path: 'creds/+'", "credential_roles.orders.path", "match pattern"),
    "a path that begins with a slash": (18, "    path: /creds", "credential_roles.orders.path", "match pattern"),
    "an unknown classification": (19, "    classification: top", "credential_roles.orders.classification", "'public', 'internal'"),
    "no host": (21, "      host: ''", "credential_roles.orders.destination.host", "at least 1 character"),
    "a port that is none": (22, "      port: 65536", "credential_roles.orders.destination.port", "less than or equal to 65535"),
    "a scheme in capitals": (23, "      scheme: PG", "credential_roles.orders.destination.scheme", "match pattern"),
    "a time to live that is too short": (24, "    ttl: 4s", "credential_roles.orders.ttl", "give 5s up to max_ttl"),
    "a time to live beyond its maximum": (24, "    ttl: 11m", "credential_roles.orders.ttl", "give 5s up to max_ttl"),
    "a maximum beyond a day": (25, "    max_ttl: 25h", "credential_roles.orders.max_ttl", "at most 24h"),
    "no word about revocation": (26, "", "credential_roles.orders.revocation", "is missing: add it"),
    "what cannot be revoked": (
        26, "    revocation: unrevocable", "credential_roles.orders.revocation", "say accept_unrevocable: true and keep max_ttl at 15m",
    ),
    "what cannot be revoked, nearly accepted": (
        26, "    revocation: unrevocable\n    accept_unrevocable: 'yes'", "credential_roles.orders.accept_unrevocable",
        "valid boolean",
    ),
    "parameters of a read": (26, "    revocation: revocable\n    parameters: {ttl: 1h}", "credential_roles.orders.parameters", "use method: update"),
    "a parameter that is a number": (
        26, "    revocation: revocable\n    method: update\n    parameters: {ttl: 1}", "credential_roles.orders.parameters.ttl",
        "valid string",
    ),
    "a parameter that allows anything": (
        26, "    revocation: revocable\n    method: update\n    parameters: {ttl: '*'}", "credential_roles.orders.parameters",
        "ttl: no * at either end",
    ),
    "a parameter whose name is a wildcard": (
        26, "    revocation: revocable\n    method: update\n    parameters: {'*': x}", "credential_roles.orders.parameters",
        "give names of a-z 0-9 _ -",
    ),
}  # fmt: skip
"""The line of the good catalog that is replaced, by what; the field that is named, and the words."""


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_with_file_line_and_remedy(tmp_path: Path, name: str) -> None:
    line, new, field, words = WRONG[name]
    text = with_line(CATALOG, line, new)
    file = write(tmp_path, text)
    found = [problem for problem in problems(file) if problem.field == field and words in problem.what]
    assert found, [str(problem) for problem in problems(file)]
    (problem,) = found
    assert problem.file == str(file)
    assert 1 <= problem.line <= len(text.splitlines())
    if words != "is missing: add it":
        last = re.escape(field.removesuffix(".0").removesuffix(".1").rpartition(".")[2])
        assert re.search(rf"{last}|- customers", text.splitlines()[problem.line - 1])
    assert str(problem) == f"{file}:{problem.line}: {field}: {problem.what}"


def test_a_good_catalog_is_read_as_it_stands(tmp_path: Path) -> None:
    catalog = load_catalog(write(tmp_path, CATALOG))
    agent_class = catalog.agent_classes["invoice-bot"]
    assert (agent_class.name, agent_class.description) == ("invoice-bot", "Reconciles")
    assert (agent_class.task_types, agent_class.max_tasks) == (frozenset({"reconcile"}), 8)
    task_type = catalog.task_types["reconcile"]
    assert (task_type.environment, task_type.roles, task_type.max_leases) == (
        "staging",
        frozenset({"orders"}),
        25,
    )
    assert (task_type.max_duration, task_type.heartbeat) == (timedelta(minutes=30), timedelta(seconds=10))
    role = catalog.credential_roles["orders"]
    assert (role.engine, role.method, role.classification) == (
        Engine.POSTGRESQL,
        IssueMethod.READ,
        Classification.INTERNAL,
    )
    assert (role.vault_path, role.vault_policy) == ("database/creds/orders", "tasklease-role-orders")
    assert role.destination == Destination(host="db.test", port=5432, scheme="postgresql")
    assert (role.ttl, role.max_ttl) == (timedelta(seconds=60), timedelta(minutes=10))
    assert (role.revocation, dict(role.parameters)) == (Revocation.REVOCABLE, {})


def test_the_smallest_catalog_allows_nothing(tmp_path: Path) -> None:
    catalog = load_catalog(write(tmp_path, "version: 1\n"))
    assert (catalog.agent_classes, catalog.task_types, catalog.credential_roles) == ({}, {}, {})


def test_a_catalog_cannot_be_changed(tmp_path: Path) -> None:
    catalog = load_catalog(write(tmp_path, CATALOG))
    with pytest.raises(TypeError):
        catalog.agent_classes["other"] = catalog.agent_classes["invoice-bot"]  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        catalog.digest = ""  # type: ignore[misc]
    with pytest.raises(TypeError):
        catalog.credential_roles["orders"].parameters["ttl"] = "1h"  # type: ignore[index]


def test_all_that_is_wrong_in_all_files_is_said_at_once(tmp_path: Path) -> None:
    write(tmp_path, with_line(with_line(CATALOG, 6, "    max_tasks: 0"), 12, "    heartbeat: 1"), "a.yaml")
    write(tmp_path, "version: 1\nx: 1\ny: 2\n", "b.yaml")
    write(tmp_path, "a: [", "c.yaml")
    found = [(Path(problem.file).name, problem.line) for problem in problems(tmp_path)]
    assert found[:4] == [("a.yaml", 6), ("a.yaml", 12), ("b.yaml", 2), ("b.yaml", 3)]
    assert [name for name, _line in found[4:]] == ["c.yaml"]


# Folders ----------------------------------------------------------------------------------------------------


def split(folder: Path) -> None:
    lines = CATALOG.splitlines(keepends=True)
    write(folder, "version: 1\n" + "".join(lines[1:6]), "10-agents.yaml")
    write(folder, "version: 1\n" + "".join(lines[6:13]), "20-tasks.yml")
    write(folder, "version: 1\n" + "".join(lines[13:]), "30-roles.yaml")


def test_the_files_of_a_folder_are_taken_together(tmp_path: Path) -> None:
    (tmp_path / "split").mkdir()
    split(tmp_path / "split")
    whole = load_catalog(write(tmp_path, CATALOG))
    assert load_catalog(tmp_path / "split") == whole


def test_other_files_and_folders_within_are_left_alone(tmp_path: Path) -> None:
    split(tmp_path)
    wanted = load_catalog(tmp_path)
    for name in ("README.md", "x.yaml.bak", "x.yaml~", ".x.yaml.swp", "x.json"):
        write(tmp_path, "not: [yaml", name)
    (tmp_path / "more.yaml").mkdir()
    (tmp_path / "more").mkdir()
    write(tmp_path / "more", "not: [yaml", "x.yaml")
    assert load_catalog(tmp_path) == wanted


@pytest.mark.parametrize(
    "section", ["agent_classes.invoice-bot", "task_types.reconcile", "credential_roles.orders"]
)
def test_a_name_in_two_files_is_a_problem_that_names_both(tmp_path: Path, section: str) -> None:
    split(tmp_path)
    first = {
        "agent_classes": "10-agents.yaml",
        "task_types": "20-tasks.yml",
        "credential_roles": "30-roles.yaml",
    }
    original = tmp_path / first[section.partition(".")[0]]
    copy = write(tmp_path, original.read_bytes(), "90-copy.yaml")
    (problem,) = problems(tmp_path)
    assert (problem.file, problem.line, problem.field) == (str(copy), 3, section)
    assert problem.what == f"stands in {original}:3 as well: keep one"


def test_every_file_says_its_version(tmp_path: Path) -> None:
    split(tmp_path)
    file = write(tmp_path, "agent_classes: {}\n", "40.yaml")
    (problem,) = problems(tmp_path)
    assert (problem.file, problem.field) == (str(file), "version")


@pytest.mark.parametrize("place", ["", "none", "none.yaml", "empty", "x" * 300])
def test_where_there_is_no_catalog_it_says_so(tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path, "", "README.md")
    (problem,) = problems(tmp_path / place)
    assert (problem.file, problem.line) == (str(tmp_path / place), 0)
    assert (
        "there is no catalog here: give a .yaml file or a folder of them" in problem.what
        or "cannot be read" in (problem.what)
    )


# Digest -----------------------------------------------------------------------------------------------------


def test_the_digest_names_what_is_allowed_and_not_how_it_is_written(tmp_path: Path) -> None:
    digest = load_catalog(write(tmp_path, CATALOG)).digest
    assert re.fullmatch("[0-9a-f]{64}", digest)
    for same in (
        "# comment\n" + CATALOG,
        CATALOG.replace("30m", "1800s"),
        CATALOG.replace("    heartbeat: 10s\n", ""),  # the default
        CATALOG.replace("[orders]", "\n      - orders"),
        CATALOG.replace("staging", '"staging"'),
    ):
        assert load_catalog(write(tmp_path, same)).digest == digest


@pytest.mark.parametrize("line", [4, 6, 9, 11, 12, 13, 17, 18, 19, 21, 22, 23, 24, 25])
def test_the_digest_changes_with_every_value(tmp_path: Path, line: int) -> None:
    other = {
        4: "description: Other", 6: "max_tasks: 9", 9: "environment: other", 11: "max_duration: 31m", 12: "heartbeat: 11s",
        13: "max_leases: 26", 17: "mount: other", 18: "path: other", 19: "classification: public", 21: "  host: other",
        22: "  port: 1", 23: "  scheme: other", 24: "ttl: 61s", 25: "max_ttl: 11m",
    }  # fmt: skip
    digest = load_catalog(write(tmp_path, CATALOG)).digest
    changed = with_line(CATALOG, line, "    " + other[line])
    assert load_catalog(write(tmp_path, changed)).digest != digest


def test_a_class_is_in_the_brokers_trust_domain_unless_it_names_another(tmp_path: Path) -> None:
    file = write(tmp_path, CATALOG)
    own = load_catalog(file, trust_domain="example.test")
    assert own.trust_domains == {"example.test"}
    assert own.agent_class("example.test", "invoice-bot") is own.agent_classes["invoice-bot"]
    assert own.agent_class("partner.test", "invoice-bot") is None
    other = load_catalog(
        write(tmp_path, with_line(CATALOG, 4, "    trust_domain: partner.test")), trust_domain="example.test"
    )
    assert other.trust_domains == {"partner.test"}
    assert other.agent_class("partner.test", "invoice-bot") is not None
    assert other.agent_class("example.test", "invoice-bot") is None
    assert other.digest != own.digest


def test_where_nobody_says_whose_the_catalog_is_a_class_is_nobodys(tmp_path: Path) -> None:
    catalog = load_catalog(write(tmp_path, CATALOG))
    assert catalog.trust_domains == frozenset()
    assert catalog.agent_class("example.test", "invoice-bot") is None


# Canaries ---------------------------------------------------------------------------------------------------

TOOLS = """\
tools:
  query:
    effect: read
    resource: orders
    obligations: {credential_role: orders}
"""


@pytest.mark.parametrize("canary", [True, False])
def test_tools_and_roles_can_be_canaries(tmp_path: Path, *, canary: bool) -> None:
    word = f"    canary: {str(canary).lower()}\n"
    catalog = load_catalog(write(tmp_path, CATALOG + word + TOOLS + word))
    assert (catalog.credential_roles["orders"].canary, catalog.tools["query"].canary) == (canary, canary)


def test_what_does_not_say_so_is_no_canary(tmp_path: Path) -> None:
    catalog = load_catalog(write(tmp_path, CATALOG + TOOLS))
    assert not catalog.credential_roles["orders"].canary
    assert not catalog.tools["query"].canary


def test_a_canary_is_one_or_is_not(tmp_path: Path) -> None:
    (problem,) = problems(write(tmp_path, CATALOG + "    canary: 'yes'\n"))
    assert (problem.line, problem.field) == (27, "credential_roles.orders.canary")
    assert "valid boolean" in problem.what


def test_honest_work_is_not_led_to_a_canary(tmp_path: Path) -> None:
    (problem,) = problems(write(tmp_path, CATALOG + "    canary: true\n" + TOOLS))
    assert (problem.line, problem.field) == (32, "tools.query.obligations.credential_role")
    assert problem.what == "'orders' is a canary: honest work with this tool would touch it"


def test_the_digest_changes_with_a_canary(tmp_path: Path) -> None:
    digest = load_catalog(write(tmp_path, CATALOG)).digest
    assert load_catalog(write(tmp_path, CATALOG + "    canary: false\n")).digest == digest
    assert load_catalog(write(tmp_path, CATALOG + "    canary: true\n")).digest != digest
