"""A broker that stops at a step until it is told to go on: `python -m tests.threats.stepped_broker serve --config F`.

It is the broker itself, with other `Steps`. STEP_AT names the step, STEP_FOLDER where `reached` and `go` are written.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from broker import bootstrap
from broker.cli.serve import run


class WaitAtStep:
    """Implements ports.system.Steps: waits, once, with everything standing still."""

    def __init__(self, step: str, folder: Path) -> None:
        self._step = step
        self._folder = folder

    def reached(self, step: str) -> None:
        if step != self._step:
            return
        self._step = ""
        (self._folder / "reached").touch()
        while not (self._folder / "go").exists():
            time.sleep(0.01)


def main() -> None:
    steps = WaitAtStep(os.environ["STEP_AT"], Path(os.environ["STEP_FOLDER"]))
    run(
        Path(sys.argv[sys.argv.index("--config") + 1]),
        lambda settings: bootstrap.serve(settings, steps=steps),
    )


if __name__ == "__main__":
    main()
