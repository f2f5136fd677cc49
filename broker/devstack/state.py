"""What one stack remembers between commands: its folders, ports, secrets and the groups of its instances."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

TRUST_DOMAIN: Final = "dev.tasklease.test"
BROKER_ID: Final = f"spiffe://{TRUST_DOMAIN}/tasklease/broker"
NODE: Final = "dev-node"
NODE_ID: Final = f"spiffe://{TRUST_DOMAIN}/spire/agent/x509pop/{NODE}"
BROKER_GROUP: Final = 60990
FIRST_INSTANCE_GROUP: Final = 61000
LAST_INSTANCE_GROUP: Final = 64999
_LONGEST_SOCKET_PATH: Final = 100


def default_state_folder() -> Path:
    """Root: /var/lib/tasklease/dev; anybody else: below $XDG_STATE_HOME."""
    if os.geteuid() == 0:
        return Path("/var/lib/tasklease/dev")
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local/state") / "tasklease/dev"


class State:
    """The state folder and `state.json` in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        digest = hashlib.sha256(str(self.folder).encode()).hexdigest()[:10]
        self._aside = Path("/var/tmp") / f"tasklease-{digest}"  # noqa: S108 - made 0755 and owned by us

    @property
    def exists(self) -> bool:
        """Whether a stack was ever started here."""
        return self._file.exists()

    @property
    def run(self) -> Path:
        """Logs and process records."""
        return self.folder / "run"

    @property
    def secrets(self) -> Path:
        """Files that only the owner reads."""
        return self.folder / "secrets"

    def make(self) -> None:
        """Make the folders."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        self.run.mkdir(exist_ok=True)
        self.secrets.mkdir(exist_ok=True, mode=0o700)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One `up` or `down` at a time."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def read(self) -> dict[str, Any]:
        """All that is remembered."""
        try:
            content = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def remember(self, **values: Any) -> None:  # noqa: ANN401 - JSON
        """Merge `values` into what is remembered; whole or not at all."""
        content = {**self.read(), **values}
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(content, indent=2, sort_keys=True))
        new.replace(self._file)

    def port(self, name: str, *, in_use: bool) -> int:
        """The port of that name: the remembered one unless somebody else has it now, else a free one."""
        ports = self.read().get("ports", {})
        port = ports.get(name)
        if isinstance(port, int) and (in_use or _is_free(port)):
            return port
        port = _free_port(set(ports.values()))
        self.remember(ports={**ports, name: port})
        return port

    def secret(self, name: str) -> str:
        """A random secret of that name, the same each time, in a file of its own."""
        path = self.secrets / name
        if not path.exists():
            self.keep_secret(name, secrets.token_urlsafe(24))
        return path.read_text()

    def keep_secret(self, name: str, value: str) -> Path:
        """Write a secret to a file that only its owner reads."""
        path = self.secrets / name
        new = path.with_suffix(".new")
        descriptor = os.open(new, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(value)
        new.replace(path)
        return path

    def socket(self, name: str) -> Path:
        """A path for a unix socket, short enough for the kernel."""
        path = self.run / name
        if len(str(path)) > _LONGEST_SOCKET_PATH:
            self._aside.mkdir(exist_ok=True, mode=0o755)
            path = self._aside / name
        return path

    def folder_for_others(self, name: str) -> Path:
        """A folder that another user can reach, even when the state folder is below somebody's private home."""
        path = self.folder / name
        private = any(not parent.stat().st_mode & stat.S_IXOTH for parent in path.parents if parent.exists())
        if private:
            self._aside.mkdir(exist_ok=True, mode=0o755)
            path = self._aside / name
        return path

    def new_group(self) -> int:
        """A group number that no instance of this stack had before."""
        with (self.folder / "groups.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            group = int(self.read().get("next_group", FIRST_INSTANCE_GROUP))
            following = group + 1 if group < LAST_INSTANCE_GROUP else FIRST_INSTANCE_GROUP
            self.remember(next_group=following)
        return group

    @property
    def aside(self) -> Path:
        """What had to be put outside the state folder."""
        return self._aside

    @property
    def _file(self) -> Path:
        return self.folder / "state.json"


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_port(not_these: set[int]) -> int:
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port not in not_these:
            return port
