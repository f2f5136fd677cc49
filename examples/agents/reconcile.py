"""An agent: one task, one credential, gone when the block is left.

Run it as an instance of the development stack, from the root of the repository (it needs `pip install psycopg`):

    tasklease dev up
    tasklease dev agent invoice-bot -- python examples/agents/reconcile.py
"""

# ruff: noqa: INP001, T201 - a program, not a package; what it prints is what it is for
from __future__ import annotations

import asyncio
import sys

import psycopg

from broker.client import Broker, Denied, TaskEnded


async def main() -> None:
    """Count the orders, then see that the credential is of no use any more."""
    async with Broker.connect() as broker:
        print(f"I am {broker.spiffe_id}")
        try:
            async with broker.task(
                "reconcile-invoices", intent="Count the orders of a day", roles=["orders-readonly"]
            ) as task:
                credential = await task.acquire("orders-readonly")
                print(f"acquired {credential}")
                async with await psycopg.AsyncConnection.connect(credential.dsn("orders")) as connection:
                    cursor = await connection.execute("SELECT count(*) FROM orders")
                    print(f"orders: {(await cursor.fetchone() or [0])[0]}")
        except Denied as error:
            sys.exit(f"not allowed ({error.denial_class}): {error}")
        except TaskEnded as error:
            sys.exit(f"the broker ended the task: {error.cause}")

    try:
        await psycopg.AsyncConnection.connect(credential.dsn("orders"))
    except psycopg.OperationalError:
        print("PostgreSQL refuses the credential now")
    else:
        sys.exit("PostgreSQL still takes the credential")


if __name__ == "__main__":
    asyncio.run(main())
