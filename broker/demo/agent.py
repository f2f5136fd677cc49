"""The demo's agent: `python -m broker.demo.agent` runs as an instance and does what standard input says.

One JSON object a line, `{"do": VERB, ...}`; one JSON object a line in answer. The password stays in this process:
what PostgreSQL says of the credential is asked from here.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any, Final

import psycopg
from cryptography import x509

from broker.api.v1 import credentials_pb2, tasks_pb2
from broker.client import Broker, Credential, Task, WorkloadApiIdentity
from broker.demo.callers import Answer, calling
from broker.demo.database import lets_in, refused_after, session_ends_after

Facts = dict[str, object]
_DATABASE: Final = "orders"


class Agent:
    """An agent with one task at most."""

    def __init__(self, address: str, block: AsyncExitStack) -> None:
        self._address = address
        self._block = block
        self._identity = WorkloadApiIdentity()
        self._broker = Broker.connect(address, identity=self._identity)
        self._task: Task | None = None
        self._credential: Credential | None = None
        self._session: psycopg.AsyncConnection[Any] | None = None

    async def identity(self) -> Facts:
        """Get the SVID, and connect."""
        await self._block.enter_async_context(self._broker)
        leaf = x509.load_pem_x509_certificate(self._identity.svid().chain)
        left = leaf.not_valid_after_utc - datetime.now(UTC)
        return {
            "spiffe_id": self._broker.spiffe_id,
            "serial": f"{leaf.serial_number:x}",
            "seconds_left": int(left.total_seconds()),
        }

    async def declare(
        self, *, task_type: str, intent: str, roles: list[str], tools: list[str] | None = None
    ) -> Facts:
        """Declare the task."""
        self._task = await self._block.enter_async_context(
            self._broker.task(task_type, intent=intent, roles=roles, tools=tools or [])
        )
        return {"task_id": self._task.task_id, "deadline": self._task.deadline.isoformat()}

    async def acquire(self, *, role: str) -> Facts:
        """Acquire a credential, and open a session with it."""
        assert self._task is not None
        began = time.perf_counter()
        self._credential = await self._task.acquire(role)
        took = time.perf_counter() - began
        return {
            "lease_id": self._credential.lease_id,
            "username": self._credential["username"].reveal(),
            "shown": repr(self._credential),
            "shows_password": self._credential["password"].reveal() in repr(self._credential),
            "ms": took * 1000,
            "seconds_left": (self._credential.expires_at - datetime.now(UTC)).total_seconds(),
        }

    async def read(self) -> Facts:
        """Read rows in a session that stays open."""
        self._session = await psycopg.AsyncConnection.connect(self._dsn, autocommit=True)
        cursor = await self._session.execute("SELECT count(*) FROM orders")
        count = await cursor.fetchone()
        cursor = await self._session.execute("SELECT * FROM orders ORDER BY 1 LIMIT 3")
        return {
            "count": count[0] if count else 0,
            "columns": [column.name for column in cursor.description or ()],
            "rows": [[str(value) for value in row] for row in await cursor.fetchall()],
        }

    async def write(self) -> Facts:
        """Try what the role does not allow."""
        assert self._session is not None
        try:
            await self._session.execute("DELETE FROM orders")
        except psycopg.errors.InsufficientPrivilege as error:
            return {"refused": str(error).splitlines()[0]}
        return {"refused": ""}

    async def tools(self) -> Facts:
        """What it may call now."""
        assert self._task is not None
        return {"tools": [tool.name for tool in await self._task.tools()]}

    async def call(self, *, tool: str, arguments: dict[str, Any]) -> Facts:
        """Ask whether it may make a call."""
        assert self._task is not None
        found = await self._task.authorize(tool, arguments)
        return {
            "allowed": found.allowed,
            "reason": found.reason,
            "text": found.text,
            "policies": list(found.policies),
            "class": found.denial_class.value if found.denial_class else "",
        }

    async def complete(self) -> Facts:
        """Complete the task; say when PostgreSQL refuses, and what became of the open session."""
        assert self._task is not None
        assert self._session is not None
        before = await lets_in(self._dsn)
        began = time.perf_counter()
        refused = asyncio.create_task(refused_after(self._dsn, began))
        ended = asyncio.create_task(session_ends_after(self._session, began))
        await self._task.complete()
        answered = time.perf_counter() - began
        return {
            "accepted_before": before,
            "state": self._task.state,
            "answered_ms": answered * 1000,
            "refused_ms": await refused * 1000,
            "session_ended_ms": await ended * 1000,
            "still_refused": not any([await lets_in(self._dsn) for _ in range(5)]),
        }

    async def trespass(self, *, task_id: str, lease_id: str, nonexistent: str, role: str) -> Facts:
        """Try to see and use somebody else's task, as a hijacked agent would: without the SDK."""
        acquire = credentials_pb2.AcquireCredentialRequest(role=role, idempotency_key="trespass-00000001")
        attempts = {
            "GetTask": tasks_pb2.GetTaskRequest(task_id=task_id),
            "Heartbeat": tasks_pb2.HeartbeatRequest(task_id=task_id),
            "AcquireCredential": _with_task(acquire, task_id),
            "CompleteTask": tasks_pb2.CompleteTaskRequest(
                task_id=task_id, outcome=tasks_pb2.TASK_OUTCOME_SUCCEEDED
            ),
            "RenewCredential": credentials_pb2.RenewCredentialRequest(lease_id=lease_id),
            "ReleaseCredential": credentials_pb2.ReleaseCredentialRequest(lease_id=lease_id),
        }

        def work() -> Facts:
            svid = self._identity.svid()
            with calling(self._address, authorities=svid.authorities, svid=svid) as caller:
                nobody = caller.call("GetTask", tasks_pb2.GetTaskRequest(task_id=nonexistent))
                answers = {rpc: caller.call(rpc, request) for rpc, request in attempts.items()}
                own = caller.call("ListTasks", tasks_pb2.ListTasksRequest())
            return {
                "attempts": {rpc: _facts(answer) for rpc, answer in answers.items()},
                "nonexistent": _facts(nobody),
                "listed": [task.task_id for task in own.message.tasks],
            }

        return await asyncio.to_thread(work)

    @property
    def _dsn(self) -> str:
        assert self._credential is not None
        return self._credential.dsn(_DATABASE)


def _with_task(
    request: credentials_pb2.AcquireCredentialRequest, task_id: str
) -> credentials_pb2.AcquireCredentialRequest:
    request.task_id = task_id
    return request


def _facts(answer: Answer) -> Facts:
    return {"code": answer.code.name, "reason": answer.reason, "text": answer.text}


async def main(address: str) -> None:
    """Do what is asked until standard input ends."""
    async with AsyncExitStack() as block:
        agent = Agent(address, block)
        while line := await asyncio.to_thread(sys.stdin.readline):
            asked = json.loads(line)
            verb: Callable[..., Awaitable[Facts]] = getattr(agent, asked.pop("do"))
            try:
                answer = await verb(**asked)
            except Exception as error:  # noqa: BLE001 - told to whoever asked
                answer = {"error": f"{type(error).__name__}: {error}"}
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
