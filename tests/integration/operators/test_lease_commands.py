"""`tasklease lease` as a real process, against the real stack: Vault, PostgreSQL and what differs between them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.integration.operators.test_instance_commands import Files, ann, files_of, instance, vera
from tests.threats.world import ROLE, World, until

__all__ = ["ann", "vera"]  # fixtures


def lease(world: World, *words: str) -> subprocess.CompletedProcess[str]:
    return instance(world, *words, noun="lease")


def test_list_show_and_revoke(world: World, ann: Files, vera: Files) -> None:
    svid = world.svid()
    with world.calling(svid) as caller:
        task_id = world.declare(caller)
        credential, other = world.acquire(caller, task_id), world.acquire(caller, task_id)
        shown = lease(world, "list", "--task", task_id, "--json", *vera)
        assert shown.returncode == 0, shown.stderr
        lines = [json.loads(line) for line in shown.stdout.splitlines()]
        assert [line["lease"] for line in lines] == [credential.lease.lease_id, other.lease.lease_id]
        assert {line["owner"] for line in lines} == {svid.spiffe_id}
        assert {line["state"] for line in lines} == {"live"}
        for secret in credential.secret.values():
            assert secret not in shown.stdout
        table = lease(world, "list", *vera)
        assert credential.lease.lease_id in table.stdout
        assert ROLE in table.stdout

        done = lease(world, "revoke", credential.lease.lease_id, "--reason", "seen elsewhere", *ann)
        assert done.returncode == 0, done.stderr
        assert not world.lets_in(credential)
        assert world.lets_in(other), "only the one"
        one = lease(world, "show", credential.lease.lease_id, *vera)
        assert "operator" in one.stdout
        assert "refused_since" in one.stdout
        over = lease(world, "list", "--task", task_id, "--state", "revoked", "--json", *vera)
        assert [json.loads(line)["lease"] for line in over.stdout.splitlines()] == [credential.lease.lease_id]
        assert world.complete(caller, task_id).ok


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (("list", "--state", "dead"), 2, "give one of intended, live"),
        (("show", "lease-never"), 1, "LEASE_NOT_FOUND"),
        (("revoke", "lease-never"), 2, "--reason"),
        (("revoke", "lease-never", "--reason", "x"), 1, "LEASE_NOT_FOUND"),
        (("reconcile",), 2, "--reason"),
    ],
)
def test_what_is_wrong_is_said(world: World, ann: Files, words: Files, code: int, what: str) -> None:
    done = lease(world, *words, *ann)
    assert (done.returncode, what in done.stderr) == (code, True), done.stderr


def test_an_agent_sees_nobodys_leases(world: World, tmp_path: Path) -> None:
    files = files_of(world, tmp_path / "agent", "spiffe://dev.tasklease.test/agent/invoice-bot/hijacked")
    for words in (("list",), ("reconcile", "--reason", "mischief"), ("revoke", "lease-1", "-r", "mischief")):
        done = lease(world, *words, *files)
        assert done.returncode == 1
        assert "OPERATOR_UNKNOWN" in done.stderr


def test_what_vault_forgot_and_what_nobody_answers_for(world: World, ann: Files) -> None:
    admin = world.stack.vault.admin()
    svid = world.svid()
    nothing = lease(world, "reconcile", "--dry-run", "--reason", "look", *ann)
    assert nothing.returncode == 0, nothing.stdout + nothing.stderr
    assert "0 differ" in nothing.stdout
    with world.calling(svid) as caller:
        task_id = world.declare(caller)
        credential, kept = world.acquire(caller, task_id), world.acquire(caller, task_id)
        with world.alive(svid, task_id):
            shown = lease(world, "show", credential.lease.lease_id, "--json", *ann)
            vault_lease = json.loads(shown.stdout)["vault_lease"]
            admin.adapter.put("/v1/sys/leases/revoke", json={"lease_id": vault_lease, "sync": True})
            (store,) = world.rows("SELECT fact FROM store_facts WHERE name = 'identity'")[0]
            orphans = [
                admin.auth.token.create(
                    policies=["default"],
                    meta={"tasklease_task": "task-of-a-restored-store", "tasklease_store": of},
                    ttl="1h",
                    no_parent=True,
                )["auth"]["accessor"]
                for of in (store, "another-store")
            ]
            looked = lease(world, "reconcile", "--dry-run", "--reason", "look", *ann)
            assert looked.returncode == 3, looked.stderr
            assert f"a lease that Vault does not know: {credential.lease.lease_id}" in looked.stdout
            assert orphans[0] not in looked.stdout, "it is younger than the grace"
            done = lease(world, "reconcile", "--reason", "put it right", *ann)
            assert done.returncode == 0, done.stderr
            again = lease(world, "reconcile", "--reason", "again", *ann)
            assert "0 differ" in again.stdout
            assert world.lets_in(kept), "what is alive is left alone"
            (state, cause) = world.rows(
                "SELECT state, revoke_cause FROM leases WHERE lease_id = ?", credential.lease.lease_id
            )[0]
            assert (state, cause) == ("revoking", "lost"), "it is followed until it has expired"
            assert world.complete(caller, task_id).ok
        assert not world.lets_in(kept)
    known = {admin.auth.token.lookup_accessor(one)["data"]["accessor"] for one in orphans}
    assert known == set(orphans)
    for one in orphans:
        admin.auth.token.revoke_accessor(one)
    # The lost one has a minute to live at its backend: only then is the task said to have ended.
    until(lambda: world.kinds(task_id)[-1:] == ["task.ended"], "ended", patience=90)
