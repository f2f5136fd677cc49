"""`tasklease catalog apply`, as it is typed, on a real Vault."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hvac
import pytest

from broker.adapters.vault import provisioning
from broker.devstack.stack import DevStack
from broker.devstack.state import BROKER_ID

COMMAND = (sys.executable, "-m", "broker", "catalog", "apply")
OURS = (
    "sys/policy/tasklease-broker",
    "sys/policy/tasklease-role-orders-readonly",
    "auth/token/roles/tasklease-task",
    "auth/jwt/role/tasklease-broker",
)
ROLE = """
  {name}:
    engine: generic
    mount: database
    path: creds/{name}
    method: update
    parameters: {parameters}
    classification: internal
    destination: {{host: a.test, port: 1, scheme: https}}
    ttl: 1m
    max_ttl: 5m
    revocation: revocable
"""


class Apply:
    """Runs the command on a catalog of its own."""

    def __init__(self, stack: DevStack, folder: Path) -> None:
        self.stack = stack
        self.catalog = folder / "catalog"
        self.catalog.mkdir()
        for file in stack.broker.catalog.iterdir():
            (self.catalog / file.name).write_text(file.read_text())

    def __call__(
        self, *words: str, answer: str | None = None, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        token = [] if environment else ["--token-file", str(self.stack.vault.admin_token_file)]
        return subprocess.run(
            [*COMMAND, str(self.catalog), "--config", str(self.stack.broker.config_file), *token, *words],
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL if answer is None else None,
            input=answer,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def add_role(self, name: str, parameters: str = "{}") -> None:
        text = "version: 1\ncredential_roles:" + ROLE.format(name=name, parameters=parameters)
        (self.catalog / f"{name}.yaml").write_text(text)

    def remove_role(self, name: str) -> None:
        (self.catalog / f"{name}.yaml").unlink()


@pytest.fixture
def apply(stack: DevStack, tmp_path: Path) -> Apply:
    return Apply(stack, tmp_path)


@pytest.fixture
def admin(stack: DevStack) -> hvac.Client:
    return stack.vault.admin()


def everything(admin: hvac.Client) -> dict[str, Any]:
    """All that somebody can set up in this Vault, ours and not."""
    found: dict[str, Any] = {
        f"sys/policy/{name}": admin.sys.read_policy(name)["data"]["rules"]
        for name in admin.sys.list_policies()["data"]["policies"]
        if name != "root"
    }
    for folder in ("auth/token/roles", "auth/jwt/role", "database/roles", "database/config"):
        for name in admin.list(folder)["data"]["keys"]:
            found[f"{folder}/{name}"] = admin.read(f"{folder}/{name}")["data"]
    found["auth/jwt/config"] = admin.read("auth/jwt/config")["data"]
    found["auth"] = admin.sys.list_auth_methods()["data"]
    found["mounts"] = admin.sys.list_mounted_secrets_engines()["data"]
    found["audit"] = admin.sys.list_enabled_audit_devices()["data"]
    return found


@contextmanager
def unchanged(admin: hvac.Client) -> Iterator[None]:
    before = everything(admin)
    yield
    assert everything(admin) == before


def test_a_vault_that_has_nothing_of_ours_gets_it_and_the_second_run_finds_nothing_to_do(
    apply: Apply, admin: hvac.Client
) -> None:
    complete = everything(admin)
    for path in OURS:
        admin.delete(path)
    first = apply("--yes")
    assert first.returncode == 0, first.stderr
    for path in OURS:
        assert first.stdout.count(f"create {path}\n") == 2  # what it will do, then that it is done
    assert '+path "database/creds/orders-readonly" {' in first.stdout
    assert everything(admin) == complete
    with unchanged(admin):
        second = apply("--yes")
    assert (second.returncode, second.stdout) == (0, "Vault matches the catalog\n"), second.stderr


def test_a_dry_run_shows_the_difference_and_changes_nothing(apply: Apply, admin: hvac.Client) -> None:
    apply.add_role("orders-writer")
    with unchanged(admin):
        dry = apply("--dry-run")
    assert dry.returncode == 3
    assert "create sys/policy/tasklease-role-orders-writer" in dry.stdout
    assert "done" not in dry.stdout
    apply.remove_role("orders-writer")
    assert apply("--dry-run").returncode == 0


@pytest.mark.parametrize("answer", ["n\n", "\n", "", None], ids=["no", "return", "end of input", "no input"])
def test_whoever_does_not_say_yes_has_seen_the_difference_and_changed_nothing(
    apply: Apply, admin: hvac.Client, answer: str | None
) -> None:
    apply.add_role("orders-writer")
    with unchanged(admin):
        asked = apply(answer=answer)
    assert asked.returncode == 1
    assert '+path "database/creds/orders-writer" {' in asked.stdout
    assert "Change these 1 things in Vault?" in asked.stderr
    assert "done" not in asked.stdout


def test_whoever_says_yes_is_done_what_was_shown(apply: Apply, admin: hvac.Client) -> None:
    apply.add_role("orders-writer")
    asked = apply(answer="y\n")
    assert asked.returncode == 0
    path = "sys/policy/tasklease-role-orders-writer"
    assert asked.stdout.index('+path "database/creds/orders-writer" {') < asked.stdout.index(
        f"done: create {path}"
    )
    assert "creds/orders-writer" in everything(admin)[path]


def test_a_role_that_is_gone_takes_its_policy_along_and_nothing_else(
    apply: Apply, admin: hvac.Client
) -> None:
    before = everything(admin)
    apply.add_role("orders-writer")
    assert apply("--yes").returncode == 0
    assert set(everything(admin)) - set(before) == {"sys/policy/tasklease-role-orders-writer"}
    apply.remove_role("orders-writer")
    gone = apply("--yes")
    assert gone.returncode == 0
    assert "delete sys/policy/tasklease-role-orders-writer" in gone.stdout
    assert '-path "database/creds/orders-writer" {' in gone.stdout
    assert everything(admin) == before


def test_what_is_not_ours_is_left_alone_however_near_its_name_is(apply: Apply, admin: hvac.Client) -> None:
    policy = {"policy": 'path "none" {\n  capabilities = ["deny"]\n}\n'}
    theirs = {
        "sys/policy/team": policy,
        "sys/policy/tasklease": policy,
        "sys/policy/tasklease-brokers": policy,
        "sys/policy/tasklease-role": policy,
        "sys/policy/tasklease-roles-of-others": policy,
        "auth/token/roles/tasklease-tasks": {"orphan": False},
        "auth/jwt/role/tasklease-broker-2": {
            "role_type": "jwt",
            "bound_subject": "somebody",
            "user_claim": "sub",
        },
        "database/roles/others": {"db_name": "orders", "creation_statements": ["SELECT 1"]},
    }
    for path, data in theirs.items():
        admin.write_data(path, data=data)
    before = everything(admin)
    assert set(theirs) <= set(before)
    try:
        apply.add_role("orders-writer")
        assert apply("--yes").returncode == 0
        apply.remove_role("orders-writer")
        assert apply("--yes").returncode == 0
        assert everything(admin) == before
    finally:
        for path in theirs:
            admin.delete(path)


@pytest.mark.parametrize(
    ("path", "change", "shown"),
    [
        (
            "sys/policy/tasklease-broker",
            {"policy": 'path "sys/*" {\n  capabilities = ["sudo"]\n}\n'},
            "sys/*",
        ),
        (
            "sys/policy/tasklease-role-orders-readonly",
            {"policy": 'path "database/creds/*" {\n  capabilities = ["read"]\n}\n'},
            "database/creds/*",
        ),
        ("auth/token/roles/tasklease-task", {"allowed_policies_glob": ["*"]}, '-    "*"'),
        ("auth/token/roles/tasklease-task", {"allowed_policies": ["root"]}, '-    "root"'),
        ("auth/token/roles/tasklease-task", {"allowed_entity_aliases": ["*"]}, '-    "*"'),
        ("auth/token/roles/tasklease-task", {"renewable": True}, '-  "renewable": true'),
        ("auth/token/roles/tasklease-task", {"orphan": False}, '-  "orphan": false'),
        ("auth/token/roles/tasklease-task", {"token_period": 60}, '-  "token_period": 60'),
        ("auth/token/roles/tasklease-task", {"token_explicit_max_ttl": 0}, '-  "token_explicit_max_ttl": 0'),
        ("auth/jwt/role/tasklease-broker", {"bound_audiences": ["vault", "other"]}, '-    "other",'),
        ("auth/jwt/role/tasklease-broker", {"bound_subject": "spiffe://a.test/x"}, "spiffe://a.test/x"),
        ("auth/jwt/role/tasklease-broker", {"token_policies": ["tasklease-broker", "root"]}, '-    "root"'),
        ("auth/jwt/role/tasklease-broker", {"token_period": 60}, '-  "token_period": 60'),
        ("auth/jwt/role/tasklease-broker", {"groups_claim": "aud"}, '-  "groups_claim": "aud"'),
    ],
    ids=str,
)
def test_what_somebody_loosened_by_hand_is_shown_and_put_right(
    apply: Apply, admin: hvac.Client, path: str, change: dict[str, object], shown: str
) -> None:
    good = everything(admin)
    present = {} if path.startswith("sys/policy/") else admin.read(path)["data"]
    wanted = provisioning._jwt_role(provisioning.Names(broker_id=BROKER_ID))
    keep = {key: present[key] for key in wanted if key in present} if "jwt" in path else {}
    admin.write_data(path, data={**keep, **change})
    assert everything(admin) != good
    repaired = apply("--yes")
    assert repaired.returncode == 0, repaired.stderr
    assert f"update {path}" in repaired.stdout
    assert shown in repaired.stdout
    assert everything(admin) == good


def test_a_role_with_parameters_is_applied_once(apply: Apply, admin: hvac.Client) -> None:
    apply.add_role("orders-writer", '{ttl: 15m, note: "a \\"b\\" \\\\ ü\\n"}')
    apply.add_role("orders-bare")
    assert apply("--yes").returncode == 0
    with unchanged(admin):
        assert apply("--dry-run").returncode == 0


def test_a_role_without_an_engine_or_with_sessions_that_stay_is_warned_of(
    apply: Apply, admin: hvac.Client
) -> None:
    role = ROLE.replace("mount: database", "mount: nowhere").format(name="lost", parameters="{}")
    (apply.catalog / "lost.yaml").write_text("version: 1\ncredential_roles:" + role)
    good = admin.read("database/roles/orders-readonly")["data"]
    admin.write_data(
        "database/roles/orders-readonly",
        data={**good, "revocation_statements": ['DROP ROLE "{{name}}";'], "default_ttl": 3600, "max_ttl": 60},
    )
    try:
        warned = apply("--dry-run").stderr
    finally:
        admin.write_data("database/roles/orders-readonly", data=good)
    assert "warning: lost: there is no secrets engine at nowhere/ in Vault\n" in warned
    assert "warning: orders-readonly: revocation_statements" in warned
    assert "warning: orders-readonly: default_ttl" in warned
    assert "warning: orders-readonly: max_ttl" in warned
    apply.remove_role("lost")
    assert "warning" not in apply("--dry-run").stderr


def test_the_token_of_the_environment_does_as_well(apply: Apply, stack: DevStack) -> None:
    token = stack.vault.admin_token_file.read_text()
    assert apply("--dry-run", environment={"VAULT_TOKEN": token}).returncode == 0
    without = apply("--dry-run", environment={"VAULT_TOKEN": ""})
    assert without.returncode == 2
    assert "a Vault token is needed" in without.stderr


def test_a_token_that_may_not_is_told_so_and_shows_in_nothing(
    apply: Apply, stack: DevStack, admin: hvac.Client
) -> None:
    poor = admin.auth.token.create(policies=["default"], ttl="1m")["auth"]["client_token"]
    refused = apply("--yes", environment={"VAULT_TOKEN": poor})
    assert refused.returncode == 1
    assert "permission denied" in refused.stderr
    assert poor not in refused.stdout + refused.stderr


def test_a_vault_that_does_not_answer_is_said_in_one_line(apply: Apply, stack: DevStack) -> None:
    stack.kill_part("vault")
    away = apply("--yes")
    assert away.returncode == 1
    assert away.stderr == f"error: Vault does not answer at {stack.vault.address}: ConnectionError\n"


def test_a_catalog_with_problems_never_reaches_vault(apply: Apply, admin: hvac.Client) -> None:
    apply.add_role("orders-writer")
    apply.add_role("orders-glob", '{ttl: "*"}')
    with unchanged(admin):
        bad = apply("--yes")
    assert bad.returncode == 1
    assert "orders-glob.yaml" in bad.stderr
