"""An agent in a container: its label is its identity, and its credential lives as long as its task."""

# ruff: noqa: INP001, T201 - a program, not a package; what it prints is what it is for
from __future__ import annotations

import asyncio
import time

import psycopg

from broker.client import Broker

PATIENCE = 5.0


async def main() -> None:
    """Do the task; then see PostgreSQL refuse the credential."""
    async with Broker.connect() as broker:
        print(f"i am {broker.spiffe_id}", flush=True)
        async with broker.task(
            "reconcile-invoices", intent="Reconcile the orders of a day", roles=["orders-readonly"]
        ) as task:
            credential = await task.acquire("orders-readonly")
            dsn = credential.dsn("orders")
            with psycopg.connect(dsn) as connection:
                row = connection.execute("SELECT count(*) FROM orders").fetchone()
            print(f"read {row[0] if row else 0} orders", flush=True)
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE:
        try:
            psycopg.connect(dsn, connect_timeout=3).close()
        except psycopg.OperationalError as error:
            if "authentication failed" not in str(error):
                raise
            print("refused after completion", flush=True)
            return
        await asyncio.sleep(0.05)
    message = "PostgreSQL still accepts the credential of a task that has ended"
    raise SystemExit(message)


if __name__ == "__main__":
    asyncio.run(main())
