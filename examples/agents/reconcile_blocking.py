"""The same agent without `await`.

    tasklease dev up
    tasklease dev agent invoice-bot -- python examples/agents/reconcile_blocking.py

Without any Python at all, the same is:

    tasklease dev agent invoice-bot -- tasklease exec --task reconcile-invoices --role orders-readonly -- \
        psql -d orders -c 'SELECT count(*) FROM orders'
"""

# ruff: noqa: INP001, T201 - a program, not a package; what it prints is what it is for
from __future__ import annotations

import psycopg

from broker.client import SyncBroker


def main() -> None:
    """Count the orders."""
    with (
        SyncBroker.connect() as broker,
        broker.task(
            "reconcile-invoices", intent="Count the orders of a day", roles=["orders-readonly"]
        ) as task,
        task.acquire("orders-readonly") as credential,
        psycopg.connect(credential.dsn("orders")) as connection,
    ):
        row = connection.execute("SELECT count(*) FROM orders").fetchone()
        print(f"orders: {row[0] if row else 0}")


if __name__ == "__main__":
    main()
