"""A broker that notes when each step is reached: `python -m bench.timed_broker serve --config F`, into STEPS_FILE.

It is the broker itself, with other `Steps`. The times are the machine's monotonic clock, the same in every process.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import IO

from broker import bootstrap
from broker.cli.serve import run


class NotedSteps:
    """Implements ports.system.Steps."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def reached(self, step: str) -> None:
        """Note the time."""
        self._file.write(f"{step} {time.perf_counter()}\n")


def main() -> None:
    """As `tasklease serve`."""
    with Path(os.environ["STEPS_FILE"]).open("w", buffering=1) as file:
        run(
            Path(sys.argv[sys.argv.index("--config") + 1]),
            lambda settings: bootstrap.serve(settings, steps=NotedSteps(file)),
        )


if __name__ == "__main__":
    main()
