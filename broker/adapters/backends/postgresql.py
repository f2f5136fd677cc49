"""What PostgreSQL says of a role and its sessions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import psycopg

from broker.domain.catalog import CredentialRole
from broker.domain.hosts import is_loopback
from broker.domain.secret import Secret

_STANDS = """
SELECT (SELECT count(*) FROM pg_catalog.pg_roles WHERE rolname = %(account)s AND rolcanlogin)
     + (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE usename = %(account)s)
"""
"""Any role may ask this; it needs no rights but to log in."""


_CERTAIN: Final = {"sslmode": "verify-full", "sslrootcert": "system"}


class PostgresObserver:
    """One connection, to the server's `postgres` database."""

    FAILURES: ClassVar[tuple[type[Exception], ...]] = (psycopg.Error,)

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection

    @classmethod
    async def open(cls, verifier: CredentialRole, secret: Mapping[str, Secret]) -> PostgresObserver:
        """Connect; beyond loopback only to a server whose certificate is the host's."""
        where = verifier.destination
        tls = {"sslmode": "prefer"} if is_loopback(where.host) else _CERTAIN
        dsn = psycopg.conninfo.make_conninfo(
            host=where.host,
            port=where.port,
            dbname="postgres",
            user=secret["username"].reveal(),
            password=secret["password"].reveal(),
            connect_timeout=5,
            application_name="tasklease",
            **tls,
        )
        connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
        return cls(connection)

    async def refuses(self, account: str) -> bool:
        """No role of that name may log in, and no session is its."""
        cursor = await self._connection.execute(_STANDS, {"account": account})
        row = await cursor.fetchone()
        return row is not None and row[0] == 0

    async def close(self) -> None:
        """Disconnect."""
        await self._connection.close()
