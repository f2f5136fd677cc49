"""`tasklease launch` on real SPIRE: an identity for each, for as long as it runs, whoever dies first."""

from __future__ import annotations

import signal
import subprocess
from datetime import timedelta

import pytest

from broker.domain.launching import SETTLING, IdentityState
from tests.integration.launching.node import FOREVER, Node, eventually


def test_a_command_runs_with_an_identity_that_it_alone_has(node: Node) -> None:
    first = node.start(*FOREVER)
    done = node.launch(*node.whose())
    assert done.returncode == 0, done.stderr
    (mine,) = done.stdout.split()
    assert mine.startswith("spiffe://dev.tasklease.test/agent/bot/")
    assert done.stderr == f"instance {mine}\n"
    assert mine != first.spiffe_id
    first.process.terminate()
    assert first.wait() == 128 + signal.SIGTERM
    assert node.is_clean()


def test_its_entry_is_for_it_alone_and_expires_by_itself(node: Node) -> None:
    launched = node.start(*FOREVER)
    (entry,) = node.entries().values()
    assert entry["spiffe_id"]["path"] == launched.spiffe_id.removeprefix("spiffe://dev.tasklease.test")
    assert entry["selectors"] == [{"type": "unix", "value": f"supplementary_gid:{launched.group}"}]
    assert int(entry["expires_at"]) > 0
    launched.process.terminate()
    launched.wait()


def test_the_command_has_a_uid_and_a_group_of_its_own_and_no_power_to_change_them(node: Node) -> None:
    done = node.launch("/bin/sh", "-c", "id -u; id -G; grep CapEff /proc/self/status")
    uid, groups, _, capabilities = done.stdout.split()
    assert uid == groups == str(node.identities()[0].group)
    assert int(capabilities, 16) == 0


@pytest.mark.parametrize(("words", "code"), [(("false",), 1), (("/bin/sh", "-c", "exit 7"), 7)])
def test_it_ends_with_the_exit_code_of_the_command(node: Node, words: tuple[str, ...], code: int) -> None:
    assert node.launch(*words).returncode == code
    assert node.is_clean()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("no-such-command",), 127, "no command 'no-such-command'"),
        (("/etc/hostname",), 126, "error: /etc/hostname: "),
        ((), 2, "give a command"),
    ],
)
def test_a_command_that_cannot_run_leaves_nothing(
    node: Node, words: tuple[str, ...], code: int, said: str
) -> None:
    done = node.launch(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert node.is_clean()


def test_standard_streams_are_the_commands(node: Node) -> None:
    done = node.launch("/bin/cat", text="through and through")
    assert (done.returncode, done.stdout) == (0, "through and through")


@pytest.mark.parametrize(
    "killed",
    [
        ("launcher",),
        ("child",),
        ("watcher",),
        ("launcher", "child"),
        ("child", "launcher"),
        ("launcher", "watcher"),
        ("watcher", "launcher", "child"),
    ],
    ids=" and ".join,
)
def test_whoever_is_killed_nothing_is_left(node: Node, killed: tuple[str, ...]) -> None:
    launched = node.start(*FOREVER)
    launched.kill(*killed)
    if killed == ("watcher",):
        launched.process.terminate()
    launched.wait()
    if {"launcher", "watcher"} <= set(killed):  # nobody of that launch is left: the next one to come does it
        eventually(lambda: not node.groups_in_use())
        done = node.tidy()
        assert done.returncode == 0, done.stderr
        assert "1 ended" in done.stderr
    eventually(node.is_clean)
    assert node.identity(launched.spiffe_id).state is IdentityState.COOLING


def test_what_the_command_leaves_running_is_ended_with_it(node: Node) -> None:
    words = "(trap '' TERM HUP; setsid sleep 100000 >/dev/null 2>&1 &) ; exit 3"
    assert node.launch("/bin/sh", "-c", words).returncode == 3
    assert not node.groups_in_use()
    assert node.is_clean()


def test_the_next_launch_ends_what_was_left_behind(node: Node) -> None:
    launched = node.start(*FOREVER)
    launched.kill("watcher", "launcher", "child")
    launched.wait()
    assert node.launch("true").returncode == 0
    eventually(node.is_clean)


def test_a_group_is_not_given_out_again_before_the_last_svid_has_expired(node: Node) -> None:
    node.write(gids="70000-70001", most=2)
    assert node.launch("true").returncode == 0
    assert node.launch("true").returncode == 0
    done = node.launch("true")
    assert done.returncode == 4
    assert "every group 70000-70001 of bot is in use, or waits" in done.stderr
    for identity in node.identities():
        assert identity.free_at is not None
        assert identity.free_at - identity.since >= timedelta(seconds=10) + SETTLING


def test_no_more_instances_run_than_the_class_may_have(node: Node) -> None:
    node.write(most=1)
    launched = node.start(*FOREVER)
    done = node.launch("true")
    assert done.returncode == 4
    assert "1 instances of bot run, and 1 may be launched" in done.stderr
    launched.process.terminate()
    launched.wait()
    assert node.launch("true").returncode == 0


def test_an_unlisted_class_is_refused(node: Node) -> None:
    done = node.launch("true", agent_class="stranger")
    assert done.returncode == 1
    assert done.stderr == "error: the catalog has no agent class 'stranger'\n"
    assert not node.identities()


def test_the_classs_user_is_who_runs_it_and_nobody_else(node: Node) -> None:
    node.write(unix=", user: nobody")
    assert node.launch("id", "-un").stdout == "nobody\n"
    done = node.launch("true", options=["--user", "daemon"])
    assert done.returncode == 1
    assert "instances of bot run as nobody" in done.stderr
    assert node.is_clean()


def test_signals_reach_the_command(node: Node) -> None:
    launched = node.start(
        "/bin/sh", "-c", "trap 'echo hup; exit 5' HUP; echo on; while :; do sleep 0.05; done"
    )
    assert launched.process.stdout is not None
    assert launched.process.stdout.readline() == "on\n"
    launched.process.send_signal(signal.SIGHUP)
    assert launched.process.stdout.readline() == "hup\n"
    assert launched.wait() == 5


def test_without_a_configuration_it_says_what_is_missing(node: Node) -> None:
    words = node.command("true")
    del words[words.index("--config") : words.index("--config") + 2]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--config or TASKLEASE_CONFIG" in done.stderr
