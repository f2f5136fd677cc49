"""R4 of instances that were launched: each is itself alone, and nobody is one that has ended."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.adapters.node import probe
from broker.api.v1 import instances_pb2
from broker.demo.callers import Caller
from broker.devstack.state import NODE_ID, TRUST_DOMAIN
from broker.domain.launching import IdentityState
from tests.integration.launching.node import FOREVER, SVIDS, Launched, Node, eventually
from tests.threats.test_r5_operators import refusals
from tests.threats.world import World

REGISTRAR_GROUP = 66002
PYTHON = ("/usr/bin/python3", "-I", "-S", "-c")


@pytest.fixture
def node(world: World, tmp_path: Path) -> Iterator[Node]:
    node = Node(world.stack, tmp_path)
    yield node
    node.kill_launchers()


def ended(launched: Launched) -> None:
    launched.process.terminate()
    launched.wait()
    eventually(launched.node.is_clean)


def test_a_hijacked_instance_cannot_become_another(node: Node) -> None:
    victim = node.start(*FOREVER)
    take = f"""
import os, runpy
for change in (lambda: os.setgroups([{victim.group}]), lambda: os.setgid({victim.group}), lambda: os.setuid({victim.group})):
    try:
        change()
        print("became")
    except PermissionError:
        print("refused")
ask = runpy.run_path({probe.__file__!r}, run_name="probe")["ask"]
print(*ask({str(node.stack.spire.agent_socket)!r}))
"""
    done = node.launch(*PYTHON, take)
    *attempts, mine = done.stdout.split()
    assert attempts == ["refused"] * 3, done.stderr
    assert mine == done.stderr.split()[1] != victim.spiffe_id
    ended(victim)


@pytest.mark.parametrize("unix", ["", ", user: nobody", ", user: root"])
def test_an_instance_has_no_identity_of_whoever_launched_it(node: Node, unix: str) -> None:
    node.write(unix=unix)
    node.stack.spire._server(
        *(
            "entry",
            "create",
            "-parentID",
            NODE_ID,
            "-spiffeID",
            f"spiffe://{TRUST_DOMAIN}/registrar/{unix[-4:] or 'node'}",
        ),
        *("-selector", f"unix:supplementary_gid:{REGISTRAR_GROUP}"),
    )
    seen = [*PYTHON, SVIDS, probe.__file__, str(node.stack.spire.agent_socket)]

    def launchers() -> str:
        done = subprocess.run(
            seen, extra_groups=[REGISTRAR_GROUP], capture_output=True, text=True, check=True
        )
        return done.stdout

    eventually(lambda: "/registrar/" in launchers())
    done = subprocess.run(
        node.command(*seen), extra_groups=[REGISTRAR_GROUP], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [done.stderr.split()[1]]


def test_a_hijacked_instance_cannot_look_into_another_nor_end_it(node: Node) -> None:
    victim = node.start(*FOREVER)
    look = f"""
import os, signal
for attempt in (lambda: open("/proc/{victim.child}/environ").read(), lambda: os.kill({victim.child}, signal.SIGKILL)):
    try:
        attempt()
        print("done")
    except PermissionError:
        print("refused")
"""
    assert node.launch(*PYTHON, look).stdout.split() == ["refused", "refused"]
    assert victim.process.poll() is None
    ended(victim)


def test_a_hijacked_instance_cannot_write_who_is_who(node: Node) -> None:
    write = f"""
for name in ("ledger.db", "pool.sock", "pool.lock"):
    try:
        open({str(node.state)!r} + "/" + name, "ab")
        print("opened")
    except PermissionError:
        print("refused")
"""
    assert node.launch(*PYTHON, write).stdout.split() == ["refused"] * 3


def test_what_an_instance_leaves_running_is_no_instance_any_more(node: Node) -> None:
    stay = "(trap '' TERM HUP; setsid sleep 100000 >/dev/null 2>&1 &)"
    assert node.launch("/bin/sh", "-c", stay).returncode == 0
    assert not node.groups_in_use()


def test_who_has_the_group_of_an_ended_instance_gets_no_identity(node: Node) -> None:
    launched = node.start(*FOREVER)
    group = launched.group
    assert group is not None
    ended(launched)
    assert node.identity(launched.spiffe_id).state is IdentityState.COOLING

    def served() -> str:
        words = [*PYTHON, SVIDS, probe.__file__, str(node.stack.spire.agent_socket)]
        done = subprocess.run(words, extra_groups=[group], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    eventually(lambda: served() == "")
    others = {node.launch("true").stderr for _ in range(3)}
    assert len(others) == 3
    assert all(launched.spiffe_id not in said for said in others)
    assert group not in {one.group for one in node.identities() if one.spiffe_id != launched.spiffe_id}


def report(caller: Caller, instance: str) -> tuple[str, str]:
    answer = caller.call("ReportEnded", instances_pb2.ReportEndedRequest(spiffe_id=instance))
    return answer.code.name, answer.reason


def test_an_agent_cannot_say_that_another_has_ended(world: World) -> None:
    victim, hijacked = world.svid(), world.svid()
    with world.calling(victim) as other, world.calling(hijacked) as caller:
        task_id = world.declare(other)
        assert report(caller, victim.spiffe_id) == ("PERMISSION_DENIED", "OPERATOR_UNKNOWN")
        assert report(caller, hijacked.spiffe_id) == ("PERMISSION_DENIED", "OPERATOR_UNKNOWN")
        assert world.rows("SELECT state FROM tasks WHERE task_id = ?", task_id) == [("active",)]
    assert len(refusals(world, hijacked.spiffe_id)) == 2


@pytest.mark.parametrize("path", ["operator", "viewer"])
def test_other_operators_cannot_say_it_either(world: World, path: str) -> None:
    victim, operator = world.svid(), world.svid(path=path)
    with world.calling(victim) as other, world.calling(operator) as caller:
        task_id = world.declare(other)
        assert report(caller, victim.spiffe_id) == ("PERMISSION_DENIED", "OPERATOR_ROLE_MISSING")
        assert world.rows("SELECT state FROM tasks WHERE task_id = ?", task_id) == [("active",)]


def test_a_registrar_ends_what_it_reports_and_nothing_else(world: World) -> None:
    gone, alive = world.svid(), world.svid()
    with world.calling(gone) as first, world.calling(alive) as second:
        credential = world.acquire(first, world.declare(first))
        kept = world.acquire(second, world.declare(second))
        with world.calling(world.svid(path="registrar")) as caller:
            assert report(caller, gone.spiffe_id) == ("OK", "")
        assert not world.lets_in(credential)
        assert world.lets_in(kept)
    causes = world.rows("SELECT end_cause FROM tasks WHERE owner = ?", gone.spiffe_id)
    assert causes == [("instance-gone",)]
