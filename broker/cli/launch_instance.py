"""`tasklease launch`: run a command as a new agent instance, with an identity of its own for as long as it runs.

Three processes share the work, and each is expected to be killed at any moment:
- the launcher, this one: takes an identity, runs the command, ends the identity when the command has ended;
- the command: the kernel kills it when the launcher dies;
- the watcher, forked before anything is taken: does what the launcher would have done when that dies first.
When all of them are killed at once, the pool or the next launch on this node ends the identity (usecases.keep_node).

What always holds: this process is single-threaded, and loads neither gRPC nor the catalog: agents wait for it. What
needs them is done by the pool, over its socket, or by a process of its own (`broker.cli.node`).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Final

from broker.adapters.node.doorbell import Unanswered, ask_pool
from broker.adapters.node.ledger import DEFAULT_FOLDER, LedgerError, SqliteLedger
from broker.adapters.node.processes import ProcNode
from broker.adapters.node.starters import starter_of
from broker.domain.launching import USED_FOR, IdentityState, LaunchedIdentity
from broker.ports.launching import CannotStartError, Command, NoRoomError

_FORWARDED: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)
_FROM_TERMINAL: Final = frozenset({signal.SIGINT, signal.SIGQUIT})
_BY_SIGNAL: Final = 128
_NOT_FOUND: Final = 127
_NOT_EXECUTABLE: Final = 126
_PR_SET_PDEATHSIG: Final = 1
_SOCKET_VARIABLE: Final = "SPIFFE_ENDPOINT_SOCKET"
STATE_VARIABLE: Final = "TASKLEASE_NODE_STATE"
CONFIG_VARIABLE: Final = "TASKLEASE_CONFIG"
BROKER_VARIABLE: Final = "TASKLEASE_BROKER"


class _Failed(Exception):  # noqa: N818 - ends the command with a code
    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(text)
        self.code = code


def parser() -> argparse.ArgumentParser:
    """The words of the command."""
    made = argparse.ArgumentParser(
        prog="tasklease launch",
        description="Run COMMAND as a new instance of an agent class: with a SPIFFE ID of its own, for as long as it "
        "runs. For classes of kind docker, COMMAND is what follows `docker run`; for kubernetes, an image and its command.",
        epilog="Ends with the command's exit code, 128 + N where signal N ended it, 127 or 126 where it cannot be "
        "started, 4 where as many instances run as may.",
    )
    made.add_argument("agent_class", metavar="CLASS", help="agent class, as in the catalog")
    made.add_argument("command", metavar="COMMAND", nargs=argparse.REMAINDER, help="the command, after --")
    made.add_argument(
        "--config",
        "-c",
        type=Path,
        help=f"the broker's configuration; default: ${CONFIG_VARIABLE}, else the pool's",
    )
    made.add_argument(
        "--state", type=Path, help=f"the node's ledger; default: ${STATE_VARIABLE} or {DEFAULT_FOLDER}"
    )
    made.add_argument(
        "--user", default="", help="run it as this user; default: the class's, else a uid of its own"
    )
    made.add_argument(
        "--broker", help=f"HOST:PORT of the broker that is told of its end; default: ${BROKER_VARIABLE}"
    )
    made.add_argument("--quiet", "-q", action="store_true", help="do not say which instance it is")
    return made


def main(words: Sequence[str]) -> int:
    """Launch; returns the exit code."""
    arguments = parser().parse_args(words)
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        return _fail("give a command, after --", 2)
    state = arguments.state or Path(os.environ.get(STATE_VARIABLE, "") or DEFAULT_FOLDER)
    broker = arguments.broker if arguments.broker is not None else os.environ.get(BROKER_VARIABLE, "")
    try:
        launcher = _Launcher(state=state, config=arguments.config, broker=broker, user=arguments.user)
        return launcher.run(arguments.agent_class, command, quiet=arguments.quiet)
    except (_Failed, CannotStartError, LedgerError, NoRoomError) as error:
        code = error.code if isinstance(error, _Failed) else 4 if isinstance(error, NoRoomError) else 1
        return _fail(str(error), code)


class _Launcher:
    """One launch."""

    def __init__(self, *, state: Path, config: Path | None, broker: str, user: str) -> None:
        self._state = state
        self._broker = broker
        self._user = user
        self._myself = ProcNode().myself()
        ledger = SqliteLedger(state)
        try:
            remembered = ledger.setting("config")
            self._endpoint_socket = ledger.setting("endpoint_socket")
            self._parent = ledger.setting("parent")
        finally:
            ledger.close()
        named = config or os.environ.get(CONFIG_VARIABLE) or remembered
        if not named:
            message = f"which configuration? --config or {CONFIG_VARIABLE}: no pool has run on this node yet"
            raise _Failed(message, 2)
        self._config = Path(os.path.realpath(named))
        self._is_pools = str(self._config) == remembered

    def run(self, agent_class: str, words: Sequence[str], *, quiet: bool) -> int:
        """Run the command as a new instance, until it ends."""
        process = -1
        early: list[int] = []

        # Raises nothing: whatever it interrupts, above all the ending of the identity, goes on.
        def forward(number: int, _frame: FrameType | None) -> None:
            if process < 0:
                early.append(number)
            elif number not in _FROM_TERMINAL or not _terminal_is_ours():
                _send(process, number)  # else the terminal sent it to the command as well

        taken = [number for number in _FORWARDED if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, forward) for number in taken}
        self._fork_watcher()
        identity = self._identity(agent_class, words)
        try:
            if ending := [number for number in early if number != signal.SIGWINCH]:
                return _BY_SIGNAL + ending[0]
            command = self._command(identity, words)
            if not quiet:
                print(f"instance {identity.spiffe_id}", file=sys.stderr, flush=True)
            child = _start(command, before)
            process = os.pidfd_open(child)  # its pid is another's, once it has been waited for
            for number in early:  # between the last look and the assignment
                _send(process, number)
            return _exit_code(os.waitpid(child, 0)[1])
        finally:
            self._end(identity)

    def _identity(self, agent_class: str, words: Sequence[str]) -> LaunchedIdentity:
        ledger = SqliteLedger(self._state)
        try:
            if self._is_pools:
                taken = ledger.take(
                    agent_class, holder=self._myself, now=datetime.now(UTC), broker=self._broker
                )
                if taken is not None:
                    return taken
            name = self._make(agent_class, words)
            made = ledger.identity(name)
            self._endpoint_socket = ledger.setting("endpoint_socket")
        finally:
            ledger.close()
        if made is None or made.state is not IdentityState.USED:
            message = "the identity that was made is gone: is another pool at work here?"
            raise _Failed(message)
        return made

    def _make(self, agent_class: str, words: Sequence[str]) -> str:
        holder = f"{self._myself.pid}:{self._myself.started}"
        done = self._node(
            *("make", "--class", agent_class, "--holder", holder, "--broker", self._broker, "--", *words)
        )
        if done.returncode != 0:
            trouble = done.stderr.strip().removeprefix("error: ")
            raise _Failed(trouble or "no identity could be made", done.returncode)
        return done.stdout.strip()

    def _command(self, identity: LaunchedIdentity, words: Sequence[str]) -> Command:
        environment = {**os.environ}
        if self._endpoint_socket:
            environment.setdefault(_SOCKET_VARIABLE, self._endpoint_socket)
        if self._broker:
            environment[BROKER_VARIABLE] = self._broker
        command = starter_of(identity.kind, user=self._user, environment=environment).command(identity, words)
        if shutil.which(command.words[0], path=command.environment.get("PATH")) is None:
            message = f"there is no command {command.words[0]!r}"
            raise _Failed(message, _NOT_FOUND)
        return command

    def _end(self, identity: LaunchedIdentity) -> None:
        """End the identity: durable first, then by the pool, or by a process of its own."""
        ledger = SqliteLedger(self._state)
        try:
            ledger.move(identity, IdentityState.RETIRING, now=datetime.now(UTC))
        finally:
            ledger.close()
        try:
            if (trouble := ask_pool(self._state, "end", identity.name)) is None:
                return
        except Unanswered:
            done = self._node("end", identity.name)
            trouble = done.stderr.strip() if done.returncode or done.stderr else ""
        if trouble:
            print(trouble, file=sys.stderr)

    def _node(self, *words: str) -> subprocess.CompletedProcess[str]:
        ours = ("--config", str(self._config), "--state", str(self._state), "--parent", self._parent)
        return subprocess.run(  # noqa: S603 - words of ours
            [sys.executable, "-m", "broker.cli.node", *ours, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,  # a Ctrl-C at the terminal must not stop it halfway
        )

    def _fork_watcher(self) -> None:
        """Fork the process that goes on when this one is killed."""
        launcher = os.pidfd_open(os.getpid())
        if os.fork():
            os.close(launcher)
            return
        try:
            _detach()
            self._watch(launcher)
        except BaseException:  # noqa: BLE001 - a fork has nowhere to raise to
            os._exit(1)
        os._exit(0)

    def _watch(self, launcher: int) -> None:
        died = select.poll()
        died.register(launcher, select.POLLIN)
        while not died.poll(USED_FOR.total_seconds() * 500):  # half of what an entry lives, in milliseconds
            self._node("renew", "--holder", f"{self._myself.pid}:{self._myself.started}")
        ledger = SqliteLedger(self._state)
        try:
            left = [
                one
                for one in ledger.identities(
                    states=[IdentityState.PREPARING, IdentityState.USED, IdentityState.RETIRING]
                )
                if one.holder == self._myself
            ]
        finally:
            ledger.close()
        for identity in left:
            starter_of(identity.kind).end(identity)
            self._end(identity)


def _start(command: Command, handlers: Iterable[int]) -> int:
    """Fork and execute the command, as whom it says; returns its pid."""
    libc = ctypes.CDLL(None)  # before the fork
    launcher = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    # What the command is sent waits until it is the command's: this program's handler, as a copy, would swallow it.
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    child = os.fork()
    if child:
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        return child
    try:
        if command.groups is not None:
            os.setgroups(command.groups)
        if command.gid is not None:
            os.setresgid(command.gid, command.gid, command.gid)
        if command.uid is not None:
            os.setresuid(command.uid, command.uid, command.uid)
        # After the change of uid, which undoes it. The kernel kills it when the launcher dies, of SIGKILL too.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != launcher:  # it died before the kernel knew
            os._exit(_BY_SIGNAL + signal.SIGKILL)
        for number in (*handlers, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        os.execvpe(command.words[0], command.words, dict(command.environment))  # noqa: S606 - what this is for
    except OSError as error:
        os.write(2, f"error: {command.words[0]}: {error.strerror}\n".encode())
        os._exit(_NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE)
    except BaseException:  # noqa: BLE001 - a fork has nowhere to raise to
        os._exit(_NOT_EXECUTABLE)


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else _BY_SIGNAL - code


def _detach() -> None:
    """A session of its own, no terminal, nobody's files; signals that people send to the launcher pass it by."""
    os.setsid()
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH):
        signal.signal(number, signal.SIG_IGN)


def _send(process: int, number: int) -> None:
    """Send a signal to whom a descriptor is of, if it has not ended."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, number)


def _terminal_is_ours() -> bool:
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False


def _fail(text: str, code: int) -> int:
    print(f"error: {text}", file=sys.stderr)
    return code
