"""A broker that stops at a step until it is told to go on: `python -m tests.threats.stepped_broker serve --config F`.

It is the broker itself, with other `Steps`. STEP_AT names the step, STEP_FOLDER where `reached` and `go` are written.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import uvloop

from broker import bootstrap
from broker.config.settings import load_settings
from broker.logs import set_up_logging


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
    settings = load_settings(Path(sys.argv[sys.argv.index("--config") + 1]))
    set_up_logging(style=settings.log.format, level=settings.log.level)
    steps = WaitAtStep(os.environ["STEP_AT"], Path(os.environ["STEP_FOLDER"]))
    uvloop.run(bootstrap.serve(settings, steps=steps))


if __name__ == "__main__":
    main()
