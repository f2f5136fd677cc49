"""Makes Vault match the catalog: policies, token role, the broker's JWT role. For the platform team's own token.

What always holds: only what bears one of our names is touched (`tasklease-broker`,
`tasklease-role-*`, the token role, the auth role); a second run finds nothing to do; what is gone from the catalog
is gone from Vault afterwards. The broker never runs this: it could not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import hvac
import hvac.exceptions

from broker.domain.catalog import Catalog, CredentialRole, IssueMethod
from broker.domain.engines import Engine

ROLE_PREFIX: Final = "tasklease-role-"
BROKER_POLICY: Final = "tasklease-broker"


class Action(StrEnum):
    """What has to be done with an item."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """How the installation names its mounts and roles."""

    broker_id: str
    auth_mount: str = "jwt"
    auth_role: str = "tasklease-broker"
    audience: str = "vault"
    token_role: str = "tasklease-task"  # noqa: S105 - a name


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing in Vault that is not as it should be."""

    action: Action
    path: str
    before: str
    after: str
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What has to be done, and what to look at."""

    items: tuple[Item, ...]
    warnings: tuple[str, ...]


def broker_policy(token_role: str, verifiers: Sequence[CredentialRole] = ()) -> str:
    """What the broker may do in Vault: make task tokens, see, renew and revoke leases; and look at backends, by the roles that
    the catalog names for that (`verified_by`)."""
    rules = [
        "# Written by `tasklease catalog apply`. What the broker may do, and nothing else.",
        *(
            f'path "{path}" {{\n  capabilities = ["update"]\n}}'
            for path in (
                f"auth/token/create/{token_role}",
                "auth/token/revoke-accessor",
                "auth/token/renew-self",
                "sys/leases/lookup",
                "sys/leases/renew",
                "sys/leases/revoke",
                "auth/token/lookup-accessor",
            )
        ),
        "# To find what nobody answers for: names of tokens, never tokens; and leases that Vault cannot revoke.",
        'path "auth/token/accessors" {\n  capabilities = ["list", "sudo"]\n}',
        'path "sys/leases" {\n  capabilities = ["read", "sudo"]\n}',
    ]
    if verifiers:
        rules.append("# To ask backends whether they refuse what was revoked.")
        rules += [
            f'path "{role.vault_path}" {{\n  capabilities = ["read"]\n}}'
            for role in sorted(verifiers, key=lambda role: role.vault_path)
        ]
    return "\n".join(rules) + "\n"


def role_policy(role: CredentialRole) -> str:
    """Exactly one path, with exactly the parameters of the catalog."""
    capability = "read" if role.method is IssueMethod.READ else "update"
    lines = [
        f"# Written by `tasklease catalog apply` for credential role {role.name}.",
        f'path "{role.vault_path}" {{',
        f'  capabilities = ["{capability}"]',
    ]
    if role.method is IssueMethod.UPDATE and role.parameters:
        lines.append("  allowed_parameters = {")
        lines += [
            f"    {_quoted(key)} = [{_quoted(value)}]" for key, value in sorted(role.parameters.items())
        ]
        lines += ["  }", f"  required_parameters = [{', '.join(map(_quoted, sorted(role.parameters)))}]"]
    elif role.method is IssueMethod.UPDATE:
        # No allowed ones at all would mean: any.
        lines += ["  denied_parameters = {", '    "*" = []', "  }"]
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # Vault does not read the \u of what is beyond 16 bits


def plan(client: hvac.Client, catalog: Catalog, names: Names) -> Plan:
    """Compare Vault with the catalog.

    Raises:
        hvac.exceptions.VaultError: Vault refuses or does not answer.
    """
    wanted = {
        BROKER_POLICY: broker_policy(names.token_role, _verifiers(catalog)),
        **{role.vault_policy: role_policy(role) for role in catalog.credential_roles.values()},
    }
    items: list[Item] = []
    existing = set(client.sys.list_policies()["data"]["policies"])
    for name, text in sorted(wanted.items()):
        before = client.sys.read_policy(name)["data"]["rules"] if name in existing else ""
        items += _difference(f"sys/policy/{name}", before, text, {"policy": text})
    items += [
        Item(
            action=Action.DELETE,
            path=f"sys/policy/{name}",
            before=client.sys.read_policy(name)["data"]["rules"],
            after="",
            payload={},
        )
        for name in sorted(existing)
        if name.startswith(ROLE_PREFIX) and name not in wanted
    ]
    items += _role(client, f"auth/token/roles/{names.token_role}", _token_role())
    items += _role(client, f"auth/{names.auth_mount}/role/{names.auth_role}", _jwt_role(names))
    return Plan(items=tuple(items), warnings=tuple(_warnings(client, catalog)))


def _verifiers(catalog: Catalog) -> list[CredentialRole]:
    named = {role.verified_by for role in catalog.credential_roles.values()}
    return [role for name, role in catalog.credential_roles.items() if name in named]


def apply(client: hvac.Client, item: Item) -> None:
    """Do one item.

    Raises:
        hvac.exceptions.VaultError: Vault refuses or does not answer.
    """
    if item.action is Action.DELETE:
        client.delete(item.path)
    else:
        client.write_data(item.path, data=dict(item.payload))


def _token_role() -> dict[str, Any]:
    """Also what must be empty: by each of those, the role would let more through than policies of roles."""
    return {
        "allowed_entity_aliases": [],
        "allowed_policies": [],
        "allowed_policies_glob": [f"{ROLE_PREFIX}*"],
        "orphan": True,
        "renewable": False,
        "token_explicit_max_ttl": 90_000,  # 25 h: the longest task and a little
        "token_no_default_policy": True,
        "token_period": 0,
        "token_type": "service",
    }


def _jwt_role(names: Names) -> dict[str, Any]:
    return {
        "role_type": "jwt",
        "bound_audiences": [names.audience],
        "bound_subject": names.broker_id,
        "user_claim": "sub",
        "groups_claim": "",
        "token_policies": [BROKER_POLICY],
        "token_no_default_policy": True,
        "token_ttl": 1200,
        "token_max_ttl": 14_400,
        "token_period": 0,
        "token_type": "service",
    }


def _role(client: hvac.Client, path: str, wanted: Mapping[str, Any]) -> list[Item]:
    try:
        answer = client.read(path)
    except hvac.exceptions.InvalidPath:
        answer = None
    present = answer["data"] if answer else {}
    before = {key: _normal(present[key]) for key in wanted if key in present}
    after = {key: _normal(value) for key, value in wanted.items()}
    if path.startswith("auth/token/roles/") and present:  # Vault answers these under their old names
        before.setdefault("token_explicit_max_ttl", _normal(present.get("explicit_max_ttl", 0)))
    return _difference(path, _pretty(before), _pretty(after), wanted) if before != after else []


def _difference(path: str, before: str, after: str, payload: Mapping[str, Any]) -> list[Item]:
    if before == after:
        return []
    action = Action.UPDATE if before.strip() not in {"", "{}"} else Action.CREATE
    return [Item(action=action, path=path, before=before, after=after, payload=payload)]


def _normal(value: Any) -> Any:  # noqa: ANN401 - JSON
    if value is None:  # an empty list, as Vault answers it in places
        return []
    return sorted(value) if isinstance(value, list) else value


def _pretty(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


_DATABASES: Final = frozenset({Engine.POSTGRESQL, Engine.MYSQL, Engine.MONGODB})


def _warnings(client: hvac.Client, catalog: Catalog) -> list[str]:
    """What Vault's side of a role should have, and does not: the platform team's to change, not ours."""
    mounts = set(client.sys.list_mounted_secrets_engines()["data"])
    warnings = []
    for role in catalog.credential_roles.values():
        if f"{role.mount}/" not in mounts:
            warnings.append(f"{role.name}: there is no secrets engine at {role.mount}/ in Vault")
        elif role.engine in _DATABASES:
            warnings += _database_warnings(client, role)
        elif role.engine in {Engine.PKI, Engine.SSH_OTP, Engine.RABBITMQ}:
            warnings += _role_warnings(client, role)
    return warnings


def _role_warnings(client: hvac.Client, role: CredentialRole) -> list[str]:
    path = f"{role.mount}/roles/{role.path.partition('/')[2]}"
    try:
        answer = client.read(path)
    except hvac.exceptions.InvalidPath:
        answer = None
    if answer is None:
        return [f"{role.name}: Vault has no role at {path}"]
    data: Mapping[str, Any] = answer["data"]
    if role.engine is Engine.PKI and not data.get("generate_lease"):
        return [
            f"{role.name}: {path} has no generate_lease: its certificates have no lease, and no acquire works"
        ]
    if role.engine is Engine.SSH_OTP and data.get("key_type") != "otp":
        return [
            f"{role.name}: {path} is no role for one-time passwords: its key_type is {data.get('key_type')}"
        ]
    return []


def _database_warnings(client: hvac.Client, role: CredentialRole) -> list[str]:
    path = f"{role.mount}/roles/{role.path.removeprefix('creds/')}"
    try:
        answer = client.read(path)
    except hvac.exceptions.InvalidPath:
        answer = None
    if answer is None:
        return [f"{role.name}: Vault has no role at {path}"]
    data: Mapping[str, Any] = answer["data"]
    warnings = []
    statements: Sequence[str] = data.get("revocation_statements") or []
    ends_sessions = any("pg_terminate_backend" in statement for statement in statements)
    if role.engine is Engine.POSTGRESQL and not ends_sessions:
        warnings.append(
            f"{role.name}: revocation_statements of {path} do not call pg_terminate_backend: "
            "sessions that are open when a lease is revoked stay open"
        )
    if (default := data.get("default_ttl", 0)) == 0 or default > role.ttl.total_seconds():
        warnings.append(
            f"{role.name}: default_ttl of {path} is {default or 'the system default'}, longer than the catalog's "
            f"ttl of {role.ttl}: a lease of a dead broker lives that long"
        )
    if 0 < (longest := data.get("max_ttl", 0)) < role.max_ttl.total_seconds():
        warnings.append(
            f"{role.name}: max_ttl of {path} is {longest} s, shorter than the catalog's {role.max_ttl}"
        )
    return warnings
