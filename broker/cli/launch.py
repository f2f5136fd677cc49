"""The last step before the command of `tasklease exec`: run as a program of its own, it becomes the command.

In a process without threads, so that nothing between fork and exec can hang: makes the kernel kill the command when
`tasklease exec` is killed (SIGKILL too), undoes what Python and `exec` did to signals, and executes the command.

    python -I -S launch.py PARENT SIGNAL,SIGNAL,... COMMAND [ARGUMENT...]

Imports the standard library alone. The kernel forgets the first for commands that gain privileges (setuid).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_NOT_FOUND = 127
_NOT_EXECUTABLE = 126


def main() -> None:
    """Become the command."""
    parent, blocked, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):  # it died before the kernel knew
            os.kill(os.getpid(), signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGPIPE, getattr(signal, "SIGXFSZ", signal.SIGPIPE)):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {int(number) for number in blocked.split(",") if number})
    try:
        os.execvp(command[0], command)  # noqa: S606 - running a command is what this is for
    except OSError as error:
        print(f"error: {command[0]}: {error.strerror}", file=sys.stderr)
        os._exit(_NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE)


if __name__ == "__main__":
    main()
