"""How an instance of each kind is run on this machine, and how nothing of it is left: one small strategy a kind.

What always holds: a process that runs as an instance cannot become another one, unless the catalog makes it root: it has
its own group, none of the launcher's, and no power to take others; without a user of the class's or the caller's it has a uid of its own as well, so that no other instance
may look into it. `end` kills by what SPIRE knows the instance by, so what could get its SVID is what dies.

The standard library alone is imported: this is on the way of every start.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Final

from broker.adapters.node.processes import ProcNode
from broker.domain.launching import LaunchedIdentity
from broker.ports.launching import CannotStartError, Command, InstanceStarter

_PATIENCE: Final = 30.0


class UnixStarter:
    """A process with a supplementary group of its own."""

    def __init__(self, *, user: str, environment: Mapping[str, str]) -> None:
        self._user = user
        self._environment = environment

    def command(self, identity: LaunchedIdentity, words: Sequence[str]) -> Command:
        """See ports.launching."""
        if os.geteuid() != 0:
            message = "launching a process with a group of its own needs root: groups are root's to give"
            raise CannotStartError(message)
        group = identity.group
        if group is None:
            message = f"{identity.spiffe_id} has no group"
            raise CannotStartError(message)
        import pwd  # noqa: PLC0415 - a module of Unix alone

        user = identity.user or self._user
        if identity.user and self._user not in {"", identity.user}:
            message = f"instances of {identity.agent_class} run as {identity.user}: the catalog says so"
            raise CannotStartError(message)
        if not user:
            self._check_nobodys(group)
            return Command(
                words=tuple(words),
                uid=group,
                gid=group,
                groups=(group,),
                environment={**self._environment, "HOME": "/", "USER": str(group), "LOGNAME": str(group)},
            )
        try:
            found = pwd.getpwnam(user)
        except KeyError:
            message = f"there is no user {user!r} on this machine"
            raise CannotStartError(message) from None
        own = {"HOME": found.pw_dir, "USER": user, "LOGNAME": user}
        if found.pw_uid == 0 and identity.user != user:
            message = (
                f"{user} can take any group, and so be any instance: where that is meant, the catalog says so, by user in "
                "the class's attestation"
            )
            raise CannotStartError(message)
        # None of the launcher's own: by one of them it may be a registrar.
        groups = {group, *os.getgrouplist(user, found.pw_gid)}
        return Command(
            words=tuple(words),
            uid=found.pw_uid,
            gid=found.pw_gid,
            groups=tuple(sorted(groups)),
            environment={**self._environment, **own},
        )

    def end(self, identity: LaunchedIdentity) -> bool:
        """See ports.launching."""
        return identity.group is None or ProcNode().empty(identity.group)

    @staticmethod
    def _check_nobodys(uid: int) -> None:
        import pwd  # noqa: PLC0415

        try:
            somebody = pwd.getpwuid(uid).pw_name
        except KeyError:
            return
        message = (
            f"{uid} is the uid of {somebody}: say whose process it shall be, by user in the class's attestation or "
            "--user, or use gids that are nobody's uid"
        )
        raise CannotStartError(message)


class DockerStarter:
    """A container with a label of its own. The words are those after `docker run`: options, image, command."""

    def __init__(self, *, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def command(self, identity: LaunchedIdentity, words: Sequence[str]) -> Command:
        """See ports.launching."""
        label = identity.handle.partition("=")[0]
        if any(label in word for word in words) or any(word.startswith("--label-file") for word in words):
            message = f"the label {label} says which instance the container is: it is not to be given"
            raise CannotStartError(message)
        name = f"tasklease-{identity.agent_class}-{identity.name}"
        ours = ("--rm", "--name", name, "--label", identity.handle)
        return Command(words=("docker", "run", *ours, *words), environment=self._environment)

    def end(self, identity: LaunchedIdentity) -> bool:
        """See ports.launching."""
        listing = ("docker", "ps", "--all", "--quiet", "--no-trunc", "--filter", f"label={identity.handle}")
        if (found := _output(listing)) is None:
            return False
        if not found.split():
            return True
        _output(("docker", "rm", "--force", "--volumes", *found.split()))
        return _output(listing) == ""


class SystemdStarter:
    """A transient unit."""

    def __init__(self, *, user: str, environment: Mapping[str, str]) -> None:
        self._user = user
        self._environment = environment

    def command(self, identity: LaunchedIdentity, words: Sequence[str]) -> Command:
        """See ports.launching."""
        unit, user = identity.handle, identity.user or self._user
        scope = ("--scope",) if unit.endswith(".scope") else ("--wait", "--pipe")
        return Command(
            words=(
                *("systemd-run", "--quiet", "--collect", *scope, f"--unit={unit}"),
                *((f"--uid={user}",) if user else ()),
                # By name: systemd-run takes the values from its own environment, and everybody may read its words.
                *(f"--setenv={name}" for name in sorted(self._environment)),
                *("--", *words),
            ),
            environment=self._environment,
        )

    def end(self, identity: LaunchedIdentity) -> bool:
        """See ports.launching."""
        unit = identity.handle
        _output(("systemctl", "kill", "--signal=SIGKILL", unit))
        _output(("systemctl", "stop", unit))
        state = _output(("systemctl", "show", "--property=ActiveState", "--value", unit))
        return state is not None and state.strip() in {"inactive", "failed", ""}


class KubernetesStarter:
    """A pod, which SPIRE knows by its uid: it is made first, and its entry follows. The words: image, command."""

    def __init__(self, *, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def make(self, identity: LaunchedIdentity, words: Sequence[str], *, service_account: str) -> Command:
        """What makes the pod, and prints its uid."""
        if not words:
            message = "give the pod's image, and its command after that"
            raise CannotStartError(message)
        namespace, _, pod = identity.handle.partition("/")
        image, *rest = words
        spec = json.dumps({"spec": {"serviceAccountName": service_account}}, separators=(",", ":"))
        return Command(
            words=(
                *("kubectl", "run", pod, f"--namespace={namespace}", f"--image={image}", "--restart=Never"),
                *(f"--overrides={spec}", "--output=jsonpath={.metadata.uid}"),
                *(("--command", "--", *rest) if rest else ()),
            ),
            environment=self._environment,
        )

    def command(self, identity: LaunchedIdentity, words: Sequence[str]) -> Command:  # noqa: ARG002 - it runs already
        """See ports.launching: follows the pod until it ends."""
        namespace, _, pod = identity.handle.partition("/")
        follow = ("kubectl", "logs", f"--namespace={namespace}", "--follow", "--pod-running-timeout=5m", pod)
        return Command(words=follow, environment=self._environment)

    def end(self, identity: LaunchedIdentity) -> bool:
        """See ports.launching."""
        namespace, _, pod = identity.handle.partition("/")
        ours = (
            f"--namespace={namespace}",
            "--ignore-not-found",
            "--grace-period=0",
            "--force",
            "--wait=true",
        )
        return _output(("kubectl", "delete", "pod", pod, *ours)) is not None


def starter_of(kind: str, *, user: str = "", environment: Mapping[str, str] | None = None) -> InstanceStarter:
    """The strategy of a kind."""
    environment = environment or {}
    match kind:
        case "unix":
            return UnixStarter(user=user, environment=environment)
        case "docker":
            return DockerStarter(environment=environment)
        case "systemd":
            return SystemdStarter(user=user, environment=environment)
        case "kubernetes":
            return KubernetesStarter(environment=environment)
        case _:
            message = f"instances of kind {kind!r} cannot be launched"
            raise CannotStartError(message)


def _output(command: Sequence[str]) -> str | None:
    """What a command of the platform's prints; None when it cannot, in time."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_PATIENCE)  # noqa: S603 - words of ours
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
