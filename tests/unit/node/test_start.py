"""How the launcher starts the command: what it is sent while it is not yet the command is not lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from broker.cli import launch_instance

PROGRAM = """
import os, signal, sys
from broker.cli import launch_instance
from broker.ports.launching import Command

number = int(sys.argv[1])
signal.signal(number, lambda *_: None)  # as the launcher has one, that passes on what comes
os.setgroups = lambda _groups: os.kill(os.getpid(), number)  # in the child, which has its group from here on
command = Command(words=("/bin/sleep", "60"), groups=(1,), environment={})
print(os.waitstatus_to_exitcode(os.waitpid(launch_instance._start(command, [number]), 0)[1]))
print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_before_the_command_is_executed_reaches_it(number: signal.Signals) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(int(number))],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout.splitlines() == [str(-number), "[]"], done.stderr


def test_what_comes_after_its_end_reaches_nobody() -> None:
    with subprocess.Popen(["/bin/true"]) as process:
        descriptor = os.pidfd_open(process.pid)
        process.wait()
    try:
        launch_instance._send(descriptor, signal.SIGTERM)  # the pid may be somebody else's by now
    finally:
        os.close(descriptor)
