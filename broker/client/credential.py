"""A credential in an agent's hands."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import NoReturn, Self


class Secret:
    """A string that does not show itself; `reveal` opens it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value."""
        return self._value

    def __repr__(self) -> str:
        return "[secret]"

    __str__ = __repr__

    def __format__(self, format_spec: str) -> str:
        return "[secret]"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    __hash__ = None  # type: ignore[assignment]  # a hash of a secret is a fingerprint of it

    def __reduce__(self) -> NoReturn:
        message = "a Secret cannot be pickled or copied"
        raise TypeError(message)


class Credential(Mapping[str, Secret]):
    """One lease-bound credential: a mapping of its fields, each a `Secret`.

    It is an async context manager that gives itself back. `expires_at` moves on as the broker renews the lease;
    `revoked` says that the backend no longer accepts it.
    """

    def __init__(  # noqa: PLR0913 - what the broker says of it
        self,
        *,
        lease_id: str,
        role: str,
        secret: Mapping[str, str],
        host: str,
        port: int,
        scheme: str,
        expires_at: datetime,
        release: Callable[[str], Awaitable[None]],
    ) -> None:
        self.lease_id = lease_id
        self.role = role
        self.host = host
        self.port = port
        self.scheme = scheme
        self.expires_at = expires_at
        self.revoked = False
        self._secret = {name: Secret(value) for name, value in secret.items()}
        self._release = release

    def __getitem__(self, field: str) -> Secret:
        return self._secret[field]

    def __iter__(self) -> Iterator[str]:
        return iter(self._secret)

    def __len__(self) -> int:
        return len(self._secret)

    def __repr__(self) -> str:
        return f"Credential(role={self.role!r}, lease_id={self.lease_id!r}, fields={sorted(self._secret)})"

    def dsn(self, database: str = "") -> str:
        """A PostgreSQL connection string. It holds the password: hand it to the driver and to nothing else."""
        words = {
            "host": self.host,
            "port": str(self.port),
            "user": self._secret["username"].reveal(),
            "password": self._secret["password"].reveal(),
            **({"dbname": database} if database else {}),
        }
        return " ".join(f"{name}={_quoted(value)}" for name, value in words.items())

    def environment(self) -> dict[str, str]:
        """The credential as environment variables: libpq's names for PostgreSQL, else TASKLEASE_<ROLE>_<FIELD>."""
        if self.scheme == "postgresql" and {"username", "password"} <= self._secret.keys():
            return {
                "PGHOST": self.host,
                "PGPORT": str(self.port),
                "PGUSER": self._secret["username"].reveal(),
                "PGPASSWORD": self._secret["password"].reveal(),
            }
        prefix = "TASKLEASE_" + self.role.upper().replace("-", "_")
        named = {
            f"{prefix}_{name.upper().replace('-', '_')}": value.reveal()
            for name, value in self._secret.items()
        }
        return {**named, f"{prefix}_HOST": self.host, f"{prefix}_PORT": str(self.port)}

    async def release(self) -> None:
        """Give it back before the task ends; returns when the backend refuses it. Twice is harmless.

        Raises:
            BrokerError: the broker cannot be reached; the task's end takes it back all the same.
        """
        await self._release(self.lease_id)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.release()


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
