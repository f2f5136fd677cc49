"""The node's ledger of launched identities, in one SQLite file.

What always holds: see ports.launching. Every change is one transaction with its precondition inside, durable before
the method returns; that numbers are not shared is a constraint of the table, not only of the code. The file is in a
folder that root alone reads: who can write it can say which process is which instance.

The standard library alone is imported: taking an identity is on the way of every start.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from broker.domain.launching import (
    TAKEN_BEFORE,
    Holder,
    IdentityState,
    LaunchClass,
    LaunchedIdentity,
    entry_id_of,
)
from broker.domain.workload import EntryId
from broker.ports.launching import NoRoomError

DEFAULT_FOLDER: Final = Path("/var/lib/tasklease/node")
_BUSY: Final = 30.0
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS classes (
  name TEXT PRIMARY KEY, at_most INTEGER NOT NULL, last_group INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS identities (
  name TEXT PRIMARY KEY,
  agent_class TEXT NOT NULL,
  spiffe_id TEXT NOT NULL UNIQUE,
  entry_id TEXT NOT NULL UNIQUE,
  kind TEXT NOT NULL,
  number INTEGER UNIQUE,
  state TEXT NOT NULL CHECK (state IN ('preparing', 'ready', 'used', 'retiring', 'cooling')),
  counts INTEGER NOT NULL,
  since REAL NOT NULL,
  svid_lifetime REAL NOT NULL,
  user TEXT NOT NULL,
  handle TEXT NOT NULL DEFAULT '',
  expires_at REAL,
  holder_pid INTEGER,
  holder_started TEXT,
  free_at REAL,
  recipe TEXT NOT NULL DEFAULT '',
  broker TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX IF NOT EXISTS by_class ON identities (agent_class, state);
"""


class LedgerError(Exception):
    """The ledger cannot be used; the message says why."""


class SqliteLedger:
    """See the module."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            found = folder.stat()
            if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
                message = f"{folder} must be its owner's alone (mode 0700), and yours: who writes it says who is who"
                raise LedgerError(message)
            self._db = sqlite3.connect(
                folder / "ledger.db", timeout=_BUSY, isolation_level=None, check_same_thread=False
            )
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            message = f"the ledger in {folder} cannot be used: {error}"
            raise LedgerError(message) from error

    def close(self) -> None:
        """Close the file. To be done before a fork: a connection must not be in two processes."""
        self._db.close()

    def reserve(  # noqa: PLR0913 - what is written down
        self,
        launch_class: LaunchClass,
        names: Sequence[str],
        *,
        holder: Holder,
        now: datetime,
        used: bool,
        broker: str = "",
    ) -> tuple[LaunchedIdentity, ...]:
        """See ports.launching."""
        made: list[LaunchedIdentity] = []
        with self._changing():
            self._db.execute(
                "INSERT INTO classes (name, at_most) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET at_most = excluded.at_most",
                (launch_class.name, launch_class.at_most),
            )
            for name in names:
                if used:
                    self._check_room(launch_class.name, launch_class.at_most)
                spiffe_id = launch_class.spiffe_id(name)
                kind = launch_class.kind
                try:
                    number = self._free_group(launch_class, now) if kind == "unix" else None
                except NoRoomError:
                    if made:
                        break
                    raise
                identity = LaunchedIdentity(
                    name=name,
                    agent_class=launch_class.name,
                    spiffe_id=str(spiffe_id),
                    entry_id=entry_id_of(launch_class.name, spiffe_id),
                    kind=kind,
                    group=number,
                    state=IdentityState.PREPARING,
                    since=now,
                    svid_lifetime=launch_class.longest_svid,
                    user=launch_class.user,
                    handle=launch_class.handle(name),
                    recipe=launch_class.recipe,
                    broker=broker,
                    holder=holder,
                )
                self._insert(identity, counts=used)
                made.append(identity)
        return tuple(made)

    def take(
        self, agent_class: str, *, holder: Holder, now: datetime, broker: str
    ) -> LaunchedIdentity | None:
        """See ports.launching."""
        with self._changing():
            row = self._db.execute(
                "SELECT * FROM identities WHERE agent_class = ? AND state = 'ready' AND expires_at > ?"
                " ORDER BY since LIMIT 1",
                (agent_class, (now + TAKEN_BEFORE).timestamp()),
            ).fetchone()
            if row is None:
                return None
            limit = self._db.execute("SELECT at_most FROM classes WHERE name = ?", (agent_class,)).fetchone()
            self._check_room(agent_class, limit["at_most"] if limit else 0)
            self._db.execute(
                "UPDATE identities SET state = 'used', counts = 1, since = ?, holder_pid = ?, holder_started = ?,"
                " broker = ? WHERE name = ?",
                (now.timestamp(), holder.pid, holder.started, broker, row["name"]),
            )
            return replace(_read(row), state=IdentityState.USED, since=now, holder=holder, broker=broker)

    def move(
        self, identity: LaunchedIdentity, to: IdentityState, *, now: datetime, **changed: object
    ) -> LaunchedIdentity | None:
        """See ports.launching."""
        moved = replace(identity, state=to, since=now, **changed)  # type: ignore[arg-type]  # fields of it
        with self._changing():
            done = self._db.execute(
                "UPDATE identities SET state = ?, since = ?, handle = ?, expires_at = ?, holder_pid = ?,"
                " holder_started = ?, free_at = ?, broker = ?, counts = (? IN ('preparing', 'used') AND counts)"
                " WHERE name = ? AND state = ?",
                (
                    to.value,
                    now.timestamp(),
                    moved.handle,
                    _stamp(moved.expires_at),
                    moved.holder.pid if moved.holder else None,
                    moved.holder.started if moved.holder else None,
                    _stamp(moved.free_at),
                    moved.broker,
                    to.value,
                    identity.name,
                    identity.state.value,
                ),
            )
        return moved if done.rowcount else None

    def renewed(self, identity: LaunchedIdentity, expires_at: datetime) -> None:
        """See ports.launching."""
        with self._changing():
            self._db.execute(
                "UPDATE identities SET expires_at = ? WHERE name = ?", (expires_at.timestamp(), identity.name)
            )

    def forget(self, identity: LaunchedIdentity) -> None:
        """See ports.launching."""
        with self._changing():
            self._db.execute("DELETE FROM identities WHERE name = ? AND state = 'cooling'", (identity.name,))

    def identities(
        self, *, states: Sequence[IdentityState] = (), agent_class: str = ""
    ) -> tuple[LaunchedIdentity, ...]:
        """See ports.launching."""
        wanted = [state.value for state in states or IdentityState]
        rows = self._db.execute(
            f"SELECT * FROM identities WHERE state IN ({', '.join('?' * len(wanted))})"  # noqa: S608 - question marks
            " AND (? = '' OR agent_class = ?) ORDER BY since, name",
            (*wanted, agent_class, agent_class),
        ).fetchall()
        return tuple(_read(row) for row in rows)

    def identity(self, name: str) -> LaunchedIdentity | None:
        """See ports.launching."""
        row = self._db.execute("SELECT * FROM identities WHERE name = ?", (name,)).fetchone()
        return _read(row) if row else None

    def setting(self, name: str) -> str:
        """What was remembered for whoever comes without it; empty when nothing was."""
        row = self._db.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
        return str(row["value"]) if row else ""

    def remember(self, name: str, value: str) -> None:
        """Remember a setting."""
        if self.setting(name) != value:
            with self._changing():
                self._db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, value))

    @contextmanager
    def _changing(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _check_room(self, agent_class: str, at_most: int) -> None:
        running = self._db.execute(
            "SELECT count(*) FROM identities WHERE agent_class = ? AND counts = 1", (agent_class,)
        ).fetchone()[0]
        if running >= at_most:
            message = (
                f"{running} instances of {agent_class} run, and {at_most} may be launched: end one, or raise "
                "max_instances in the catalog"
            )
            raise NoRoomError(message)

    def _free_group(self, launch_class: LaunchClass, now: datetime) -> int:
        first, last = launch_class.first_group, launch_class.last_group
        taken: set[int] = {
            row["number"]
            for row in self._db.execute(
                "SELECT number FROM identities WHERE number BETWEEN ? AND ?", (first, last)
            )
        }
        # The one that was free for the longest: after the last one that was given out, and around.
        row = self._db.execute(
            "SELECT last_group FROM classes WHERE name = ?", (launch_class.name,)
        ).fetchone()
        last_given: int = row["last_group"]
        after = last_given if first <= last_given < last else first - 1
        for number in (*range(after + 1, last + 1), *range(first, after + 1)):
            if number not in taken:
                self._db.execute(
                    "UPDATE classes SET last_group = ? WHERE name = ?", (number, launch_class.name)
                )
                return int(number)
        soonest = self._db.execute(
            "SELECT min(free_at) FROM identities WHERE number BETWEEN ? AND ? AND state = 'cooling'",
            (first, last),
        ).fetchone()[0]
        wait = f"; the next is free in {max(soonest - now.timestamp(), 0):.0f} s" if soonest else ""
        message = (
            f"every group {first}-{last} of {launch_class.name} is in use, or waits until the SVIDs that were issued for "
            f"it have expired{wait}: widen gids in the catalog, or shorten the class's SVID TTLs"
        )
        raise NoRoomError(message)

    def _insert(self, identity: LaunchedIdentity, *, counts: bool) -> None:
        holder = identity.holder
        self._db.execute(
            "INSERT INTO identities (name, agent_class, spiffe_id, entry_id, kind, number, state, counts, since,"
            " svid_lifetime, user, holder_pid, holder_started, handle, recipe, broker)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                identity.name,
                identity.agent_class,
                identity.spiffe_id,
                identity.entry_id,
                identity.kind,
                identity.group,
                identity.state.value,
                int(counts),
                identity.since.timestamp(),
                identity.svid_lifetime.total_seconds(),
                identity.user,
                holder.pid if holder else None,
                holder.started if holder else None,
                identity.handle,
                identity.recipe,
                identity.broker,
            ),
        )


def _read(row: Any) -> LaunchedIdentity:  # noqa: ANN401 - a row of sqlite3
    holder = None
    if row["holder_pid"] is not None:
        holder = Holder(pid=row["holder_pid"], started=row["holder_started"])
    return LaunchedIdentity(
        name=row["name"],
        agent_class=row["agent_class"],
        spiffe_id=row["spiffe_id"],
        entry_id=EntryId(row["entry_id"]),
        kind=row["kind"],
        group=row["number"],
        state=IdentityState(row["state"]),
        since=_time(row["since"]),
        svid_lifetime=timedelta(seconds=row["svid_lifetime"]),
        user=row["user"],
        handle=row["handle"],
        expires_at=_time(row["expires_at"]) if row["expires_at"] is not None else None,
        holder=holder,
        free_at=_time(row["free_at"]) if row["free_at"] is not None else None,
        recipe=row["recipe"],
        broker=row["broker"],
    )


def _time(stamp: float) -> datetime:
    return datetime.fromtimestamp(stamp, UTC)


def _stamp(time: datetime | None) -> float | None:
    return time.timestamp() if time else None
