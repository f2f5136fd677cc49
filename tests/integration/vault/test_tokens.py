"""What the token of a task, and the broker's own, can do at a real Vault: that, and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import hvac
import hvac.exceptions
import jwt
import psycopg
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec

from broker.adapters.system.clock import SystemClock
from broker.adapters.vault import provisioning
from broker.adapters.vault.as_broker import AsBroker
from broker.adapters.vault.connection import VaultConnection
from broker.adapters.vault.issuer import VaultCredentialIssuer
from broker.adapters.vault.login import VaultLogin
from broker.config.catalog import load_catalog
from broker.devstack.stack import DevStack
from broker.devstack.state import BROKER_GROUP, BROKER_ID
from broker.devstack.vault import database_role
from broker.domain.catalog import CredentialRole
from broker.domain.errors import CredentialBackendUnavailableError
from broker.domain.identifiers import TaskId, TokenAccessor
from broker.domain.secret import Secret
from broker.ports.issuing import (
    IssuedCredential,
    IssueInDoubtError,
    IssueRefusedError,
    TokenGoneError,
    TokenGrant,
)
from tests.integration.devstack.test_credentials import jwt_of, log_in

TASK = TaskId("task-of-tests")
SOON = timedelta(seconds=10)
HOUR = timedelta(hours=1)
MORE_ROLES = """
version: 1
credential_roles:
  orders-again:
    engine: postgresql
    mount: database
    path: creds/orders-again
    classification: internal
    destination: {host: 127.0.0.1, port: 5432, scheme: postgresql}
    ttl: 60s
    max_ttl: 30m
    revocation: revocable
  certificates:
    engine: generic
    mount: pki
    path: issue/agents
    method: update
    parameters: {common_name: "a \\"b\\" ü.test", ttl: 2m}
    classification: internal
    destination: {host: a.test, port: 443, scheme: https}
    ttl: 60s
    max_ttl: 2m
    revocation: revocable
  bare:
    engine: generic
    mount: pki
    path: issue/bare
    method: update
    classification: internal
    destination: {host: a.test, port: 443, scheme: https}
    ttl: 60s
    max_ttl: 2m
    revocation: revocable
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """What of the broker talks to Vault, with a real JWT-SVID."""

    login: VaultLogin
    issuer: VaultCredentialIssuer
    roles: dict[str, CredentialRole]

    async def grant(self, *roles: str, ttl: timedelta = HOUR) -> TokenGrant:
        return await self.issuer.open_task(TASK, [self.roles[name] for name in roles], ttl, timeout=SOON)

    async def issue(self, grant: TokenGrant, role: str = "orders-readonly") -> IssuedCredential:
        return await self.issuer.issue(grant, TASK, self.roles[role], timeout=SOON)


@pytest.fixture
def roles(stack: DevStack, tmp_path: Path) -> Iterator[dict[str, CredentialRole]]:
    """The sample role and three more, in Vault as `catalog apply` puts them there."""
    admin = stack.vault.admin()
    admin.write_data(
        "database/config/orders",
        data={"allowed_roles": ["orders-readonly", "orders-again"], **_unchanged(admin)},
    )
    admin.write_data("database/roles/orders-again", data=database_role())
    admin.sys.enable_secrets_engine("pki")
    admin.write_data("pki/root/generate/internal", data={"common_name": "tests"})
    for name in ("agents", "bare"):
        admin.write_data(
            f"pki/roles/{name}",
            data={
                "allow_any_name": True,
                "enforce_hostnames": False,
                "generate_lease": True,
                "key_type": "ec",
                "key_bits": 256,
            },
        )
    for file in stack.broker.catalog.iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "more.yaml").write_text(MORE_ROLES)
    catalog = load_catalog(tmp_path)
    for item in provisioning.plan(admin, catalog, provisioning.Names(broker_id=BROKER_ID)).items:
        provisioning.apply(admin, item)
    yield dict(catalog.credential_roles)
    stack.start_part(
        "vault"
    )  # where a test failed that had stopped or sealed it, the next one is not to fail for it
    stack.vault.admin().sys.disable_secrets_engine("pki")


def _unchanged(admin: hvac.Client) -> dict[str, Any]:
    present = admin.read("database/config/orders")["data"]
    return {"plugin_name": present["plugin_name"], **present["connection_details"]}


@pytest_asyncio.fixture
async def broker(stack: DevStack, roles: dict[str, CredentialRole]) -> AsyncIterator[Broker]:
    async def fetch(audience: str) -> Secret:
        return Secret(await asyncio.to_thread(jwt_of, stack, BROKER_GROUP, audience))

    connection = VaultConnection(address=stack.vault.address)
    login = VaultLogin(
        connection=connection,
        fetch_jwt_svid=fetch,
        auth_mount="jwt",
        auth_role="tasklease-broker",
        audience="vault",
        clock=SystemClock(),
    )
    keeping = asyncio.create_task(login.keep())
    issuer = VaultCredentialIssuer(
        as_broker=AsBroker(connection=connection, login=login), token_role="tasklease-task", store="tests"
    )
    yield Broker(login=login, issuer=issuer, roles=roles)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    connection.close()


def client_of(stack: DevStack, token: Secret) -> hvac.Client:
    return hvac.Client(url=stack.vault.address, token=token.reveal())


def dsn(stack: DevStack, credential: IssuedCredential) -> str:
    return stack.postgres.dsn(credential.secret["username"].reveal(), credential.secret["password"].reveal())


def works(dsn: str) -> bool:
    try:
        psycopg.connect(dsn).close()
    except psycopg.OperationalError:
        return False
    return True


async def eventually_refused(dsn: str, *, patience: float) -> None:
    end = time.monotonic() + patience
    while works(dsn):
        assert time.monotonic() < end, "the credential is still accepted"
        await asyncio.sleep(0.1)


def assert_all_refused(client: hvac.Client, calls: list[tuple[str, str, dict[str, Any] | None]]) -> None:
    not_refused = []
    for method, path, body in calls:
        try:
            client.adapter.request(method, f"/v1/{path}", json=body)
        except hvac.exceptions.Forbidden:
            continue
        except hvac.exceptions.VaultError as error:
            not_refused.append(f"{method} {path}: {error}")
        else:
            not_refused.append(f"{method} {path}")
    assert not_refused == []


# A task's token --------------------------------------------------------------------------------------------


async def test_a_tasks_token_reads_its_roles_path_and_nothing_else(stack: DevStack, broker: Broker) -> None:
    grant = await broker.grant("orders-readonly")
    another = await broker.grant("orders-again")
    credential = await broker.issue(grant)
    assert works(dsn(stack, credential))
    lease = {"lease_id": credential.vault_lease_id}
    other = {"token": another.token.reveal(), "accessor": another.accessor}
    assert_all_refused(
        client_of(stack, grant.token),
        [
            ("get", "database/creds/orders-again", None),
            ("get", "database/creds/orders-readonly/x", None),
            ("post", "database/creds/orders-readonly", {}),
            ("list", "database/roles", None),
            ("get", "database/roles/orders-readonly", None),
            ("post", "database/roles/orders-readonly", {"db_name": "orders"}),
            ("get", "database/config/orders", None),
            ("post", "database/rotate-root/orders", {}),
            ("post", "pki/issue/agents", {"common_name": 'a "b" ü.test', "ttl": "2m"}),
            ("get", "sys/policy", None),
            ("get", "sys/policies/acl/tasklease-role-orders-readonly", None),
            ("post", "sys/policy/tasklease-role-orders-readonly", {"policy": ""}),
            ("get", "sys/mounts", None),
            ("get", "sys/auth", None),
            ("get", "sys/audit", None),
            ("post", "sys/capabilities-self", {"paths": ["database/creds/orders-again"]}),
            ("put", "sys/leases/lookup", lease),
            ("put", "sys/leases/renew", lease),
            ("put", "sys/leases/revoke", lease),
            ("list", "sys/leases/lookup/database/creds/orders-readonly", None),
            ("put", "sys/leases/revoke-prefix/database", {}),
            ("put", "sys/seal", {}),
            ("post", "sys/wrapping/wrap", {"a": "b"}),
            ("post", "auth/token/create", {}),
            ("post", "auth/token/create", {"policies": ["tasklease-role-orders-readonly"]}),
            ("post", "auth/token/create-orphan", {}),
            ("post", "auth/token/create/tasklease-task", {"policies": ["tasklease-role-orders-again"]}),
            ("get", "auth/token/lookup-self", None),
            ("post", "auth/token/renew-self", {}),
            ("post", "auth/token/revoke-self", {}),
            ("post", "auth/token/lookup", {"token": other["token"]}),
            ("post", "auth/token/lookup-accessor", {"accessor": other["accessor"]}),
            ("post", "auth/token/revoke", {"token": other["token"]}),
            ("post", "auth/token/revoke-accessor", {"accessor": other["accessor"]}),
            ("list", "auth/token/accessors", None),
            ("get", "auth/token/roles/tasklease-task", None),
            ("get", "auth/jwt/role/tasklease-broker", None),
            ("get", "auth/jwt/config", None),
            ("get", "cubbyhole/x", None),
            ("post", "cubbyhole/x", {"a": "b"}),
            ("post", "identity/entity", {"name": "x"}),
        ],
    )
    assert works(dsn(stack, credential))


async def test_a_task_of_several_roles_draws_on_each_of_them(stack: DevStack, broker: Broker) -> None:
    grant = await broker.grant("orders-readonly", "orders-again")
    for role in ("orders-readonly", "orders-again"):
        assert works(dsn(stack, await broker.issue(grant, role)))
    with pytest.raises(TokenGoneError):
        await broker.issue(grant, "certificates")


async def test_vault_knows_the_token_as_the_tasks_and_as_one_that_ends(
    stack: DevStack, broker: Broker
) -> None:
    grant = await broker.grant("orders-readonly", ttl=timedelta(minutes=31))
    found = stack.vault.admin().auth.token.lookup_accessor(grant.accessor)["data"]
    assert found["policies"] == ["tasklease-role-orders-readonly"]
    assert (found["orphan"], found["renewable"], found["type"]) == (True, False, "service")
    assert found["explicit_max_ttl"] == found["creation_ttl"] == 31 * 60
    assert found["meta"] == {"tasklease_task": TASK, "tasklease_store": "tests"}
    assert TASK in found["display_name"]


async def test_a_role_with_parameters_is_called_with_exactly_these(stack: DevStack, broker: Broker) -> None:
    grant = await broker.grant("certificates")
    made = await broker.issue(grant, "certificates")
    assert made.vault_lease_id.startswith("pki/issue/agents/")
    good = dict(broker.roles["certificates"].parameters)
    assert_all_refused(
        client_of(stack, grant.token),
        [
            ("post", "pki/issue/agents", body)
            for body in (
                {**good, "common_name": "other.test"},
                {**good, "ttl": "3m"},
                {**good, "alt_names": "other.test"},
                {"common_name": good["common_name"]},
                {"ttl": good["ttl"]},
                {},
            )
        ],
    )


async def test_a_role_without_parameters_is_called_with_none(stack: DevStack, broker: Broker) -> None:
    grant = await broker.grant("bare")
    client = client_of(stack, grant.token)
    assert_all_refused(client, [("post", "pki/issue/bare", {"common_name": "a.test"})])
    with pytest.raises(hvac.exceptions.InvalidRequest, match="common_name"):  # the policy let it through
        client.adapter.post("/v1/pki/issue/bare", json={})


async def test_a_token_that_nobody_revokes_ends_by_itself_with_what_it_made(
    stack: DevStack, broker: Broker
) -> None:
    grant = await broker.grant("orders-readonly", ttl=timedelta(seconds=3))
    credential = dsn(stack, await broker.issue(grant))
    assert works(credential)
    await eventually_refused(credential, patience=20)
    with pytest.raises(TokenGoneError):
        await broker.issue(grant)


async def test_a_revoked_token_issues_nothing_more_and_its_credentials_go(
    stack: DevStack, broker: Broker
) -> None:
    grant = await broker.grant("orders-readonly")
    credential = dsn(stack, await broker.issue(grant))
    await broker.issuer.revoke_token(grant.accessor, timeout=SOON)
    with pytest.raises(TokenGoneError):
        await broker.issue(grant)
    await eventually_refused(credential, patience=20)
    await broker.issuer.revoke_token(grant.accessor, timeout=SOON)  # again is well
    await broker.issuer.revoke_token(TokenAccessor("never-was"), timeout=SOON)


# The broker's own token ------------------------------------------------------------------------------------


async def test_the_brokers_token_reads_no_credential_and_changes_no_rule(
    stack: DevStack, broker: Broker
) -> None:
    grant = await broker.grant("orders-readonly")
    policy = {"policy": 'path "*" {\n  capabilities = ["sudo"]\n}\n'}
    task = "auth/token/create/tasklease-task"
    client = client_of(stack, await broker.login.token())
    assert_all_refused(
        client,
        [
            ("get", "database/creds/orders-readonly", None),
            ("post", "pki/issue/agents", dict(broker.roles["certificates"].parameters)),
            ("get", "database/roles/orders-readonly", None),
            ("get", "database/config/orders", None),
            ("post", "sys/policy/tasklease-broker", policy),
            ("put", "sys/policies/acl/tasklease-role-orders-readonly", policy),
            ("delete", "sys/policies/acl/tasklease-role-orders-readonly", None),
            ("get", "sys/policy/tasklease-broker", None),
            ("post", "auth/token/roles/tasklease-task", {"allowed_policies_glob": ["*"]}),
            ("post", "auth/jwt/role/tasklease-broker", {"bound_subject": "spiffe://a.test/x"}),
            ("post", "auth/jwt/config", {"jwks_url": "http://127.0.0.1/"}),
            ("post", "auth/token/create", {}),
            ("post", "auth/token/create-orphan", {}),
            ("post", "auth/token/create/other", {}),
            ("post", "auth/token/lookup", {"token": grant.token.reveal()}),
            ("list", "sys/leases/lookup/database/creds/orders-readonly", None),
            ("put", "sys/leases/revoke-prefix/database", {}),
            ("put", "sys/leases/revoke-force/database", {}),
            ("get", "sys/audit", None),
            ("delete", "sys/audit/file", None),
            ("put", "sys/seal", {}),
        ],
    )
    for policies in (["tasklease-role-orders-readonly", "root"], ["tasklease-broker"], ["default"]):
        with pytest.raises(hvac.exceptions.VaultError):
            client.write_data(task, data={"policies": policies})
    # It sees which tokens there are, to reconcile; not one of them.
    seen = client.auth.token.lookup_accessor(grant.accessor)["data"]
    assert (seen["id"], seen["accessor"]) == ("", grant.accessor)
    assert grant.token.reveal() not in str(client.list("auth/token/accessors"))


# The log-in ------------------------------------------------------------------------------------------------
# Another audience and another SPIFFE ID are refused in tests/integration/devstack/test_credentials.py.


@pytest.mark.parametrize("algorithm", ["ES256", "HS256", "none"])
def test_a_jwt_that_spire_did_not_sign_is_refused_whatever_it_claims(stack: DevStack, algorithm: str) -> None:
    real = jwt_of(stack, BROKER_GROUP)
    claims = jwt.decode(real, options={"verify_signature": False})
    claims["exp"] = datetime.now(UTC) + HOUR
    keys: dict[str, Any] = {"ES256": ec.generate_private_key(ec.SECP256R1()), "HS256": "k" * 32, "none": None}
    kid = jwt.get_unverified_header(real)["kid"]
    forged = jwt.encode(claims, keys[algorithm], algorithm=algorithm, headers={"kid": kid})
    with pytest.raises(hvac.exceptions.VaultError):
        log_in(stack, forged)
    log_in(stack, real)


def test_a_jwt_whose_claims_were_changed_is_refused(stack: DevStack) -> None:
    header, _claims, signature = jwt_of(stack, BROKER_GROUP, audience="somebody-else").split(".")
    _header, wanted, _signature = jwt_of(stack, BROKER_GROUP).split(".")
    with pytest.raises(hvac.exceptions.VaultError):
        log_in(stack, f"{header}.{wanted}.{signature}")


async def test_a_log_in_that_vault_refuses_makes_the_backend_unavailable(stack: DevStack) -> None:
    async def for_somebody_else(_audience: str) -> Secret:
        return Secret(await asyncio.to_thread(jwt_of, stack, BROKER_GROUP, "somebody-else"))

    connection = VaultConnection(address=stack.vault.address)
    login = VaultLogin(
        connection=connection,
        fetch_jwt_svid=for_somebody_else,
        auth_mount="jwt",
        auth_role="tasklease-broker",
        audience="vault",
        clock=SystemClock(),
    )
    with pytest.raises(CredentialBackendUnavailableError):
        await login.token()
    connection.close()


# Vault goes and comes back ---------------------------------------------------------------------------------


async def outcome_of_an_issue(broker: Broker, grant: TokenGrant) -> type[Exception]:
    with pytest.raises((IssueRefusedError, IssueInDoubtError)) as caught:
        await broker.issue(grant)
    return caught.type


async def test_a_killed_vault_makes_nothing_and_when_it_is_back_all_goes_on(
    stack: DevStack, broker: Broker
) -> None:
    grant = await broker.grant("orders-readonly")
    before = await broker.issue(grant)
    stack.kill_part("vault")
    # On a connection that was open nobody answers, which is a doubt, once for each; a new one is not made at all.
    async with asyncio.timeout(20):
        while await outcome_of_an_issue(broker, grant) is not IssueRefusedError:
            pass
    with pytest.raises(CredentialBackendUnavailableError):
        await broker.grant("orders-readonly")
    with pytest.raises(CredentialBackendUnavailableError):
        await broker.issuer.revoke(before.vault_lease_id, timeout=SOON)
    assert works(dsn(stack, before))  # and so it must not be called revoked
    await asyncio.to_thread(stack.start_part, "vault")
    assert works(dsn(stack, await broker.issue(grant)))
    await broker.issuer.revoke(before.vault_lease_id, timeout=SOON)
    assert not works(dsn(stack, before))


async def test_a_sealed_vault_leaves_an_issue_in_doubt_and_unsealed_all_goes_on(
    stack: DevStack, broker: Broker
) -> None:
    grant = await broker.grant("orders-readonly")
    before = await broker.issue(grant)
    stack.vault.admin().sys.seal()
    with pytest.raises(IssueInDoubtError):
        await broker.issue(grant)
    with pytest.raises(CredentialBackendUnavailableError):
        await broker.issuer.revoke(before.vault_lease_id, timeout=SOON)
    with pytest.raises(CredentialBackendUnavailableError):
        await broker.issuer.renew(before.vault_lease_id, SOON, timeout=SOON)
    assert works(dsn(stack, before))
    await asyncio.to_thread(stack.start_part, "vault")
    await broker.issuer.revoke(before.vault_lease_id, timeout=SOON)
    assert not works(dsn(stack, before))
    assert works(dsn(stack, await broker.issue(grant)))


async def test_a_broker_that_starts_while_vault_is_away_is_let_in_when_it_is_back(
    stack: DevStack, broker: Broker
) -> None:
    await broker.login.token()
    stack.kill_part("vault")
    broker.login.reject(await broker.login.token())
    with pytest.raises(CredentialBackendUnavailableError):
        await broker.login.token()
    assert not broker.login.healthy
    await asyncio.to_thread(stack.start_part, "vault")
    async with asyncio.timeout(20):
        while not broker.login.healthy:  # noqa: ASYNC110 - by itself, and nobody tells
            await asyncio.sleep(0.05)


async def test_a_token_of_the_broker_that_was_revoked_is_replaced_in_the_next_call(
    stack: DevStack, broker: Broker
) -> None:
    first = await broker.login.token()
    stack.vault.admin().auth.token.revoke(first.reveal())
    await broker.grant("orders-readonly")
    assert (await broker.login.token()).reveal() != first.reveal()
