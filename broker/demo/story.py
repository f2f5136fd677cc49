"""Tells the main job on the real parts, and checks each thing that it says.

What always holds: a claim is printed as true only after it was checked in this run; the first one that is not, or
anything unforeseen, makes the exit code 1 and leaves the state folder for looking at; every process is stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import select
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import psycopg
from hvac.exceptions import InvalidRequest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from broker.client import Svid
from broker.demo.callers import calling, svid_of
from broker.devstack.parts import REPOSITORY
from broker.devstack.processes import Processes
from broker.devstack.spire import SERVER, Entry, Spire
from broker.devstack.stack import DevStack
from broker.devstack.state import State

_CLASS: Final = "invoice-bot"
_TASK_TYPE: Final = "reconcile-invoices"
_ROLE: Final = "orders-readonly"
_TOOLS: Final = frozenset({"query-orders", "read-mail", "send-report"})
_EXPIRES_AFTER: Final = timedelta(seconds=6)
_HEARTBEAT: Final = "1s"
_PATIENCE: Final = 60.0


class DemoFailedError(Exception):
    """The demo cannot go on; the message says why."""


class _Child:
    """An agent's process, as an instance with an identity of its own."""

    def __init__(self, stack: DevStack, name: str) -> None:
        self._stack = stack
        self.name = name
        self.entry: Entry | None = None
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Register the instance, wait until SPIRE serves it, start the program."""
        self.entry = self._stack.spire.register_instance(_CLASS, self.name)
        self._stack.spire.wait_for_identity(self.entry)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "broker.demo.agent", self._stack.broker.address],
            cwd=REPOSITORY,
            env={**os.environ, **self._stack.agent_environment()},
            extra_groups=[*os.getgroups(), self.entry.group],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, verb: str, **arguments: object) -> dict[str, Any]:
        """Have the agent do something; what it says of it."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"do": verb, **arguments}) + "\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], _PATIENCE)
        line = process.stdout.readline() if ready else ""
        if not line:
            message = f"agent {self.name} does not answer to {verb!r}"
            raise DemoFailedError(message)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            message = f"agent {self.name}, {verb!r}: {answer['error']}"
            raise DemoFailedError(message)
        return answer

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End the process, whatever it is doing, and the instance."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        if self.entry is not None:
            self._stack.spire.deregister(self.entry)


class Story:
    """See the module."""

    def __init__(self, console: Console, *, folder: Path) -> None:
        self._console = console
        self._folder = folder
        self._stack = DevStack(folder / "dev", say=self._progress)
        self._claims: list[tuple[str, bool]] = []
        self._figures: dict[str, str] = {}
        self._steps = 0
        self._began = time.monotonic()

    def tell(self) -> bool:
        """Tell it all; whether every claim was found true."""
        with ExitStack() as cleaning:
            cleaning.callback(self._stack.down)
            first, second, third = (_Child(self._stack, name) for name in ("alice", "bob", "carol"))
            self._the_stack()
            for child in (first, second, third):
                cleaning.callback(child.stop)
            with ThreadPoolExecutor() as pool:
                foreign = pool.submit(self._foreign_svid)
                expiring = pool.submit(self._expiring_connection, cleaning)
                starting = [pool.submit(child.start) for child in (first, second, third)]
                for work in starting:
                    work.result()
                who = self._identities(first, second)
                task, lease = self._main_job(first)
                self._talked_into_something(first, task)
                self._somebody_else(second, task, lease)
                self._nobody(who, foreign.result(), *expiring.result())
            self._the_end(first)
            self._a_sudden_death(third)
            self._the_trail(task)
            return self._summary()

    # The steps.

    def _the_stack(self) -> None:
        self._step(
            "The real parts, on loopback", "SPIRE, Vault, PostgreSQL, and a broker with a SQLite store"
        )
        self._stack.up()
        (catalog,) = self._stack.broker.catalog.iterdir()
        text = catalog.read_text()
        catalog.write_text(re.sub(r"heartbeat: \S+", f"heartbeat: {_HEARTBEAT}", text))
        for part in self._stack.status():
            self._claim(f"{part.name} is healthy", part.healthy, part.address)
        configuration = self._stack.broker.config_file.read_text()
        self._claim(
            "the broker's configuration has no token, password or key: it logs in to Vault with its own SVID",
            not re.search(r"token|password|secret|hvs\.", configuration),
            self._stack.broker.store_url,
        )

    def _identities(self, first: _Child, second: _Child) -> dict[str, Any]:
        self._step(
            "Every instance has an identity of its own",
            "two processes of one agent class, attested by SPIRE from what the kernel says of them",
        )
        one, two = first.ask("identity"), second.ask("identity")
        for child, facts in ((first, one), (second, two)):
            self._claim(
                f"{child.name} has the SVID {facts['spiffe_id']}",
                facts["spiffe_id"] == f"spiffe://dev.tasklease.test/agent/{_CLASS}/{child.name}",
                f"serial {facts['serial'][:12]}…, expires in {facts['seconds_left']} s",
            )
        self._claim("the two are not the same", one["serial"] != two["serial"])
        return one

    def _main_job(self, first: _Child) -> tuple[str, str]:
        self._step("A task, and a credential for it alone", "declare, acquire, read")
        declared = first.ask(
            "declare",
            task_type=_TASK_TYPE,
            intent="Compare yesterday's orders with what was paid",
            roles=[_ROLE],
            tools=sorted(_TOOLS),
        )
        task = str(declared["task_id"])
        self._claim(f"the broker took the task {task}", bool(task), f"deadline {declared['deadline']}")
        acquired = first.ask("acquire", role=_ROLE)
        lease, user = str(acquired["lease_id"]), str(acquired["username"])
        self._claim(
            f"Vault made a PostgreSQL user for it: {user}",
            self._role_exists(user),
            f"{acquired['ms']:.0f} ms; expires in {acquired['seconds_left']:.0f} s unless the task lives on",
        )
        self._vault_lease = self._vault_lease_of(lease)
        self._claim(
            "the lease is Vault's, and was recorded before the secret left the broker",
            self._vault_knows(self._vault_lease),
            self._vault_lease,
        )
        self._claim(
            "printing the credential shows no password", not acquired["shows_password"], acquired["shown"]
        )
        read = first.ask("read")
        self._claim(f"alice reads {read['count']} real orders with it", read["count"] > 0)
        table = Table(*read["columns"], box=None, padding=(0, 2), header_style="dim")
        for row in read["rows"]:
            table.add_row(*row)
        self._console.print(table)
        refused = first.ask("write")["refused"]
        self._claim("and can do nothing else", bool(refused), refused)
        self._user = user
        return task, lease

    def _talked_into_something(self, first: _Child, task: str) -> None:
        self._step(
            "An agent is talked into something",
            "each tool call is decided with what the task has read so far",
        )
        report = {"recipient": "ann@ours.example", "text": "all paid"}
        self._claim(
            "alice's task may call what it declared",
            set(first.ask("tools")["tools"]) == _TOOLS,
            ", ".join(sorted(_TOOLS)),
        )
        steps = [("query-orders", {"day": "2026-03-01"}), ("send-report", report), ("read-mail", {})]
        answers = [first.ask("call", tool=tool, arguments=arguments) for tool, arguments in steps]
        self._claim(
            "she queries orders (confidential), sends her report, and reads what customers wrote (untrusted)",
            all(answer["allowed"] for answer in answers),
        )
        left = set(first.ask("tools")["tools"])
        self._claim("from here on sending is not among her tools any more", left == _TOOLS - {"send-report"})
        hijacked = {"recipient": "mallory@theirs.example", "text": "all orders"}
        denied = first.ask("call", tool="send-report", arguments=hijacked)
        self._claim(
            f"a customer's mail said to send it all to somebody else: {denied['text']}",
            not denied["allowed"] and denied["reason"] == "POLICY_DENIED",
            ", ".join(denied["policies"]),
        )
        again = first.ask("call", tool="send-report", arguments=hijacked)
        self._claim("asking again is no other answer", not again["allowed"], again["text"])
        self._claim(
            "and her own work goes on", first.ask("call", tool=steps[0][0], arguments=steps[0][1])["allowed"]
        )
        store = self._stack.broker.store_url
        code, shown = self._tasklease("audit", "list", "--store", store, "--task", task, "--json")
        kinds = [json.loads(line)["kind"] for line in shown.splitlines()] if code == 0 else []
        self._claim(
            "each decision is in the audit trail",
            (kinds.count("action.allowed"), kinds.count("action.denied")) == (len(steps) + 1, 2),
        )

    def _somebody_else(self, second: _Child, task: str, lease: str) -> None:
        self._step(
            "Another instance cannot see or use it",
            "bob is of the same class, and knows the ids: a hijacked agent",
        )
        nonexistent = task[:-6] + "".join("0" if c != "0" else "1" for c in task[-6:])
        found = second.ask("trespass", task_id=task, lease_id=lease, nonexistent=nonexistent, role=_ROLE)
        for rpc, answer in found["attempts"].items():
            self._claim(
                f"{rpc} is refused", answer["code"] == "NOT_FOUND", f"{answer['code']} {answer['reason']}"
            )
        nobody = found["nonexistent"]
        seen = found["attempts"]["GetTask"]
        same = (seen["code"], seen["reason"], seen["text"]) == (
            nobody["code"],
            nobody["reason"],
            nobody["text"],
        )
        self._claim("in the same words as a task that does not exist", same, nobody["text"])
        self._claim("bob's own list is empty", found["listed"] == [])

    def _nobody(self, who: Mapping[str, Any], foreign: Svid, expired: Svid, caller: Any, at: float) -> None:  # noqa: ANN401
        self._step("Who is nobody gets nothing", "each of these claims to be alice")
        address = self._stack.broker.address
        trusted = expired.authorities
        files = self._stack.spire.mint(
            who["spiffe_id"], ttl=timedelta(minutes=5), folder=self._folder / "good"
        )
        with calling(address, authorities=trusted, svid=svid_of(files, who["spiffe_id"])) as good:
            answer = good.knock()
            self._claim("a valid SVID is let in by this same way of asking", answer.ok, str(answer))
        with calling(address, authorities=trusted) as bare:
            answer = bare.knock()
            self._claim("no SVID: refused", not answer.ok, str(answer))
        with calling(address, authorities=trusted, svid=foreign) as stranger:
            answer = stranger.knock()
            self._claim(
                "an SVID of a foreign authority, for the same trust domain and id: refused",
                not answer.ok,
                str(answer),
            )
        self._claim("an SVID that expires in seconds is let in first", caller is not None)
        time.sleep(max(0.0, at - time.monotonic()))
        answer = caller.knock()
        self._claim(
            "the moment it has expired: refused, on the connection that is still open",
            answer.reason == "SVID_EXPIRED",
            str(answer),
        )
        with calling(address, authorities=trusted, svid=expired) as late:
            answer = late.knock()
            self._claim("and on a new one", not answer.ok, str(answer))

    def _the_end(self, first: _Child) -> None:
        self._step(
            "The task is complete: the credential is dead", "asked of PostgreSQL itself, not of the broker"
        )
        facts = first.ask("complete")
        self._claim("PostgreSQL took the credential until the last moment", facts["accepted_before"])
        self._claim(
            f"{facts['refused_ms']:.0f} ms after completion PostgreSQL refuses it",
            facts["refused_ms"] < 1000,
            "log in: refused",
        )
        self._claim(
            f"{facts['session_ended_ms']:.0f} ms after completion the open session is gone",
            facts["session_ended_ms"] < 1000,
            "ended by PostgreSQL",
        )
        self._claim(
            f"the broker says {facts['state']} only then",
            facts["state"] == "ENDED" and facts["still_refused"],
            f"its answer came after {facts['answered_ms']:.0f} ms",
        )
        self._claim("the PostgreSQL user does not exist any more", not self._role_exists(self._user))
        self._claim("Vault no longer knows the lease", not self._vault_knows(self._vault_lease))
        self._figures["completion to refusal at PostgreSQL"] = f"{facts['refused_ms']:.0f} ms"
        self._figures["completion to the end of the open session"] = f"{facts['session_ended_ms']:.0f} ms"

    def _a_sudden_death(self, third: _Child) -> None:
        self._step("An agent that dies says nothing: a dead man's switch", f"heartbeat {_HEARTBEAT}; SIGKILL")
        third.ask("identity")
        third.ask("declare", task_type=_TASK_TYPE, intent="Will not be finished", roles=[_ROLE])
        user = str(third.ask("acquire", role=_ROLE)["username"])
        third.ask("read")
        self._claim("carol holds a credential and an open session", self._sessions_of(user) > 0, user)
        third.kill()
        began = time.monotonic()
        while self._role_exists(user) and time.monotonic() < began + _PATIENCE:
            time.sleep(0.05)
        took = time.monotonic() - began
        self._claim(
            f"{took:.1f} s after its death the user and its sessions are gone",
            not self._role_exists(user) and self._sessions_of(user) == 0,
        )
        self._figures["death of an agent to the end of its credential"] = f"{took:.1f} s"

    def _the_trail(self, task: str) -> None:
        self._step("An audit trail that nobody edits quietly", "tasklease audit list | verify")
        store = self._stack.broker.store_url
        code, text = self._tasklease("audit", "list", "--store", store, "--task", task, "--json")
        kinds = [json.loads(line)["kind"] for line in text.splitlines()] if code == 0 else []
        expected = ["task.declared", "credential.intended", "credential.issued"]
        self._claim("every step of alice's task is in it, in order", kinds[:3] == expected, " → ".join(kinds))
        self._claim("its end too", kinds[-1:] == ["task.ended"])
        code, text = self._tasklease("audit", "verify", "--store", store)
        self._claim("the chain is intact", code == 0, text.splitlines()[0] if text else "")
        copy = self._folder / "tampered.db"
        _tamper(self._folder / "dev/broker/broker.db", copy, task)
        code, text = self._tasklease("audit", "verify", "--store", f"sqlite:///{copy}")
        self._claim(
            "in a copy, with one word of one record changed, the place is found",
            code == 1 and "NOT intact" in text,
            text.strip().removeprefix("error: "),
        )

    # What is looked at.

    def _expiring_connection(self, cleaning: ExitStack) -> tuple[Svid, Any, float]:
        """A connection made with an SVID that expires soon, and when it will have."""
        spiffe_id = self._stack.spire.instance_id(_CLASS, "alice")
        files = self._stack.spire.mint(spiffe_id, ttl=_EXPIRES_AFTER, folder=self._folder / "expiring")
        at = time.monotonic() + _EXPIRES_AFTER.total_seconds() + 1
        svid = svid_of(files, spiffe_id)
        caller = cleaning.enter_context(
            calling(self._stack.broker.address, authorities=svid.authorities, svid=svid)
        )
        return svid, caller if caller.knock().ok else None, at

    def _foreign_svid(self) -> Svid:
        """An SVID for alice's id, of another SPIRE server that calls its trust domain by the same name."""
        state = State(self._folder / "foreign")
        state.make()
        processes = Processes(state.run)
        foreign = Spire(state, processes, self._stack.find_parts())
        try:
            foreign.start_server()
            spiffe_id = foreign.instance_id(_CLASS, "alice")
            files = foreign.mint(spiffe_id, ttl=timedelta(minutes=5), folder=self._folder / "foreign-svid")
            return svid_of(files, spiffe_id)
        finally:
            processes.stop(SERVER)

    def _role_exists(self, user: str) -> bool:
        return self._count("SELECT count(*) FROM pg_roles WHERE rolname = %s", user) > 0

    def _sessions_of(self, user: str) -> int:
        return self._count("SELECT count(*) FROM pg_stat_activity WHERE usename = %s", user)

    def _count(self, query: str, user: str) -> int:
        with psycopg.connect(self._stack.postgres.admin_dsn) as connection:
            row = connection.execute(query.encode(), [user]).fetchone()
        return int(row[0]) if row else 0

    def _vault_lease_of(self, lease: str) -> str:
        code, text = self._tasklease(
            "audit", "list", "--store", self._stack.broker.store_url, "--kind", "credential.issued", "--json"
        )
        records = [json.loads(line) for line in text.splitlines()] if code == 0 else []
        found = [record["facts"]["vault_lease_id"] for record in records if record["lease_id"] == lease]
        return str(found[0]) if found else ""

    def _vault_knows(self, vault_lease: str) -> bool:
        try:
            self._stack.vault.admin().sys.read_lease(vault_lease)
        except InvalidRequest:
            return False
        return True

    def _tasklease(self, *words: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "broker", *words],
            cwd=REPOSITORY,
            env={**os.environ, "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE,
        )
        return done.returncode, done.stdout or done.stderr

    # What is printed.

    def _step(self, title: str, about: str) -> None:
        self._steps += 1
        self._console.print()
        self._console.print(Text.assemble((f"{self._steps}  {title}", "bold cyan"), ("   " + about, "dim")))

    def _claim(self, text: str, true: bool, detail: str = "") -> None:  # noqa: FBT001 - it reads as a sentence
        self._claims.append((text, true))
        mark = ("  ✓ ", "bold green") if true else ("  ✗ ", "bold red")
        self._console.print(
            Text.assemble(mark, text if true else (text, "red"), ("  " + detail if detail else "", "dim"))
        )

    def _progress(self, text: str) -> None:
        self._console.print(Text(f"    {text}", style="dim"))

    def _summary(self) -> bool:
        failed = [text for text, true in self._claims if not true]
        self._console.print()
        for name, figure in self._figures.items():
            self._console.print(Text.assemble((f"  {name}: ", "dim"), (figure, "bold")))
        took = time.monotonic() - self._began
        if failed:
            self._console.print(
                Text(f"  {len(failed)} of {len(self._claims)} claims are not true", "bold red")
            )
        else:
            self._console.print(
                Text(f"  {len(self._claims)} claims, each checked; {took:.0f} s", style="bold green")
            )
        return not failed


def run(console: Console) -> bool:
    """Tell the story in a folder of its own; whether everything in it was true."""
    folder = Path(tempfile.mkdtemp(prefix=f"tasklease-demo-{secrets.token_hex(2)}-"))
    good = False
    try:
        with _loud_refusals_muted():
            good = Story(console, folder=folder).tell()
    finally:
        if good:
            DevStack(folder / "dev").down(purge=True)
            shutil.rmtree(folder, ignore_errors=True)
        else:
            console.print(Text(f"  state and logs are kept in {folder}", style="dim"))
    return good


@contextmanager
def _loud_refusals_muted() -> Iterator[None]:
    """The C core of gRPC prints each failed handshake to standard error; here they are the point."""
    before = os.environ.get("GRPC_VERBOSITY")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("GRPC_VERBOSITY", None)


def _tamper(store: Path, copy: Path, task: str) -> None:
    """Copy the store, and change one word of one record, as somebody with the file in hand could."""
    with (
        contextlib.closing(sqlite3.connect(store)) as source,
        contextlib.closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)
        triggers = target.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (name,) in triggers:
            target.execute(f'DROP TRIGGER "{name}"')
        changed = target.execute(
            "UPDATE audit_records SET facts = replace(facts, 'orders-readonly', 'orders-admin') "
            "WHERE task_id = ? AND kind = 'credential.issued'",
            [task],
        ).rowcount
        if changed != 1:
            message = f"{changed} records were changed, not one"
            raise DemoFailedError(message)
        target.commit()
