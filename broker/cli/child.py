"""Runs one command as a child that signals reach and that does not outlive this process.

What always holds: a signal that comes before the command has started ends this process in order, instead of at once;
one that comes later is passed on, unless the terminal has sent it to the command as well; the command is killed by
the kernel when this process is (see `launch`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from broker.cli import launch

_PASSED_ON: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGTSTP,
    signal.SIGCONT,
)
_ENDING: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})
_BY_SIGNAL: Final = 128
_SENT_BY_A_PROCESS: Final = 0
"""`si_code` of kill(2) is 0 and of its kin below; of the kernel (a terminal's Ctrl-C) above."""


class Interrupted(Exception):  # noqa: N818 - an event rather than an error
    """A signal came that wants this process to end, before the command had started."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.exit_code = _BY_SIGNAL + number


class Signals:
    """Takes the signals of this process, on a thread that waits for them.

    So that who sent one can be told, which handlers are not: Ctrl-C reaches the command by itself. To be made before
    any other thread is.
    """

    def __init__(self) -> None:
        self.taken = frozenset(
            number for number in _PASSED_ON if signal.getsignal(number) is not signal.SIG_IGN
        )
        """All but those that were ignored when this process was started, as under nohup."""
        self._lock = threading.Lock()
        self._receive: Callable[[int, bool], None] | None = None
        self._early: list[tuple[int, bool]] = []
        signal.pthread_sigmask(signal.SIG_BLOCK, self.taken)
        threading.Thread(target=self._wait, name="signals", daemon=True).start()

    @contextlib.contextmanager
    def to(self, receive: Callable[[int, bool], None]) -> Iterator[None]:
        """While the block lasts, call `receive` on this event loop with each signal, and whether a process sent it.

        Those that nobody has received yet come first.
        """
        loop = asyncio.get_running_loop()

        def hand_over(number: int, sent: bool) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(receive, number, sent)

        with self._lock:
            before, self._receive = self._receive, hand_over
            early, self._early = self._early, []
        for number, sent in early:
            hand_over(number, sent)
        try:
            yield
        finally:
            with self._lock:
                self._receive = before

    def _wait(self) -> None:
        while True:
            info = signal.sigwaitinfo(self.taken)
            with self._lock:
                sent = info.si_code <= _SENT_BY_A_PROCESS
                if self._receive is None:
                    self._early.append((info.si_signo, sent))
                else:
                    self._receive(info.si_signo, sent)


async def run_child(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    signals: Signals,
    stop: asyncio.Event,
    on_stop: Callable[[], None],
    grace: timedelta,
) -> tuple[int, bool]:
    """Run the command to its end.

    When `stop` is set: `on_stop` is called, then the command gets SIGTERM, and SIGKILL after `grace`.

    Returns its exit code (128 + N where signal N ended it), and whether it was stopped.
    """
    process: asyncio.subprocess.Process | None = None
    early: list[tuple[int, bool]] = []

    def send(number: int) -> None:
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    def receive(number: int, sent: bool) -> None:
        if process is None:
            early.append((number, sent))
            return
        if sent:
            send(number)
        if number == signal.SIGTSTP:
            # Stopped, this process shows no sign of life: left so for long, the broker ends the task.
            os.kill(os.getpid(), signal.SIGSTOP)

    # Before the command is there: it may run, and say so, before this process hears that it has started.
    with signals.to(receive):
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-I", "-S", str(Path(launch.__file__))],
            *[str(os.getpid()), ",".join(str(int(number)) for number in signals.taken)],
            *command,
            env=environment,
        )
        for number, sent in early:
            # Whether the terminal's own reached the command is not known: two that end it do no harm.
            receive(number, sent or number in _ENDING)
        stopping = asyncio.ensure_future(stop.wait())
        over = asyncio.ensure_future(process.wait())
        stopped = False
        try:
            await asyncio.wait({stopping, over}, return_when=asyncio.FIRST_COMPLETED)
            if not over.done():
                stopped = True
                on_stop()
                send(signal.SIGTERM)
                send(signal.SIGCONT)  # it may be stopped
                await asyncio.wait({over}, timeout=grace.total_seconds())
                send(signal.SIGKILL)
            code = await over
        finally:
            stopping.cancel()
            if not over.done():
                send(signal.SIGKILL)
                await over
    return (code if code >= 0 else _BY_SIGNAL - code), stopped


class Interruptible:
    """A block that a signal interrupts, until `finish` is called: the asyncio task in it is cancelled.

    Raises:
        Interrupted: a signal did.
    """

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self._task = asyncio.current_task()
        self._by: int | None = None
        self._finished = False
        self._stack = contextlib.ExitStack()

    def finish(self) -> None:
        """From here on signals change nothing: what is under way is bounded in time."""
        self._finished = True

    def __enter__(self) -> Self:
        self._stack.enter_context(self._signals.to(self._receive))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        if self._by is not None and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise Interrupted(self._by) from None

    def _receive(self, number: int, _sent: bool) -> None:
        if number == signal.SIGTSTP:
            os.kill(os.getpid(), signal.SIGSTOP)
        elif number in _ENDING and self._task is not None and self._by is None and not self._finished:
            self._by = number
            self._task.cancel()
