"""How a launcher asks the node's pool for something: one line over a unix socket in the ledger's folder, one line back.

What always holds: who can open the socket can write the ledger as well: both are in a folder that root alone enters.
The standard library alone is imported.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final

SOCKET: Final = "pool.sock"
DONE: Final = "done"
_PATIENCE: Final = 60.0
_LONGEST: Final = 4096


class Unanswered(Exception):  # noqa: N818 - an event rather than an error
    """There is no pool, or it went away in the middle."""


def ask_pool(folder: Path, *words: str) -> str | None:
    """Ask, and wait until it is done: None, or why it is not.

    Raises:
        Unanswered: nobody did it, as far as is known.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(_PATIENCE)
            line.connect(str(folder / SOCKET))
            line.sendall(f"{' '.join(words)}\n".encode())
            answer = b""
            while not answer.endswith(b"\n"):
                part = line.recv(_LONGEST)
                if not part:
                    raise Unanswered
                answer += part
    except OSError as error:
        raise Unanswered from error
    text = answer.decode().strip()
    return None if text == DONE else text
