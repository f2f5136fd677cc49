"""Finds the binaries of SPIRE, Vault and PostgreSQL, or gets them.

Order, for each part: its environment variable; the PATH; the project's cache; a Docker image of the same name as in
docker-compose.yml, when a daemon answers and has it or can pull it; a pinned build from source. PostgreSQL comes
from Debian's packages when it is missing and this is root.

What always holds: two processes never build at once; a half-made binary is never found; a version that does not fit
is never used; what could not be had is said with what to do about it.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

Say = Callable[[str], None]
"""Receives one line of progress at a time."""

REPOSITORY: Final = Path(__file__).resolve().parents[2]


class PartMissingError(Exception):
    """A part can neither be found nor got; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One product: its binaries, where they can come from, and which versions fit."""

    name: str
    binaries: tuple[str, ...]
    version: str
    minimum: tuple[int, int]
    image: str
    image_folder: str
    build_script: str


SPIRE: Final = Part(
    name="spire",
    binaries=("spire-server", "spire-agent", "oidc-discovery-provider"),
    version="1.13.3",
    minimum=(1, 12),
    image="ghcr.io/spiffe/{binary}:{version}",
    image_folder="/opt/spire/bin",
    build_script="spire/build.sh",
)
VAULT: Final = Part(
    name="vault",
    binaries=("vault",),
    version="1.21.0",
    minimum=(1, 15),
    image="hashicorp/vault:{version}",
    image_folder="/bin",
    build_script="vault/build.sh",
)
POSTGRES: Final = ("initdb", "pg_ctl", "postgres", "psql")
_POSTGRES_MINIMUM: Final = 13


def cache_folder() -> Path:
    """Where downloads and builds are kept, outside any work tree."""
    if explicit := os.environ.get("TASKLEASE_CACHE"):
        return Path(explicit)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tasklease"


def find(part: Part, say: Say) -> dict[str, Path]:
    """Return the path of each of the part's binaries, getting them first where they are missing.

    Raises:
        PartMissingError: they cannot be had.
    """
    if found := _all(part, _from_environment):
        if wrong := _misfit(part, found):
            raise PartMissingError(wrong)
        return found
    if found := _all(part, _from_path):
        if not (wrong := _misfit(part, found)):
            return found
        say(f"{part.name}: what is on the PATH is not used: {wrong}")
    folder = cache_folder() / "bin" / f"{part.name}-{part.version}"
    with _locked(folder):
        if cached := _in_folder(part, folder):
            return cached
        if _from_image(part, folder, say) and (cached := _in_folder(part, folder)):
            return cached
        _build(part, folder, say)
        if cached := _in_folder(part, folder):
            return cached
    message = f"{part.name}: the build ended without {', '.join(part.binaries)} in {folder}"
    raise PartMissingError(message)


def find_postgres(say: Say) -> dict[str, Path]:
    """Return the paths of initdb, pg_ctl, postgres and psql, installing Debian's package where that is possible.

    Raises:
        PartMissingError: they cannot be had.
    """
    found = _postgres_folder()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        say("postgresql: installing Debian's package")
        _run(["apt-get", "update", "-qq"], "postgresql")
        _run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "postgresql"], "postgresql")
        found = _postgres_folder()
    if found is None:
        message = (
            "PostgreSQL's server is missing: install it (Debian: apt-get install postgresql), or name its bin "
            "folder in TASKLEASE_POSTGRES_BIN"
        )
        raise PartMissingError(message)
    return {name: found / name for name in POSTGRES}


def _all(part: Part, look: Callable[[str], Path | None]) -> dict[str, Path] | None:
    found = {name: path for name in part.binaries if (path := look(name)) is not None}
    return found if len(found) == len(part.binaries) else None


def _from_environment(binary: str) -> Path | None:
    name = "TASKLEASE_" + binary.upper().replace("-", "_") + "_BIN"
    value = os.environ.get(name)
    if not value:
        return None
    path = Path(value)
    if not os.access(path, os.X_OK):
        message = f"{name} names {path}, which cannot be executed"
        raise PartMissingError(message)
    return path


def _from_path(binary: str) -> Path | None:
    found = shutil.which(binary)
    return Path(found) if found else None


def _in_folder(part: Part, folder: Path) -> dict[str, Path] | None:
    return _all(part, lambda name: folder / name if os.access(folder / name, os.X_OK) else None)


def _misfit(part: Part, found: dict[str, Path]) -> str:
    """Why these binaries cannot be used; nothing when they can."""
    wanted = ".".join(map(str, part.minimum))
    for binary in found.values():
        said = _says(binary, ["version"] if part is VAULT else ["--version"])
        # Only the product's own answer: another program of that name must not pass by a number that it prints.
        seen = re.search(r"(?:^|Vault v|OpenBao v)(\d+)\.(\d+)\.\d+", said)
        if seen is None:
            return f"{binary} does not say a version of {part.name}"
        if (int(seen[1]), int(seen[2])) < part.minimum:
            return f"{binary} is version {seen[1]}.{seen[2]}; {part.name} {wanted} or newer is needed"
    return ""


def _says(binary: Path, arguments: list[str]) -> str:
    try:
        result = subprocess.run([binary, *arguments], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (result.stdout + result.stderr).strip()


def _from_image(part: Part, folder: Path, say: Say) -> bool:
    if not shutil.which("docker") or _docker("info", "--format", "{{.ID}}") is None:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    for binary in part.binaries:
        image = part.image.format(binary=binary, version=part.version)
        if _docker("image", "inspect", image) is None:
            say(f"{part.name}: pulling {image}")
            if _docker("pull", "--quiet", image, timeout=120) is None:
                return False
        container = _docker("create", image)
        if container is None:
            return False
        try:
            new = folder / f".{binary}.new"
            if _docker("cp", f"{container}:{part.image_folder}/{binary}", str(new)) is None:
                return False
            new.chmod(0o755)
            # An image's binary may need libraries that this machine does not have, or another processor.
            if wrong := _misfit(part, {binary: new}):
                say(f"{part.name}: {image} is not used: {wrong}")
                new.unlink()
                return False
            new.rename(folder / binary)
        finally:
            _docker("rm", container)
    say(f"{part.name}: taken from its image")
    return True


def _docker(*arguments: str, timeout: float = 30) -> str | None:
    try:
        result = subprocess.run(
            ["docker", *arguments], capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _build(part: Part, folder: Path, say: Say) -> None:
    script = REPOSITORY / part.build_script
    if not script.exists():
        message = (
            f"{part.name} {part.version} is not on the PATH, and its build script comes only with a checkout of the "
            f"repository: install {', '.join(part.binaries)}"
        )
        raise PartMissingError(message)
    say(f"{part.name}: building {part.version} from source, once; it is kept in {folder}")
    last: list[str] = []
    with (
        _Ticker(part.name, say) as ticker,
        subprocess.Popen(
            [script, folder], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        for line in process.stdout or ():
            text = line.rstrip()
            last = [*last[-20:], text]
            ticker.heard(text)
    if process.returncode != 0:
        message = f"{part.name}: {part.build_script} failed ({process.returncode}):\n" + "\n".join(last)
        raise PartMissingError(message)


class _Ticker:
    """Says every few seconds how far a build is, also while the compiler is silent."""

    _EVERY: Final = 10.0

    def __init__(self, name: str, say: Say) -> None:
        self._name = name
        self._say = say
        self._began = time.monotonic()
        self._total = ""
        self._downloads = 0
        self._compiled = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def heard(self, line: str) -> None:
        """Take one line of the build's output."""
        if line.startswith("go: "):
            self._downloads += 1
        elif line.startswith("packages: "):
            self._total = line.removeprefix("packages: ").strip()
        elif re.fullmatch(r"[\w.~-]+(/[\w.~-]+)*", line):
            self._compiled += 1
        else:
            self._say(f"{self._name}: {line}")

    def _run(self) -> None:
        while not self._done.wait(self._EVERY):
            minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
            if self._compiled:
                what = f"compiled {self._compiled} of {self._total or 'many'} packages"
            elif self._total:
                what = f"compiling {self._total} packages, most of them known already"
            else:
                what = f"fetched {self._downloads} modules"
            self._say(f"{self._name}: {what} ({minutes}:{seconds:02})")


def _postgres_folder() -> Path | None:
    folders = [Path(os.environ["TASKLEASE_POSTGRES_BIN"])] if "TASKLEASE_POSTGRES_BIN" in os.environ else []
    if on_path := shutil.which("pg_ctl"):
        folders.append(Path(on_path).resolve().parent)
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -_number(path.parent.name))
    for folder in folders:
        if all(os.access(folder / name, os.X_OK) for name in POSTGRES):
            version = subprocess.run(
                [folder / "postgres", "--version"], capture_output=True, text=True, timeout=30, check=False
            ).stdout
            if (seen := re.search(r"(\d+)", version)) and int(seen[1]) >= _POSTGRES_MINIMUM:
                return folder
    return None


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _run(command: list[str], part: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if result.returncode != 0:
        message = f"{part}: {' '.join(command)} failed:\n{result.stderr[-2000:]}"
        raise PartMissingError(message)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(folder.name + ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
