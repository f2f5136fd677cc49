"""What the broker asks of Vault, and what it makes of each answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from broker.adapters.vault.as_broker import AsBroker
from broker.adapters.vault.connection import VaultConnection
from broker.adapters.vault.issuer import VaultCredentialIssuer
from broker.adapters.vault.login import VaultLogin
from broker.domain.catalog import IssueMethod
from broker.domain.errors import CredentialBackendUnavailableError, LeaseNotRenewableError
from broker.domain.identifiers import TokenAccessor, VaultLeaseId
from broker.domain.secret import Secret
from broker.ports.issuing import (
    IssuedCredential,
    IssueInDoubtError,
    IssueRefusedError,
    TokenGoneError,
    TokenGrant,
)
from tests.fakes.samples import ACCESSOR, TASK, a_role
from tests.unit.vault.conftest import BROKER_TOKEN, logged_in
from tests.unit.vault.tiny_vault import HANG_UP, Answer, TinyVault, refusal

SOON = timedelta(seconds=5)
GRANT = TokenGrant(accessor=ACCESSOR, token=Secret("planted-task-token"))
LEASE = VaultLeaseId("database/creds/orders/abc")
CREATE = "auth/token/create/tasklease-task"
CREDS = "database/creds/orders"
MADE: dict[str, Any] = {
    "lease_id": LEASE,
    "lease_duration": 60,
    "renewable": True,
    "data": {"username": "u", "password": "planted-password"},
}
FAILURES = {
    "in doubt": Answer(status=500, body={"errors": ["planted"]}),
    "sealed": refusal(503, "Vault is sealed"),
    "too many": refusal(429, "request path rate limit quota exceeded"),
    "no answer": HANG_UP,
}
Work = Callable[[VaultCredentialIssuer], Awaitable[object]]
AS_BROKER: dict[str, tuple[str, Work]] = {
    "open a task": (CREATE, lambda issuer: issuer.open_task(TASK, [a_role()], SOON, timeout=SOON)),
    "renew": ("sys/leases/renew", lambda issuer: issuer.renew(LEASE, SOON, timeout=SOON)),
    "revoke": ("sys/leases/revoke", lambda issuer: issuer.revoke(LEASE, timeout=SOON)),
    "look": ("sys/leases/lookup", lambda issuer: issuer.see_that_it_is_gone(LEASE, timeout=SOON)),
    "revoke a token": (
        "auth/token/revoke-accessor",
        lambda issuer: issuer.revoke_token(ACCESSOR, timeout=SOON),
    ),
}


async def issue(issuer: VaultCredentialIssuer, **role: Any) -> IssuedCredential:
    return await issuer.issue(GRANT, TASK, a_role(**role), timeout=SOON)


# Tokens of tasks -------------------------------------------------------------------------------------------


async def test_a_tasks_token_has_exactly_its_roles_policies_and_ends_by_itself(
    vault: TinyVault, issuer: VaultCredentialIssuer
) -> None:
    vault.on(CREATE, Answer(body={"auth": {"client_token": "planted-task-token", "accessor": "acc"}}))
    roles = [a_role("orders"), a_role("customers")]
    grant = await issuer.open_task(TASK, roles, timedelta(minutes=31), timeout=SOON)
    assert grant.accessor == TokenAccessor("acc")
    assert grant.token.reveal() == "planted-task-token"
    assert "planted" not in repr(grant)
    (asked,) = vault.on_path(CREATE)
    assert asked.token == BROKER_TOKEN
    assert asked.headers["x-correlation-id"] == TASK
    assert asked.body == {
        "policies": ["tasklease-role-orders", "tasklease-role-customers"],
        "no_default_policy": True,
        "meta": {"tasklease_task": TASK, "tasklease_store": "tests"},
        "display_name": TASK,
        "ttl": "1860s",
        "explicit_max_ttl": "1860s",
        "renewable": False,
        "type": "service",
    }


async def test_a_token_without_policies_is_never_asked_for(
    vault: TinyVault, issuer: VaultCredentialIssuer
) -> None:
    with pytest.raises(ValueError, match="without policies"):
        await issuer.open_task(TASK, [], SOON, timeout=SOON)
    assert not vault.asked


@pytest.mark.parametrize("ttl", [timedelta(), timedelta(milliseconds=1), timedelta(seconds=-5)])
async def test_a_lifetime_is_never_nothing_which_would_mean_vaults_own(
    vault: TinyVault, issuer: VaultCredentialIssuer, ttl: timedelta
) -> None:
    vault.on(CREATE, Answer(body={"auth": {"client_token": "t", "accessor": "a"}}))
    await issuer.open_task(TASK, [a_role()], ttl, timeout=SOON)
    body = vault.on_path(CREATE)[0].body
    assert (body["ttl"], body["explicit_max_ttl"]) == ("1s", "1s")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"auth": None},
        {"auth": {"client_token": "t"}},
        {"auth": {"accessor": "a"}},
        {"auth": {"client_token": "", "accessor": "a"}},
        {"auth": {"client_token": "t", "accessor": ""}},
    ],
)
async def test_an_answer_without_token_and_accessor_is_no_grant(
    vault: TinyVault, issuer: VaultCredentialIssuer, body: dict[str, object]
) -> None:
    vault.on(CREATE, Answer(body=body))
    with pytest.raises(CredentialBackendUnavailableError):
        await issuer.open_task(TASK, [a_role()], SOON, timeout=SOON)


# Credentials -----------------------------------------------------------------------------------------------


async def test_a_role_that_reads_is_read_with_the_tasks_token(
    vault: TinyVault, issuer: VaultCredentialIssuer
) -> None:
    vault.on(CREDS, Answer(body=MADE))
    made = await issue(issuer)
    assert (made.vault_lease_id, made.ttl, made.renewable) == (LEASE, timedelta(seconds=60), True)
    assert {name: value.reveal() for name, value in made.secret.items()} == MADE["data"]
    assert "planted" not in repr(made)
    (asked,) = vault.asked
    assert (asked.method, asked.token, asked.body) == ("GET", "planted-task-token", None)
    assert asked.headers["x-correlation-id"] == TASK


async def test_a_role_that_updates_sends_exactly_its_parameters(
    vault: TinyVault, issuer: VaultCredentialIssuer
) -> None:
    vault.on(CREDS, Answer(body=MADE))
    await issue(issuer, method=IssueMethod.UPDATE, parameters={"ttl": "15m"})
    (asked,) = vault.asked
    assert (asked.method, asked.token, asked.body) == ("POST", "planted-task-token", {"ttl": "15m"})


async def test_what_is_no_text_is_handed_out_as_json(vault: TinyVault, issuer: VaultCredentialIssuer) -> None:
    vault.on(CREDS, Answer(body={**MADE, "data": {"port": 5432, "hosts": ["a"], "none": None}}))
    made = await issue(issuer)
    assert {name: value.reveal() for name, value in made.secret.items()} == {
        "port": "5432",
        "hosts": '["a"]',
        "none": "null",
    }


@pytest.mark.parametrize("status", [400, 404, 405, 429])
async def test_a_refusal_made_nothing(vault: TinyVault, issuer: VaultCredentialIssuer, status: int) -> None:
    vault.on(CREDS, refusal(status, "planted words"))
    with pytest.raises(IssueRefusedError) as error:
        await issue(issuer)
    assert "planted" not in str(error.value)


async def test_a_vault_that_was_not_reached_made_nothing(login: VaultLogin) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = VaultConnection(address=f"http://127.0.0.1:{taken.getsockname()[1]}")
        issuer = VaultCredentialIssuer(
            as_broker=AsBroker(connection=nobody, login=login), token_role="tasklease-task", store="tests"
        )
        with pytest.raises(IssueRefusedError):
            await issue(issuer)
        nobody.close()


async def test_a_token_that_vault_does_not_take_is_gone_and_the_brokers_is_not_used_instead(
    vault: TinyVault, issuer: VaultCredentialIssuer
) -> None:
    vault.on(CREDS, refusal(403, "permission denied"))
    with pytest.raises(TokenGoneError):
        await issue(issuer)
    assert [asked.token for asked in vault.asked] == ["planted-task-token"]


@pytest.mark.parametrize(
    "answer",
    [
        refusal(500, "planted words"),
        refusal(502),
        refusal(503, "Vault is sealed"),
        HANG_UP,
        Answer(status=204),
        Answer(raw=b"no json"),
        Answer(body={**MADE, "lease_id": ""}),
        Answer(body={**MADE, "lease_id": None}),
        Answer(body={**MADE, "lease_duration": "60"}),
        Answer(body={**MADE, "data": None}),
    ],
    ids=str,
)
async def test_anything_else_may_have_made_something(
    vault: TinyVault, issuer: VaultCredentialIssuer, answer: Answer
) -> None:
    vault.on(CREDS, answer)
    with pytest.raises(IssueInDoubtError) as error:
        await issue(issuer)
    assert "planted" not in str(error.value)
    assert len(vault.asked) == 1  # never tried again by itself


async def test_an_answer_that_does_not_come_in_time_may_have_made_something(
    vault: TinyVault, issuer: VaultCredentialIssuer
) -> None:
    late = threading.Event()
    vault.on(CREDS, Answer(body=MADE, after=late))
    with pytest.raises(IssueInDoubtError):
        await issuer.issue(GRANT, TASK, a_role(), timeout=timedelta(seconds=0.2))
    late.set()


# Leases ----------------------------------------------------------------------------------------------------


async def test_a_renewal_says_for_how_long_it_is(vault: TinyVault, issuer: VaultCredentialIssuer) -> None:
    vault.on("sys/leases/renew", Answer(body={"lease_duration": 90}))
    assert await issuer.renew(LEASE, timedelta(seconds=120), timeout=SOON) == timedelta(seconds=90)
    (asked,) = vault.on_path("sys/leases/renew")
    assert (asked.token, asked.body) == (BROKER_TOKEN, {"lease_id": LEASE, "increment": 120})


async def test_a_lease_that_vault_does_not_know_is_not_renewable(
    vault: TinyVault, issuer: VaultCredentialIssuer
) -> None:
    vault.on("sys/leases/renew", refusal(400, "lease not found"))
    with pytest.raises(LeaseNotRenewableError):
        await issuer.renew(LEASE, SOON, timeout=SOON)


async def test_a_renewal_without_a_duration_is_none(vault: TinyVault, issuer: VaultCredentialIssuer) -> None:
    vault.on("sys/leases/renew", Answer(body={}))
    with pytest.raises(CredentialBackendUnavailableError):
        await issuer.renew(LEASE, SOON, timeout=SOON)


async def test_revoking_waits_for_the_backend(vault: TinyVault, issuer: VaultCredentialIssuer) -> None:
    vault.on("sys/leases/revoke", Answer(status=204))
    await issuer.revoke(LEASE, timeout=SOON)
    (asked,) = vault.on_path("sys/leases/revoke")
    assert (asked.token, asked.body) == (BROKER_TOKEN, {"lease_id": LEASE, "sync": True})


async def test_a_lease_that_vault_does_not_know_is_gone(
    vault: TinyVault, issuer: VaultCredentialIssuer
) -> None:
    vault.on("sys/leases/lookup", refusal(400, "invalid lease"))
    await issuer.see_that_it_is_gone(LEASE, timeout=SOON)
    (asked,) = vault.on_path("sys/leases/lookup")
    assert asked.body == {"lease_id": LEASE}


@pytest.mark.parametrize(
    "lookup",
    [Answer(body={"data": {"id": LEASE}}), refusal(400, "other"), refusal(403), refusal(500), HANG_UP],
    ids=["still there", "another refusal", "forbidden", "a failure", "no answer"],
)
async def test_a_lease_is_not_gone_before_vault_no_longer_knows_it(
    vault: TinyVault, issuer: VaultCredentialIssuer, lookup: Answer
) -> None:
    vault.on("sys/leases/lookup", lookup)
    with pytest.raises(CredentialBackendUnavailableError):
        await issuer.see_that_it_is_gone(LEASE, timeout=SOON)


async def test_a_backend_that_fails_to_revoke_has_not_revoked(
    vault: TinyVault, issuer: VaultCredentialIssuer
) -> None:
    vault.on("sys/leases/revoke", refusal(400, "failed to revoke entry: connection refused"))
    with pytest.raises(CredentialBackendUnavailableError):
        await issuer.revoke(LEASE, timeout=SOON)


async def test_a_token_that_vault_does_not_know_is_revoked(
    vault: TinyVault, issuer: VaultCredentialIssuer
) -> None:
    for status in (400, 403):
        vault.on("auth/token/revoke-accessor", refusal(status, "1 error occurred: invalid accessor"))
        await issuer.revoke_token(ACCESSOR, timeout=SOON)
    assert [asked.body for asked in vault.on_path("auth/token/revoke-accessor")] == [
        {"accessor": ACCESSOR}
    ] * 2
    assert len(vault.on_path("auth/jwt/login")) == 1


# With the broker's own token -------------------------------------------------------------------------------


@pytest.mark.parametrize("work", AS_BROKER)
@pytest.mark.parametrize("answer", FAILURES.values(), ids=FAILURES)
async def test_whatever_vault_fails_with_the_backend_is_unavailable(
    vault: TinyVault, issuer: VaultCredentialIssuer, work: str, answer: Answer
) -> None:
    path, call = AS_BROKER[work]
    vault.on(path, answer)
    with pytest.raises(CredentialBackendUnavailableError) as error:
        await call(issuer)
    assert "planted" not in error.value.text


@pytest.mark.parametrize("work", AS_BROKER)
async def test_a_refused_token_of_the_broker_is_replaced_once_and_the_call_repeated(
    vault: TinyVault, issuer: VaultCredentialIssuer, work: str
) -> None:
    path, call = AS_BROKER[work]
    vault.on("auth/jwt/login", logged_in("first"), logged_in("second"))
    vault.on(path, refusal(403, "permission denied"))
    with pytest.raises(CredentialBackendUnavailableError):
        await call(issuer)
    assert [asked.token for asked in vault.on_path(path)] == ["first", "second"]


@pytest.mark.parametrize("work", AS_BROKER)
async def test_while_nobody_lets_the_broker_in_the_backend_is_unavailable(
    vault: TinyVault, issuer: VaultCredentialIssuer, work: str
) -> None:
    path, call = AS_BROKER[work]
    vault.on("auth/jwt/login", refusal(503))
    with pytest.raises(CredentialBackendUnavailableError):
        await call(issuer)
    assert not vault.on_path(path)


async def test_a_call_goes_on_after_a_new_log_in(vault: TinyVault, issuer: VaultCredentialIssuer) -> None:
    vault.on("auth/jwt/login", logged_in("first"), logged_in("second"))
    vault.on("sys/leases/renew", refusal(403), Answer(body={"lease_duration": 90}))
    assert await issuer.renew(LEASE, SOON, timeout=SOON) == timedelta(seconds=90)
