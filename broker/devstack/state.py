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
_LONGEST_SOCKET_PATH: Final = 100  # the kernel's limit is 107; SPIRE and gRPC add a little while they bind
# Below the range from which the kernel takes ports for outgoing connections, so that none of those is ever in the
# way, and above what usual services have.
_PORTS: Final = range(20_000, 32_000)
_ASIDE: Final = Path("/var/lib/tasklease/aside")


class StateError(Exception):
    """The state folder cannot be used; the message says why."""


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
        self._aside = _ASIDE / digest

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
        _make_folder(self.folder, 0o755)
        _make_folder(self.run, 0o755)
        _make_folder(self.secrets, 0o700)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One `up` or `down` at a time."""
        while True:
            _make_folder(self.folder, 0o755)
            with (self.folder / "lock").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not _is_still(lock.fileno(), self.folder / "lock"):
                    continue  # `down --purge` had it, and deleted it
                yield
                return

    def read(self) -> dict[str, Any]:
        """All that is remembered."""
        try:
            content = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    @contextmanager
    def changing(self) -> Iterator[dict[str, Any]]:
        """What is remembered, to be changed in the block: by one at a time, and whole or not at all."""
        with (self.folder / "state.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            content = self.read()
            before = json.dumps(content, indent=2, sort_keys=True)
            yield content
            after = json.dumps(content, indent=2, sort_keys=True)
            if after != before or not self._file.exists():
                new = self._file.with_suffix(".new")
                new.write_text(after)
                new.replace(self._file)

    def port(self, name: str, *, in_use: bool) -> int:
        """The port of that name: the remembered one unless somebody else has it now, else a free one."""
        remembered = self.read().get("ports", {}).get(name)
        if in_use and isinstance(remembered, int):
            return remembered
        with self.changing() as content:
            ports = content.setdefault("ports", {})
            port = ports.get(name)
            if not isinstance(port, int) or not is_free(port):
                port = ports[name] = _free_port(set(ports.values()))
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
        new = path.with_name(f"{name}.new")
        descriptor = os.open(new, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(value)
            file.flush()
            os.fsync(descriptor)
        new.replace(path)
        return path

    def socket(self, name: str) -> Path:
        """A path for a unix socket, short enough for the kernel and reachable by other users."""
        path = self.run / name
        if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH or self._is_private:
            _make_folder(self._aside, 0o755)
            path = self._aside / name
        return path

    def folder_for_others(self, name: str) -> Path:
        """A folder that another user can reach, even when the state folder is below somebody's private home."""
        if not self._is_private:
            return self.folder / name
        _make_folder(self._aside, 0o755)
        return self._aside / name

    def new_group(self) -> int:
        """The next group number for an instance; after the last one, the first again."""
        with self.changing() as content:
            group = int(content.get("next_group", FIRST_INSTANCE_GROUP))
            content["next_group"] = group + 1 if group < LAST_INSTANCE_GROUP else FIRST_INSTANCE_GROUP
        return group

    @property
    def _is_private(self) -> bool:
        folders = (self.folder, *self.folder.parents)
        return any(not folder.stat().st_mode & stat.S_IXOTH for folder in folders if folder.exists())

    @property
    def aside(self) -> Path:
        """What had to be put outside the state folder."""
        return self._aside

    @property
    def _file(self) -> Path:
        return self.folder / "state.json"


def is_free(port: int) -> bool:
    """Whether nobody listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_port(not_these: set[int]) -> int:
    for _attempt in range(1000):
        port = secrets.choice(_PORTS)
        if port not in not_these and is_free(port):
            return port
    message = f"there is no free port between {_PORTS.start} and {_PORTS.stop} on 127.0.0.1"
    raise StateError(message)


def _make_folder(folder: Path, mode: int) -> None:
    """Make a folder with exactly that mode, whatever the umask; one that is there stays as it is."""
    for missing in reversed([folder, *folder.parents]):
        try:
            missing.mkdir()
        except FileExistsError:
            continue
        missing.chmod(mode if missing == folder else 0o755)
    if not folder.is_dir():
        message = f"{folder} is not a folder"
        raise StateError(message)


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)
