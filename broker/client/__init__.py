"""The Python SDK for agents.

    from broker.client import Broker

    async with Broker.connect() as broker:
        async with broker.task("reconcile-invoices", intent="Orders of March", roles=["orders-readonly"]) as task:
            credential = await task.acquire("orders-readonly")
            connection = await psycopg.AsyncConnection.connect(credential.dsn())

The agent's identity comes from SPIRE's Workload API (`SPIFFE_ENDPOINT_SOCKET`), the broker's address from
`TASKLEASE_BROKER`. While the block lasts, the SDK keeps the task alive; leaving it, in whatever way, ends the task,
and with it everything that was acquired. `SyncBroker` is the same without `await`.
"""

from broker.client.credential import Credential, Secret
from broker.client.errors import (
    BrokerError,
    Denied,
    DenialClass,
    Idempotency,
    InvalidRequest,
    LimitReached,
    NotConnected,
    NotFound,
    TaskEnded,
    Unauthenticated,
    Unavailable,
)
from broker.client.identity import Identity, NoIdentity, StaticIdentity, Svid, WorkloadApiIdentity
from broker.client.session import Broker
from broker.client.sync import SyncBroker, SyncTask
from broker.client.task import Task

__all__ = [
    "Broker",
    "BrokerError",
    "Credential",
    "DenialClass",
    "Denied",
    "Idempotency",
    "Identity",
    "InvalidRequest",
    "LimitReached",
    "NoIdentity",
    "NotConnected",
    "NotFound",
    "Secret",
    "StaticIdentity",
    "Svid",
    "SyncBroker",
    "SyncTask",
    "Task",
    "TaskEnded",
    "Unauthenticated",
    "Unavailable",
    "WorkloadApiIdentity",
]
