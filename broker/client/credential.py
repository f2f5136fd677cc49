"""A credential in an agent's hands.

What always holds: its secret fields show themselves only to `reveal`, and to `dsn` and `as_env`, which are named
for it; no repr, str, format, log, copy or pickle holds them.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC
from types import TracebackType
from typing import Final, NoReturn, Self

from broker.api.v1 import credentials_pb2

_NOT_IN_A_NAME: Final = re.compile(r"[^A-Z0-9]+")
_GONE: Final = frozenset({credentials_pb2.LEASE_STATE_REVOKED, credentials_pb2.LEASE_STATE_VOID})


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


class LeasedCredential(Mapping[str, Secret]):
    """What `Credential` and `SyncCredential` have in common: a mapping of the credential's fields to secrets.

    `expires_at` moves on as the broker renews the lease; `revoked` says that the backend no longer accepts it.
    """

    def __init__(self, answer: credentials_pb2.AcquireCredentialResponse) -> None:
        self.lease_id = answer.lease.lease_id
        self.role = answer.lease.role
        self.host = answer.destination.host
        """Where it is meant to be used, as the catalog says; `port` and `scheme` as well."""
        self.port = int(answer.destination.port)
        self.scheme = answer.destination.scheme
        self.warnings = tuple(answer.warnings)
        """What was found of the task with this request, in words, where it gets off with a warning."""
        self.expires_at = answer.lease.expires_at.ToDatetime(tzinfo=UTC)
        """When the backend lets go of it, unless the broker renews it before."""
        self.revoked = False
        self._secret = {name: Secret(value) for name, value in answer.secret.items()}

    def __getitem__(self, field: str) -> Secret:
        return self._secret[field]

    def __iter__(self) -> Iterator[str]:
        return iter(self._secret)

    def __len__(self) -> int:
        return len(self._secret)

    __hash__ = object.__hash__
    __eq__ = object.__eq__

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(role={self.role!r}, lease_id={self.lease_id!r}, "
            f"fields={sorted(self._secret)}, revoked={self.revoked})"
        )

    def __reduce__(self) -> NoReturn:
        message = "a credential cannot be pickled or copied"
        raise TypeError(message)

    def dsn(self, database: str = "") -> str:
        """A PostgreSQL connection string. It holds the password: hand it to the driver and to nothing else.

        Raises:
            ValueError: it is no credential of PostgreSQL.
        """
        if not self._is_postgresql():
            message = f"{self.role} is no credential of PostgreSQL: it has no DSN"
            raise ValueError(message)
        words = {
            "host": self.host,
            "port": str(self.port),
            "user": self._secret["username"].reveal(),
            "password": self._secret["password"].reveal(),
            **({"dbname": database} if database else {}),
        }
        return " ".join(f"{name}={_quoted(value)}" for name, value in words.items())

    def as_env(self, prefix: str = "") -> dict[str, str]:
        """The credential as environment variables.

        Without a prefix: PGHOST, PGPORT, PGUSER and PGPASSWORD for PostgreSQL, TASKLEASE_<ROLE>_<FIELD> for anything
        else. With one: <PREFIX>_HOST, <PREFIX>_PORT and <PREFIX>_<FIELD>.
        """
        if not prefix and self._is_postgresql():
            return {
                "PGHOST": self.host,
                "PGPORT": str(self.port),
                "PGUSER": self._secret["username"].reveal(),
                "PGPASSWORD": self._secret["password"].reveal(),
            }
        prefix = prefix.rstrip("_") if prefix else variable_name("TASKLEASE", self.role)
        named = {variable_name(prefix, name): value.reveal() for name, value in self._secret.items()}
        where = {"HOST": self.host, "PORT": str(self.port)} if self.host else {}
        return {**{f"{prefix}_{name}": value for name, value in where.items()}, **named}

    def _is_postgresql(self) -> bool:
        return self.scheme == "postgresql" and {"username", "password"} <= self._secret.keys()

    def _heard(self, lease: credentials_pb2.Lease) -> None:
        """Take over what the broker says of the lease."""
        if lease.HasField("expires_at"):
            self.expires_at = lease.expires_at.ToDatetime(tzinfo=UTC)
        if lease.state in _GONE:
            self.revoked = True


class Credential(LeasedCredential):
    """One lease-bound credential; as an async context manager it gives itself back."""

    def __init__(
        self,
        answer: credentials_pb2.AcquireCredentialResponse,
        release: Callable[[Credential], Awaitable[None]],
    ) -> None:
        super().__init__(answer)
        self._release = release

    async def release(self) -> None:
        """Give it back before the task ends; returns when the backend refuses it. Twice is harmless.

        Raises:
            BrokerError: the broker cannot be reached; the task's end takes it back all the same.
        """
        await self._release(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.release()


def variable_name(*words: str) -> str:
    """The words as the name of an environment variable."""
    return "_".join(_NOT_IN_A_NAME.sub("_", word.upper()) for word in words)


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
