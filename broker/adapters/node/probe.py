"""Asks the Workload API whose SVIDs it serves to a process with some groups: run as a program of its own.

    python -I -S probe.py SOCKET SECONDS USER SPIFFE_ID=GROUP ...

Takes those groups, and no others, becomes the user where one is named, and asks again and again until one of the SPIFFE IDs is served; prints all that are,
one a line. Speaks just enough HTTP/2 and protobuf to read the SPIFFE IDs, with the standard library alone: loading
gRPC takes longer than all the rest. Drops everything else it is sent, keys above all; nothing is trusted for what it says.
"""

from __future__ import annotations

import os
import pwd
import socket
import struct
import sys
import time
from collections.abc import Iterator

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_PAUSE = 0.1
_PATIENCE = 5.0
_HEADER_LIST = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/SpiffeWorkloadAPI/FetchX509SVID"),
    (b":authority", b"localhost"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
    (b"workload.spiffe.io", b"true"),
)


def main() -> int:
    """Take the groups, ask, print."""
    address, seconds, user, *wanted = sys.argv[1:]
    groups = dict(word.rsplit("=", 1) for word in wanted)
    os.setgroups([int(group) for group in groups.values()])
    if user:
        account = pwd.getpwnam(user)
        os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
        os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    end = time.monotonic() + float(seconds)
    while True:
        try:
            served = set(ask(address.removeprefix("unix://").removeprefix("unix:")))
        except (OSError, EOFError, ValueError):
            served = set()
        if found := served & set(groups):
            print(*sorted(found), sep="\n")  # noqa: T201 - its answer
            return 0
        if time.monotonic() > end or os.getppid() == 1:
            return 1
        time.sleep(_PAUSE)


def ask(path: str) -> list[str]:
    """The SPIFFE IDs that are served to this process, now; none where the API refuses.

    Raises:
        OSError, EOFError: nobody answers.
        ValueError: what answers is no Workload API.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(_PATIENCE)
        line.connect(path)
        headers = b"".join(
            b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in _HEADER_LIST
        )
        line.sendall(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, struct.pack(">HI", 4, (1 << 31) - 1))  # room for a large answer
            + _frame(_WINDOW, 0, 0, struct.pack(">I", 1 << 30))
            + _frame(_HEADERS, _END_HEADERS, 1, headers)
            + _frame(_DATA, _END_STREAM, 1, b"\x00" * 5)  # a message without fields
        )
        body = b""
        while True:
            kind, flags, stream, payload = _read_frame(line)
            if kind == _SETTINGS and not flags & _ACK:
                line.sendall(_frame(_SETTINGS, _ACK, 0, b""))
            elif kind == _PING and not flags & _ACK:
                line.sendall(_frame(_PING, _ACK, 0, payload))
            elif kind == _DATA and stream == 1:
                body += payload
                if len(body) >= 5 and len(body) - 5 >= (size := int.from_bytes(body[1:5], "big")):
                    return list(_spiffe_ids(body[5 : 5 + size]))
            elif kind in {_RST, _GOAWAY} or (kind == _HEADERS and flags & _END_STREAM):
                return []


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _read_frame(line: socket.socket) -> tuple[int, int, int, bytes]:
    head = _exactly(line, 9)
    stream = int.from_bytes(head[5:], "big") & 0x7FFFFFFF
    return head[3], head[4], stream, _exactly(line, int.from_bytes(head[:3], "big"))


def _exactly(line: socket.socket, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        part = line.recv(size - len(parts))
        if not part:
            raise EOFError
        parts += part
    return parts


def _spiffe_ids(message: bytes) -> Iterator[str]:
    """X509SVIDResponse.svids (1) is a list of X509SVID, whose spiffe_id (1) is text."""
    for number, value in _fields(message):
        if number == 1:
            for inner, text in _fields(value):
                if inner == 1:
                    yield text.decode()


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        if tag & 7 == 2:
            size, place = _varint(message, place)
            yield tag >> 3, message[place : place + size]
            place += size
        elif tag & 7 == 0:
            _, place = _varint(message, place)
        else:
            message_ = "a field that the Workload API does not have"
            raise ValueError(message_)


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if place >= len(message):
            raise EOFError
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place


if __name__ == "__main__":
    sys.exit(main())
