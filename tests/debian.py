"""Things from Debian that a test needs and the product does not: installed where that is possible, named where it is not."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest


def command(name: str, package: str) -> Path:
    """The path of a command, from its package if need be."""

    def find() -> Path | None:
        found = shutil.which(name)
        return Path(found) if found else None

    return _found(find, name, package)


def library(name: str, package: str) -> Path:
    """The path of a shared library, from its package if need be."""
    return _found(lambda: next(Path("/usr/lib").rglob(name), None), name, package)


def _found(find: Callable[[], Path | None], name: str, package: str) -> Path:
    if (found := find()) is not None:
        return found
    if os.geteuid() == 0 and shutil.which("apt-get"):
        for words in (
            ["apt-get", "update", "-qq"],
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package],
        ):
            subprocess.run(
                words,
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"},  # starts no service
                capture_output=True,
                check=False,
            )
    if (found := find()) is not None:
        return found
    pytest.fail(f"{name} is missing, and could not be installed: apt-get install {package}")
