"""Who is told of the steps in a credential's life."""

from __future__ import annotations

import os
import signal


class NoSteps:
    """Production: nobody listens."""

    def reached(self, step: str) -> None:
        """Do nothing."""


class KillAtStep:
    """Crash tests: the process kills itself with SIGKILL the `count`-th time a step is reached (rule R2)."""

    def __init__(self, step: str, *, count: int = 1) -> None:
        self._step = step
        self._left = count

    def reached(self, step: str) -> None:
        """Kill this process when it is the step and the time."""
        if step == self._step:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
