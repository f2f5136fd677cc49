"""Policies say exactly what the catalog says: one path, one capability, the parameters, no wildcard."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from broker.adapters.vault.provisioning import BROKER_POLICY, ROLE_PREFIX, broker_policy, role_policy
from broker.config.catalog import load_catalog
from broker.config.reading import ConfigError
from broker.config.settings import load_settings
from broker.domain.catalog import IssueMethod
from tests.fakes.samples import a_role

UPDATE = IssueMethod.UPDATE


def paths(policy: str) -> list[str]:
    return re.findall(r'^path "(.*)" \{$', policy, re.MULTILINE)


def test_the_policy_of_a_role_that_reads() -> None:
    assert role_policy(a_role("orders")) == (
        "# Written by `tasklease catalog apply` for credential role orders.\n"
        'path "database/creds/orders" {\n'
        '  capabilities = ["read"]\n'
        "}\n"
    )


def test_the_policy_of_a_role_that_updates_has_every_parameter_with_its_one_value() -> None:
    assert role_policy(a_role("orders", method=UPDATE, parameters={"ttl": "15m", "format": "pem"})) == (
        "# Written by `tasklease catalog apply` for credential role orders.\n"
        'path "database/creds/orders" {\n'
        '  capabilities = ["update"]\n'
        "  allowed_parameters = {\n"
        '    "format" = ["pem"]\n'
        '    "ttl" = ["15m"]\n'
        "  }\n"
        '  required_parameters = ["format", "ttl"]\n'
        "}\n"
    )


def test_an_update_without_parameters_allows_none() -> None:
    assert role_policy(a_role("orders", method=UPDATE)) == (
        "# Written by `tasklease catalog apply` for credential role orders.\n"
        'path "database/creds/orders" {\n'
        '  capabilities = ["update"]\n'
        "  denied_parameters = {\n"
        '    "*" = []\n'
        "  }\n"
        "}\n"
    )


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ('a"b', r'"a\"b"'),
        ("a\\b", r'"a\\b"'),
        ("a\nb", r'"a\nb"'),
        ('"]\n  }\n}\npath "sys/*" {', r'"\"]\n  }\n}\npath \"sys/*\" {"'),
        ("ü \N{GRINNING FACE}", '"ü \N{GRINNING FACE}"'),
    ],
)
def test_a_value_ends_where_it_ends_in_the_catalog(value: str, written: str) -> None:
    policy = role_policy(a_role("orders", method=UPDATE, parameters={"x": value}))
    assert f'    "x" = [{written}]\n' in policy
    assert paths(policy) == ["database/creds/orders"]


def test_the_broker_updates_seven_paths_looks_at_two_lists_and_nothing_else() -> None:
    policy = broker_policy("tasklease-task")
    assert paths(policy) == [
        "auth/token/create/tasklease-task",
        "auth/token/revoke-accessor",
        "auth/token/renew-self",
        "sys/leases/lookup",
        "sys/leases/renew",
        "sys/leases/revoke",
        "auth/token/lookup-accessor",
        "auth/token/accessors",
        "sys/leases",
    ]
    capabilities = re.findall(r"capabilities = (.*)", policy)
    assert capabilities == ['["update"]'] * 7 + ['["list", "sudo"]', '["read", "sudo"]']
    assert not re.search(r"[*+]", policy)


def test_no_role_can_have_the_brokers_policy() -> None:
    assert not BROKER_POLICY.startswith(ROLE_PREFIX)
    assert a_role("broker").vault_policy == f"{ROLE_PREFIX}broker" != BROKER_POLICY


# What the catalog and the configuration let through to a policy -----------------------------------------------


def write_catalog(folder: Path, **role: Any) -> Path:
    lines = {
        "engine": "generic",
        "mount": "pki",
        "path": "issue/agents",
        "method": "update",
        "classification": "internal",
        "destination": "{host: a.test, port: 1, scheme: https}",
        "ttl": "1m",
        "max_ttl": "5m",
        "revocation": "revocable",
        **role,
    }
    name = lines.pop("name", "certificates")
    text = "version: 1\ncredential_roles:\n  " + name + ":\n"
    path = folder / "catalog.yaml"
    path.write_text(text + "".join(f"    {key}: {value}\n" for key, value in lines.items()))
    return path


def test_a_role_that_is_spelt_well_is_taken(tmp_path: Path) -> None:
    parameters = '{common_name: "a*b.test", ttl: 5m, format: "", key-type: "$x {y}"}'
    catalog = load_catalog(write_catalog(tmp_path, parameters=parameters))
    assert catalog.credential_roles["certificates"].parameters["common_name"] == "a*b.test"


@pytest.mark.parametrize(
    "role",
    [
        {"path": '"issue/*"'},
        {"path": '"issue/+/x"'},
        {"path": '"issue/../x"'},
        {"path": '"issue//x"'},
        {"path": '"/issue/x"'},
        {"path": '"issue/x/"'},
        {"path": "'issue/x\" {'"},
        {"path": '"issue/x\\n"'},
        {"path": '"issue/{{identity.entity.id}}"'},
        {"path": "issue/" + "x" * 251},
        {"mount": '"pki*"'},
        {"mount": '"+"'},
        {"mount": "'pki\"'"},
        {"mount": '"../sys"'},
        {"mount": "x" * 129},
        {"name": '"Orders"'},
        {"name": '"orders*"'},
        {"name": '"orders/x"'},
        {"name": "x" * 65},
        {"parameters": '{"*": x}'},
        {"parameters": '{"": x}'},
        {"parameters": '{"a b": x}'},
        {"parameters": '{"Common_Name": x}'},
        {"parameters": "{'a\"': x}"},
        {"parameters": '{"a\\n": x}'},
        {"parameters": "{" + "x" * 65 + ": x}"},
        {"parameters": '{ttl: "*"}'},
        {"parameters": '{ttl: "15*"}'},
        {"parameters": '{common_name: "*.example.test"}'},
        {"parameters": '{ttl: "${x}"}'},
        {"parameters": '{ttl: "' + "x" * 1025 + '"}'},
        {"parameters": "{" + ", ".join(f"p{number}: x" for number in range(33)) + "}"},
    ],
    ids=str,
)
def test_what_a_policy_would_not_take_as_it_stands_is_refused_in_the_catalog(
    tmp_path: Path, role: dict[str, str]
) -> None:
    with pytest.raises(ConfigError) as refusal:
        load_catalog(write_catalog(tmp_path, **role))
    assert len(refusal.value.problems) == 1


def write_settings(folder: Path, vault: str) -> Path:
    path = folder / "broker.yaml"
    path.write_text(
        "trust_domain: example.test\nspiffe_endpoint_socket: unix:///agent.sock\ncatalog: catalog\n"
        f"vault: {{address: http://127.0.0.1:8200, {vault}}}\n"
    )
    return path


def test_names_of_vaults_roles_and_mounts_are_taken(tmp_path: Path) -> None:
    vault = "token_role: Agents_2, auth_role: broker-1, auth_mount: team/jwt"
    settings = load_settings(write_settings(tmp_path, vault)).vault
    assert (settings.token_role, settings.auth_role, settings.auth_mount) == (
        "Agents_2",
        "broker-1",
        "team/jwt",
    )


@pytest.mark.parametrize("key", ["token_role", "auth_role", "auth_mount"])
@pytest.mark.parametrize("name", ["*", "x*", "+", 'x" {', "../x", "x/", "", "x\\n", "x" * 129, "{{x}}"])
def test_names_that_mean_more_than_themselves_are_refused_in_the_configuration(
    tmp_path: Path, key: str, name: str
) -> None:
    quoted = "'" + name + "'" if '"' in name else f'"{name}"'
    with pytest.raises(ConfigError, match=key):
        load_settings(write_settings(tmp_path, f"{key}: {quoted}"))
