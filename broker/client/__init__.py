"""The Python SDK for agents.

    from broker.client import Broker

    async with Broker.connect() as broker:
        async with broker.task("reconcile-invoices", intent="Orders of March") as task:
            credential = await task.acquire("orders-readonly")
            connection = await psycopg.AsyncConnection.connect(credential.dsn("orders"))

The agent's identity comes from SPIRE's Workload API (`SPIFFE_ENDPOINT_SOCKET`), the broker's address from
`TASKLEASE_BROKER`. While the block lasts, the SDK keeps the task alive; leaving it, in whatever way, ends the task,
and with it everything that was acquired. `SyncBroker` is the same without `await`.
"""

from broker.client.attachment import TaskEvent
from broker.client.credential import Credential, LeasedCredential, Secret, variable_name
from broker.client.errors import (
    BrokerError,
    DenialClass,
    Denied,
    IdempotencyConflict,
    InvalidRequest,
    LeaseNotActive,
    LimitReached,
    NoIdentity,
    NotConnected,
    NotFound,
    TaskEnded,
    TaskOnHold,
    Unauthenticated,
    Unavailable,
)
from broker.client.identity import Identity, StaticIdentity, Svid, WorkloadApiIdentity
from broker.client.session import Broker
from broker.client.sync import SyncBroker, SyncCredential, SyncTask
from broker.client.task import Outcome, Task
from broker.client.tools import Authorization, CallOutcome, Obligations, Tool, ToolCall

__all__ = [
    "Authorization",
    "Broker",
    "BrokerError",
    "CallOutcome",
    "Credential",
    "DenialClass",
    "Denied",
    "IdempotencyConflict",
    "Identity",
    "InvalidRequest",
    "LeaseNotActive",
    "LeasedCredential",
    "LimitReached",
    "NoIdentity",
    "NotConnected",
    "NotFound",
    "Obligations",
    "Outcome",
    "Secret",
    "StaticIdentity",
    "Svid",
    "SyncBroker",
    "SyncCredential",
    "SyncTask",
    "Task",
    "TaskEnded",
    "TaskEvent",
    "TaskOnHold",
    "Tool",
    "ToolCall",
    "Unauthenticated",
    "Unavailable",
    "WorkloadApiIdentity",
    "variable_name",
]
