"""PostgreSQL, with the sample database, on loopback.

What always holds: two servers never work on one data folder; a half-made data folder is made anew; the sample
database is there as a whole or not at all.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from broker.devstack.parts import REPOSITORY
from broker.devstack.processes import Processes
from broker.devstack.state import State
from broker.devstack.waiting import NotHealthyError, wait_for

NAME: Final = "postgres"
DATABASE: Final = "orders"
STORE: Final = "tasklease"
"""The database of brokers that share their state, and the role that owns it."""
_SUPERUSER: Final = "postgres"

_FILLED_WITHIN: Final = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedStore:
    """A database for the state of several brokers."""

    url: str
    password_file: Path


class Postgres:
    """One PostgreSQL server of a stack."""

    def __init__(self, state: State, processes: Processes, binaries: Mapping[str, Path]) -> None:
        self._state = state
        self._processes = processes
        self._binaries = binaries
        self._user = "postgres" if os.geteuid() == 0 else None

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1."""
        return self._state.port(NAME, in_use=self._processes.running(NAME) is not None)

    @property
    def data(self) -> Path:
        """Its data folder."""
        return self._state.folder_for_others("postgres")

    @property
    def admin_dsn(self) -> str:
        """The superuser's DSN for the sample database. For tests and the stack; the broker never sees it."""
        return self.dsn(_SUPERUSER, self._state.secret("postgres-superuser"))

    def dsn(self, user: str, password: str, database: str = DATABASE) -> str:
        """A DSN for `user`."""
        return f"host=127.0.0.1 port={self.port} dbname={database} user={user} password={password}"

    def start(self) -> None:
        """Initialise where that was not done, start, and wait until it accepts connections."""
        self._processes.find_lost([NAME])
        if self._processes.running(NAME) is None:
            self._end_leftovers()
            self._initialise()
        port = self.port
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": "",
            "max_connections": "300",
            "password_encryption": "scram-sha-256",
        }
        self._processes.start(
            NAME,
            [
                self._binaries["postgres"],
                "-D",
                self.data,
                *(word for name, value in options.items() for word in ("-c", f"{name}={value}")),
            ],
            environment={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
            user=self._user,
        )
        wait_for(NAME, self.healthy, self._processes)
        self._fill()

    def healthy(self) -> bool:
        """Whether it accepts connections and answers."""
        result = self._psql("SELECT 1", database="postgres")
        return result.returncode == 0

    def _initialise(self) -> None:
        data = self.data
        done = data / "tasklease-initialised"
        if done.exists():
            return
        if data.exists():
            shutil.rmtree(data)  # an initdb that was interrupted
        data.mkdir(parents=True, mode=0o700)
        password = data.parent / ".postgres-password"
        password.unlink(missing_ok=True)
        password.touch(mode=0o600)
        password.write_text(self._state.secret("postgres-superuser"))
        if self._user is not None:
            entry = pwd.getpwnam(self._user)
            os.chown(data, entry.pw_uid, entry.pw_gid)
            os.chown(password, entry.pw_uid, entry.pw_gid)
        command: list[str | Path] = [
            self._binaries["initdb"], "-D", data, "-U", _SUPERUSER, f"--pwfile={password}",
            "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-instructions",
        ]  # fmt: skip
        try:
            result = subprocess.run(
                command, user=self._user, cwd="/", check=False, capture_output=True, text=True
            )
        finally:
            password.unlink()
        if result.returncode != 0:
            message = f"initdb: {result.stderr.strip() or result.stdout.strip()}"
            raise NotHealthyError(message)
        done.touch()

    def _end_leftovers(self) -> None:
        """After a server or an `up` was killed: end its last processes, then take away its lock file.

        Ours are those that work in this data folder, or were started for it (initdb goes on when `up` is gone);
        nobody else's can be.
        """
        data = self.data
        if not data.exists():
            return
        end = time.monotonic() + 10
        how = signal.SIGTERM
        while left := _working_on(data):
            if time.monotonic() > end:
                how = signal.SIGKILL
            for pid in left:
                _end(pid, how)
            time.sleep(0.05)
        (data / "postmaster.pid").unlink(missing_ok=True)

    def _fill(self) -> None:
        """Make the sample database; again where that fails, for an `up` that was killed may still have a psql at work."""
        end = time.monotonic() + _FILLED_WITHIN
        while True:
            try:
                self._make_whole()
            except NotHealthyError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
            else:
                return

    def _make_whole(self) -> None:
        names = self._query("SELECT datname FROM pg_database", "postgres").splitlines()
        exists = DATABASE in names
        if exists and self._query("SELECT to_regclass('orders') IS NOT NULL", DATABASE) == "t":
            return
        if not exists:
            self._query(f"CREATE DATABASE {DATABASE}", "postgres")
        password = self._state.secret("postgres-vault")
        script = (REPOSITORY / "vault/database/orders.sql").read_text()
        # One transaction: all of it, or nothing.
        self._query(f"BEGIN;\n\\set vault_password {password}\n{script}\nCOMMIT;\n", DATABASE)

    def make_store(self) -> SharedStore:
        """Make the brokers' own database, unless it is there."""
        password = self._state.secret("postgres-store")
        if STORE not in self._query("SELECT rolname FROM pg_roles", "postgres").splitlines():
            self._query(
                f"\\set password {password}\nCREATE ROLE {STORE} LOGIN PASSWORD :'password';\n", "postgres"
            )
        if STORE not in self._query("SELECT datname FROM pg_database", "postgres").splitlines():
            self._query(f"CREATE DATABASE {STORE} OWNER {STORE}", "postgres")
        return self.store

    @property
    def store_dsn(self) -> str:
        """The superuser's DSN for the brokers' own database. For tests."""
        return self.dsn(_SUPERUSER, self._state.secret("postgres-superuser"), STORE)

    @property
    def store(self) -> SharedStore:
        """Where the brokers' own database is."""
        return SharedStore(
            url=f"postgresql://{STORE}@127.0.0.1:{self.port}/{STORE}",
            password_file=self._state.secrets / "postgres-store",
        )

    def _query(self, script: str, database: str) -> str:
        result = self._psql(script, database=database)
        if result.returncode != 0:
            message = f"{NAME}: {result.stderr.strip()}"
            raise NotHealthyError(message)
        return result.stdout.strip()

    def _psql(self, script: str, *, database: str) -> subprocess.CompletedProcess[str]:
        """Run a script as the superuser. It and the password go where no other user can read them."""
        return subprocess.run(
            [
                self._binaries["psql"], "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1",
                "-h", "127.0.0.1", "-p", str(self.port), "-U", _SUPERUSER, "-d", database, "-f", "-",
            ],
            input=script,
            env={
                "PATH": os.environ.get("PATH", ""),
                "PGPASSWORD": self._state.secret("postgres-superuser"),
                "PGCONNECT_TIMEOUT": "5",
            },
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip


def _working_on(folder: Path) -> list[int]:
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
                if (process / "cwd").readlink() == folder or os.fsencode(folder) in words:
                    found.append(int(process.name))
            except OSError:  # it ended meanwhile, or is not ours to look at
                continue
    return found


def _end(pid: int, how: signal.Signals) -> None:
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        return
