"""PostgreSQL, with the sample database, on loopback."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql

from broker.devstack.parts import REPOSITORY
from broker.devstack.processes import Processes
from broker.devstack.state import State
from broker.devstack.waiting import wait_for

NAME: Final = "postgres"
DATABASE: Final = "orders"
_SUPERUSER: Final = "postgres"


class Postgres:
    """One PostgreSQL server of a stack."""

    def __init__(self, state: State, processes: Processes, binaries: dict[str, Path]) -> None:
        self._state = state
        self._processes = processes
        self._binaries = binaries
        self._user = "postgres" if os.geteuid() == 0 else None

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1."""
        return self._state.port(NAME, in_use=self._processes.running(NAME) is not None)

    @property
    def admin_dsn(self) -> str:
        """The superuser's DSN for the sample database. For tests and the stack; the broker never sees it."""
        return self.dsn(_SUPERUSER, self._state.secret("postgres-superuser"))

    def dsn(self, user: str, password: str, database: str = DATABASE) -> str:
        """A DSN for `user`."""
        return f"host=127.0.0.1 port={self.port} dbname={database} user={user} password={password}"

    def start(self) -> None:
        """Initialise where that was not done, start, and wait until it accepts connections."""
        data = self._state.folder_for_others("postgres")
        if self._processes.running(NAME) is None:
            self._initialise(data)
            (data / "postmaster.pid").unlink(missing_ok=True)  # of a server that was killed
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
                data,
                *(word for name, value in options.items() for word in ("-c", f"{name}={value}")),
            ],
            user=self._user,
            cwd=Path("/"),
        )
        wait_for(NAME, self.healthy, self._processes)
        self._fill()

    def stop(self) -> None:
        """Fast shutdown: sessions are ended, data is kept."""
        import signal  # noqa: PLC0415 - only here

        self._processes.stop(NAME, how=signal.SIGINT)

    def _initialise(self, data: Path) -> None:
        done = data / "tasklease-initialised"
        if done.exists():
            return
        if data.exists():
            shutil.rmtree(data)  # an initdb that was interrupted
        data.mkdir(parents=True, mode=0o700)
        password = data.parent / ".postgres-password"
        password.touch(mode=0o600)
        password.write_text(self._state.secret("postgres-superuser"))
        if self._user is not None:
            entry = pwd.getpwnam(self._user)
            os.chown(data, entry.pw_uid, entry.pw_gid)
            os.chown(password, entry.pw_uid, entry.pw_gid)
        try:
            subprocess.run(
                [
                    self._binaries["initdb"],
                    "-D",
                    data,
                    "-U",
                    _SUPERUSER,
                    f"--pwfile={password}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    "--no-locale",
                    "--no-instructions",
                ],
                user=self._user,
                cwd="/",
                check=True,
                capture_output=True,
            )
        finally:
            password.unlink()
        done.touch()

    def healthy(self) -> bool:
        """Whether it accepts connections."""
        try:
            with psycopg.connect(
                self.dsn(_SUPERUSER, self._state.secret("postgres-superuser"), "postgres"), connect_timeout=2
            ):
                return True
        except psycopg.OperationalError:
            return False

    def _fill(self) -> None:
        """Make the sample database, unless it is there and whole."""
        superuser = self._state.secret("postgres-superuser")
        with psycopg.connect(self.dsn(_SUPERUSER, superuser, "postgres"), autocommit=True) as connection:
            if connection.execute(
                "SELECT 1 FROM pg_database WHERE datname = %s AND NOT datistemplate", [DATABASE]
            ).fetchone():
                with psycopg.connect(self.admin_dsn) as inside:
                    if inside.execute("SELECT to_regclass('orders') IS NOT NULL").fetchone() == (True,):
                        return
            else:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        script = (REPOSITORY / "vault/database/orders.sql").read_text()
        vault_password = sql.Literal(self._state.secret("postgres-vault")).as_string(None)
        with psycopg.connect(self.admin_dsn) as inside:  # one transaction: all of it, or nothing
            inside.execute(script.replace(":'vault_password'", vault_password).encode())
