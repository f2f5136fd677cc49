"""The command line of each kind of instance, and what is refused because it would blur who is who."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from broker.adapters.node.starters import (
    DockerStarter,
    KubernetesStarter,
    SystemdStarter,
    UnixStarter,
    starter_of,
)
from broker.ports.launching import CannotStartError
from tests.unit.node.samples import DOCKER, KUBERNETES, SYSTEMD, a_class, an_identity

HERE = {"PATH": "/bin", "LANG": "C"}


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.mark.usefixtures("as_root")
def test_a_process_has_its_group_and_a_uid_of_its_own() -> None:
    command = UnixStarter(user="", environment=HERE).command(an_identity(), ["agent", "-x"])
    assert command.words == ("agent", "-x")
    assert (command.uid, command.gid, command.groups) == (70000, 70000, (70000,))
    assert command.environment["HOME"] == "/"


@pytest.mark.usefixtures("as_root")
def test_a_process_of_the_classs_user_has_their_groups_and_its_own() -> None:
    command = UnixStarter(user="", environment=HERE).command(an_identity(user="nobody"), ["agent"])
    assert command.uid == command.gid == 65534
    assert command.groups is not None
    assert 70000 in command.groups


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("user", ["", "nobody", "root"])
def test_no_group_of_the_launchers_is_handed_on(monkeypatch: pytest.MonkeyPatch, user: str) -> None:
    monkeypatch.setattr(os, "getgroups", lambda: [0, 66001])
    command = UnixStarter(user="", environment=HERE).command(an_identity(user=user), ["agent"])
    assert command.groups is not None
    assert 66001 not in command.groups


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize(
    ("user", "identity", "said"),
    [
        ("daemon", an_identity(user="nobody"), "run as nobody: the catalog says so"),
        ("no-such-user", an_identity(), "no user 'no-such-user'"),
        ("root", an_identity(), "root can take any group"),
        ("", an_identity(group=0), "the uid of root"),
        ("", an_identity(group=None), "has no group"),
    ],
)
def test_a_process_that_would_be_somebody_else_is_refused(user: str, identity: object, said: str) -> None:
    with pytest.raises(CannotStartError, match=said):
        UnixStarter(user=user, environment=HERE).command(identity, ["agent"])  # type: ignore[arg-type]


def test_groups_are_roots_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(CannotStartError, match="needs root"):
        UnixStarter(user="", environment=HERE).command(an_identity(), ["agent"])


def test_a_container_has_a_label_that_it_alone_has() -> None:
    command = DockerStarter(environment=HERE).command(an_identity(a_class(DOCKER)), ["-i", "image", "agent"])
    assert command.words == (
        *("docker", "run", "--rm", "--name", "tasklease-bot-one"),
        *("--label", "tasklease.instance=bot/one", "-i", "image", "agent"),
    )
    assert command.uid is None
    assert command.groups is None


@pytest.mark.parametrize(
    "words",
    [
        ["--label", "tasklease.instance=bot/another", "image"],
        ["--label=tasklease.instance=bot/another", "image"],
        ["-l=tasklease.instance=bot/another", "image"],
        ["--label-file", "labels", "image"],
        ["--label-file=labels", "image"],
    ],
)
def test_a_container_that_would_be_another_instance_is_refused(words: list[str]) -> None:
    with pytest.raises(CannotStartError, match="not to be given"):
        DockerStarter(environment=HERE).command(an_identity(a_class(DOCKER)), words)


def test_a_unit_is_transient_and_its_environment_is_in_nobodys_list_of_processes() -> None:
    command = SystemdStarter(user="bot", environment=HERE).command(
        an_identity(a_class(SYSTEMD)), ["agent", "-x"]
    )
    assert command.words == (
        *("systemd-run", "--quiet", "--collect", "--wait", "--pipe", "--unit=bot@one.service", "--uid=bot"),
        *("--setenv=LANG", "--setenv=PATH", "--", "agent", "-x"),
    )


def test_a_pod_is_made_first_and_followed_until_it_ends() -> None:
    starter = KubernetesStarter(environment=HERE)
    identity = an_identity(a_class(KUBERNETES))
    made = starter.make(identity, ["image", "agent", "-x"], service_account="bot")
    assert made.words == (
        *("kubectl", "run", "bot-one", "--namespace=agents", "--image=image", "--restart=Never"),
        '--overrides={"spec":{"serviceAccountName":"bot"}}',
        *("--output=jsonpath={.metadata.uid}", "--command", "--", "agent", "-x"),
    )
    followed = starter.command(identity, [])
    assert followed.words[:2] == ("kubectl", "logs")
    assert followed.words[-1] == "bot-one"


def test_a_pod_needs_an_image() -> None:
    with pytest.raises(CannotStartError, match="image"):
        KubernetesStarter(environment=HERE).make(an_identity(a_class(KUBERNETES)), [], service_account="bot")


@pytest.mark.parametrize(
    ("kind", "of", "answers", "gone"),
    [
        ("docker", DOCKER, {"ps": ""}, True),
        ("docker", DOCKER, {"ps": "4711", "rm": ""}, False),  # it is still there after it was removed
        ("systemd", SYSTEMD, {"kill": "", "stop": "", "show": "inactive"}, True),
        ("systemd", SYSTEMD, {"kill": "", "stop": "", "show": "deactivating"}, False),
        ("kubernetes", KUBERNETES, {"delete": ""}, True),
    ],
)
def test_an_end_is_believed_only_when_the_machine_says_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    of: object,
    answers: dict[str, str],
    gone: bool,  # noqa: FBT001 - a case
) -> None:
    for name in ("docker", "systemctl", "kubectl"):
        program = tmp_path / name
        cases = "".join(f"{verb}) echo '{answer}' ;;" for verb, answer in answers.items() if answer)
        silent = "".join(f"{verb}) ;;" for verb, answer in answers.items() if not answer)
        program.write_text(f'#!/bin/sh\ncase "$1" in {cases}{silent} *) exit 1 ;; esac\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    identity = an_identity(a_class(of))  # type: ignore[arg-type]
    assert starter_of(kind).end(identity) is gone


@pytest.mark.parametrize(
    ("kind", "of"), [("docker", DOCKER), ("systemd", SYSTEMD), ("kubernetes", KUBERNETES)]
)
def test_where_nobody_can_be_asked_nothing_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, of: object
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert starter_of(kind).end(an_identity(a_class(of))) is False  # type: ignore[arg-type]


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(CannotStartError, match="cannot be launched"):
        starter_of("telepathy")
