"""How the command of `tasklease exec` is given its credentials: in its environment, or in files that only it can read.

What always holds: nothing of a secret is in an argument; files are made for this run, with mode 0600 in folders with
0700, never over what is there, and are gone when the block is left. (After SIGKILL they stay behind, with credentials
that the broker has revoked.)
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from broker.client import Credential, variable_name

VARIABLE: Final = "TASKLEASE_CREDENTIALS"
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a folder of our own below it, that nobody else may enter
_SAFE_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


class HandoverError(Exception):
    """The credentials cannot be handed over in the way that was asked for; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """The way that was asked for: at most one of these; none is the environment, with the usual names."""

    env_prefix: str = ""
    file: Path | None = None
    files: Path | None = None
    private_file: bool = False

    @contextlib.contextmanager
    def given(self, credentials: Sequence[Credential]) -> Iterator[dict[str, str]]:
        """Yield the variables that the command gets besides this process's own.

        Raises:
            HandoverError: not in this way.
        """
        if self.file is not None:
            with _written(self.file, _as_json(credentials)):
                yield {VARIABLE: str(self.file.absolute())}
        elif self.files is not None:
            with _written_apart(self.files, credentials):
                yield {VARIABLE: str(self.files.absolute())}
        elif self.private_file:
            memory = _MEMORY if _MEMORY.is_dir() else Path(tempfile.gettempdir())
            folder = memory / f"tasklease-{secrets.token_hex(8)}"
            path = folder / "credentials.json"
            with _folder(folder), _written(path, _as_json(credentials)):
                yield {VARIABLE: str(path)}
        else:
            yield self._variables(credentials)

    def _variables(self, credentials: Sequence[Credential]) -> dict[str, str]:
        several = len(credentials) > 1
        pairs: list[tuple[str, str]] = []
        for credential in credentials:
            prefix = self.env_prefix
            if prefix and several:
                prefix = variable_name(prefix.rstrip("_"), credential.role)
            pairs.extend(credential.as_env(prefix).items())
        twice = sorted(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        if twice:
            message = f"several credentials want {', '.join(twice)}: give --env-prefix, or --files"
            raise HandoverError(message)
        return dict(pairs)


def _as_json(credentials: Sequence[Credential]) -> str:
    return json.dumps(
        {
            credential.role: {
                "host": credential.host,
                "port": credential.port,
                "scheme": credential.scheme,
                **{name: value.reveal() for name, value in credential.items()},
            }
            for credential in credentials
        }
    )


@contextlib.contextmanager
def _written(path: Path, content: str) -> Iterator[None]:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        message = f"{path} cannot be made: {error.strerror}"
        raise HandoverError(message) from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
        yield
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[None]:
    try:
        path.mkdir(mode=0o700)
    except OSError as error:
        message = f"the folder {path} cannot be made: {error.strerror}"
        raise HandoverError(message) from None
    try:
        yield
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _written_apart(folder: Path, credentials: Sequence[Credential]) -> Iterator[None]:
    """FOLDER/<role>/<field>, as many programs want secrets."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_folder(folder))
        for credential in credentials:
            below = folder / credential.role
            stack.enter_context(_folder(below))
            fields = {name: value.reveal() for name, value in credential.items()}
            for name, value in {"host": credential.host, "port": str(credential.port), **fields}.items():
                if not _SAFE_NAME.fullmatch(name):
                    message = f"the field {name!r} of {credential.role} cannot be the name of a file"
                    raise HandoverError(message)
                stack.enter_context(_written(below / name, value))
        yield
