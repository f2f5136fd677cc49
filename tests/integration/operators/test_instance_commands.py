"""`tasklease instance` as a real process, against the real stack."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from broker.client import Denied, TaskEnded
from broker.devstack.parts import REPOSITORY
from broker.devstack.state import NODE_ID
from tests.threats.world import CLASS, ROLE, TASK_TYPE, World, until

Files = tuple[str, ...]


def files_of(world: World, folder: Path, spiffe_id: str) -> Files:
    """What an administrator of the SPIRE server mints on the bad day."""
    svid, key, bundle = world.stack.spire.mint(spiffe_id, ttl=timedelta(minutes=10), folder=folder)
    return "--svid", str(svid), "--key", str(key), "--bundle", str(bundle)


@pytest.fixture
def ann(world: World, tmp_path: Path) -> Files:
    return files_of(world, tmp_path / "ann", "spiffe://dev.tasklease.test/operator/ann")


@pytest.fixture
def vera(world: World, tmp_path: Path) -> Files:
    return files_of(world, tmp_path / "vera", "spiffe://dev.tasklease.test/viewer/vera")


def instance(
    world: World, *words: str, groups: Sequence[int] = (), noun: str = "instance", **environment: str
) -> subprocess.CompletedProcess[str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("SPIFFE_", "TASKLEASE_"))
    }
    return subprocess.run(
        [sys.executable, "-m", "broker", noun, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        timeout=90,
        stdin=subprocess.DEVNULL,
        # Only where it must be: with groups, Python forks, and gRPC's threads are not made for that.
        extra_groups=[*os.getgroups(), *groups] if groups else None,
        env={**kept, "COLUMNS": "300", "TASKLEASE_BROKER": world.stack.broker.address, **environment},
    )


def test_a_bad_day_from_files(world: World, ann: Files, vera: Files) -> None:
    svid = world.svid()
    with world.calling(svid) as caller:
        credential = world.acquire(caller, world.declare(caller))
        done = instance(world, "quarantine", svid.spiffe_id, "--reason", "strange mail", *ann)
        assert done.returncode == 0, done.stderr
        assert f"quarantined: {svid.spiffe_id}" in done.stdout
        assert "1 tasks have ended: nothing that they held works any more" in done.stdout
        assert not world.lets_in(credential)
        assert caller.knock().reason == "INSTANCE_QUARANTINED"

        shown = instance(world, "list", "--json", *vera)
        assert shown.returncode == 0, shown.stderr
        (line,) = [json.loads(line) for line in shown.stdout.splitlines()]
        since = line.pop("since")
        assert since.endswith("+00:00")
        assert line == {
            "target": svid.spiffe_id,
            "by": "spiffe://dev.tasklease.test/operator/ann",
            "unfinished_tasks": 0,
            "reason": "strange mail",
        }
        table = instance(world, "list", *vera)
        assert svid.spiffe_id in table.stdout
        assert "strange mail" in table.stdout

        again = instance(world, "quarantine", svid.spiffe_id, "--reason", "once more", *ann)
        assert again.returncode == 0
        assert "quarantined before, by spiffe://dev.tasklease.test/operator/ann: strange mail" in again.stdout

        let_go = instance(world, "release", svid.spiffe_id, "--reason", "it was the weather", *ann)
        assert let_go.returncode == 0, let_go.stderr
        assert caller.knock().ok
    empty = instance(world, "list", *vera)
    assert (empty.returncode, empty.stdout) == (0, "nothing is quarantined\n")


def test_a_class_is_asked_about_and_an_instance_of_it_stays_in_for_both(world: World, ann: Files) -> None:
    svid = world.svid()
    with world.calling(svid) as caller:
        unasked = instance(world, "quarantine", "--class", CLASS, "-r", "all of them", *ann)
        assert unasked.returncode == 1
        assert caller.knock().ok
        assert instance(world, "quarantine", "--class", CLASS, "-r", "all", "--yes", *ann).returncode == 0
        assert caller.knock().reason == "INSTANCE_QUARANTINED"
        assert instance(world, "quarantine", svid.spiffe_id, "-r", "this one too", *ann).returncode == 0
        half = instance(world, "release", svid.spiffe_id, "-r", "not this one", *ann)
        assert half.returncode == 3
        assert f"still quarantined as one of class {CLASS}: all" in half.stderr
        assert caller.knock().reason == "INSTANCE_QUARANTINED"
        assert instance(world, "release", "--class", CLASS, "-r", "done", "-y", *ann).returncode == 0
        assert caller.knock().ok


def test_with_vault_away_it_says_what_is_left(world: World, ann: Files) -> None:
    svid = world.svid()
    with world.calling(svid) as caller:
        credential = world.acquire(caller, world.declare(caller))
    world.stack.stop_part("vault")
    try:
        done = instance(world, "quarantine", svid.spiffe_id, "--reason", "vault is away", *ann)
        assert done.returncode == 3, done.stderr
        assert "1 of its tasks are still being ended: what they hold may still work" in done.stderr
    finally:
        world.stack.up()
    until(lambda: not world.lets_in(credential), "revoked")
    assert instance(world, "release", svid.spiffe_id, "--reason", "vault is back", *ann).returncode == 0


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (("quarantine", "spiffe://dev.tasklease.test/agent/a/b"), 2, "--reason"),
        (("quarantine", "--reason", "x"), 2, "name one of"),
        (("quarantine", "--reason", "x", "--class", "a", "--trust-domain", "b"), 2, "name one of"),
        (("quarantine", "spiffe://dev.tasklease.test/operator/ann", "--reason", "x"), 2, "FIELD_INVALID"),
        (("quarantine", "spiffe://dev.tasklease.test/agent/a/b", "--reason", " "), 2, "say why"),
        (("release", "spiffe://dev.tasklease.test/agent/a/b", "--reason", "x"), 1, "no such quarantine"),
    ],
)
def test_what_is_wrong_is_said(world: World, ann: Files, words: Files, code: int, what: str) -> None:
    done = instance(world, *words, *ann)
    assert done.returncode == code
    assert what in done.stderr


def test_a_viewer_and_an_agent_are_told_who_they_are_and_do_nothing(
    world: World, vera: Files, tmp_path: Path
) -> None:
    victim = world.svid()
    agent = f"spiffe://dev.tasklease.test/agent/{CLASS}/hijacked"
    for files, reason, who in (
        (vera, "OPERATOR_ROLE_MISSING", "spiffe://dev.tasklease.test/viewer/vera"),
        (files_of(world, tmp_path / "agent", agent), "OPERATOR_UNKNOWN", agent),
    ):
        done = instance(world, "quarantine", victim.spiffe_id, "--reason", "mischief", *files)
        assert done.returncode == 1
        assert reason in done.stderr
        assert f"you are {who}" in done.stderr
    with world.calling(victim) as caller:
        assert caller.knock().ok


def test_an_operator_whom_spire_knows_needs_no_files(world: World) -> None:
    group = world.stack.state.new_group()
    bob = "spiffe://dev.tasklease.test/operator/bob"
    entry = world.stack.spire._create(bob, group, x509_ttl=timedelta(minutes=10))
    try:
        world.stack.spire.wait_for_identity(entry)
        environment = {"SPIFFE_ENDPOINT_SOCKET": f"unix://{world.stack.spire.agent_socket}"}
        done = instance(world, "list", groups=[group], **environment)
        assert (done.returncode, done.stdout) == (0, "nothing is quarantined\n"), done.stderr
    finally:
        world.stack.spire.deregister(entry)
    actors = world.rows("SELECT DISTINCT actor FROM audit_records WHERE kind = 'quarantine.listed'")
    assert (bob,) in actors


def test_files_that_are_no_svid_are_said_to_be_none(world: World, ann: Files, tmp_path: Path) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    for words, what in (
        (("--svid", str(nonsense), *ann[2:]), "holds no X.509-SVID"),
        (("--svid", str(tmp_path / "missing.pem"), *ann[2:]), "No such file"),
        (ann[:4], "belong together"),
    ):
        done = instance(world, "list", *words)
        assert done.returncode == 2
        assert what in done.stderr


def test_its_entry_is_deleted_in_the_same_command(world: World, ann: Files, tmp_path: Path) -> None:
    spire, config = world.stack.spire, str(world.stack.broker.folder / "broker.yaml")
    agent_id = spire.instance_id(CLASS, "deleted")
    ours = f"tasklease.launch.{CLASS}.deleted"
    group = world.stack.state.new_group()
    arguments = ("-parentID", NODE_ID, "-spiffeID", agent_id, "-selector", f"unix:supplementary_gid:{group}")
    spire._server("entry", "create", "-entryID", ours, *arguments)
    theirs = spire.register_instance(CLASS, "deleted")
    try:
        away = instance(
            world, "quarantine", agent_id, "--reason", "no way there", *ann,
            "--delete-entry", "--config", config, "--server", f"unix://{tmp_path}/nobody.sock",
        )  # fmt: skip
        assert away.returncode == 3
        assert f"quarantined: {agent_id}" in away.stdout
        assert "its entries are left" in away.stderr
        assert "no task of it was under way" in away.stdout
        done = instance(
            world, "quarantine", agent_id, "-r", "mischief", *ann, "--delete-entry", "--config", config
        )
        assert done.returncode == 3, done.stderr
        assert f"left: {agent_id}: entry {theirs.entry_id} is not ours" in done.stderr
        assert "1 entries deleted" in done.stdout
        assert ours not in spire._server("entry", "show", "-spiffeID", agent_id)
        assert theirs.entry_id in spire._server("entry", "show", "-spiffeID", agent_id)
    finally:
        spire.deregister(theirs)
    once_more = instance(
        world, "quarantine", agent_id, "-r", "mischief", *ann, "--delete-entry", "--config", config
    )
    assert (once_more.returncode, "SPIRE has no entry of it" in once_more.stdout) == (0, True)
    assert instance(world, "release", agent_id, "--reason", "it is gone", *ann).returncode == 0


def test_what_deleting_needs_is_asked_for_before_anything_is_done(
    world: World, ann: Files, tmp_path: Path
) -> None:
    svid = world.svid()
    broken = tmp_path / "broken.yaml"
    broken.write_text("nonsense: 1\n")
    for words, what in (
        (("--delete-entry",), "--delete-entry needs --config"),
        (("--delete-entry", "--config", str(broken)), "broken.yaml"),
        (("--config", str(broken)), "say that as well"),
    ):
        done = instance(world, "quarantine", svid.spiffe_id, "--reason", "x", *ann, *words)
        assert done.returncode == 2
        assert what in done.stderr
    with world.calling(svid) as caller:
        assert caller.knock().ok


async def test_an_agent_with_the_sdk_sees_that_it_was_quarantined(world: World, ann: Files) -> None:
    svid = world.svid()
    words = ("quarantine", svid.spiffe_id, "--reason", "the agent looks")
    acquired = asyncio.Event()

    async def operate() -> int:
        await acquired.wait()
        return (await asyncio.to_thread(instance, world, *words, *ann)).returncode

    operator = asyncio.create_task(operate())
    async with world.sdk(svid) as broker:

        async def work() -> None:
            async with broker.task(TASK_TYPE, intent="to be quarantined") as task:
                await task.acquire(ROLE)
                acquired.set()
                await asyncio.Event().wait()

        with pytest.raises(TaskEnded) as ended:
            await work()
        assert ended.value.cause == "QUARANTINED"
        with pytest.raises(Denied) as refused:
            await broker.list_tasks()
        assert refused.value.reason == "INSTANCE_QUARANTINED"
        with pytest.raises(Denied):
            async with broker.task(TASK_TYPE, intent="once more"):
                pass
    assert await operator == 0
    assert world.users() == set()
    let_go = await asyncio.to_thread(instance, world, "release", svid.spiffe_id, "-r", "it looked", *ann)
    assert let_go.returncode == 0
