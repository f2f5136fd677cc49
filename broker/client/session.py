"""The broker, as an agent sees it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Final, Self

from broker.api.v1 import tasks_pb2
from broker.client.connection import Connection
from broker.client.errors import NotConnected
from broker.client.identity import Identity, WorkloadApiIdentity
from broker.client.task import CALL_TIMEOUT, Task

ADDRESS_VARIABLE: Final = "TASKLEASE_BROKER"
BROKER_ID_VARIABLE: Final = "TASKLEASE_BROKER_ID"
_PAGE: Final = 200


class Broker:
    """An async context manager: `async with Broker.connect() as broker`."""

    def __init__(self, connection: Connection, identity: Identity, patience: timedelta) -> None:
        self._connection = connection
        self._identity = identity
        self._patience = patience

    @classmethod
    def connect(
        cls,
        address: str | None = None,
        *,
        broker_id: str | None = None,
        workload_api: str | None = None,
        identity: Identity | None = None,
        patience: timedelta = timedelta(seconds=30),
    ) -> Self:
        """Prepare a connection; it is made on entering the block.

        Args:
            address: `host:port`, or `unix:PATH`; several replicas' with commas between; the default is
                $TASKLEASE_BROKER.
            broker_id: the broker's SPIFFE ID; the default is $TASKLEASE_BROKER_ID, or
                `spiffe://<own trust domain>/tasklease/broker`.
            workload_api: SPIRE's Workload API; the default is $SPIFFE_ENDPOINT_SOCKET.
            identity: where the SVID comes from, if not from the Workload API.
            patience: on entering, how long to wait for the first SVID, and then for the broker.

        Raises:
            NotConnected: there is no address.
        """
        address = address or os.environ.get(ADDRESS_VARIABLE, "")
        if not address:
            message = f"where is the broker? Give an address, or set {ADDRESS_VARIABLE} to host:port"
            raise NotConnected(message)
        identity = identity or WorkloadApiIdentity(workload_api)
        broker_id = broker_id or os.environ.get(BROKER_ID_VARIABLE)
        return cls(Connection(address=address, identity=identity, broker_id=broker_id), identity, patience)

    @property
    def spiffe_id(self) -> str:
        """This instance's own SPIFFE ID.

        Raises:
            NoIdentity: before the block was entered.
        """
        return self._identity.svid().spiffe_id

    def task(  # noqa: PLR0913 - what a task is declared with
        self,
        task_type: str,
        *,
        intent: str,
        roles: Sequence[str] | None = None,
        tools: Sequence[str] | None = None,
        environment: str = "",
        deadline: datetime | timedelta | None = None,
        fingerprint: bytes = b"",
        cancel_on_end: bool = True,
    ) -> Task:
        """A task of the catalog's type: `async with broker.task(...) as task`.

        Args:
            task_type: the catalog's task type.
            intent: what it is for, in words; 1 to 1,000 characters.
            roles: the credential roles that it wants to use, fixed from here on; the default is all of the task type's
                where `tools` is not given either, else none.
            tools: likewise the tools.
            environment: the default is the task type's.
            deadline: a time with a time zone, or a duration from entering the block; the default is the task type's
                maximum.
            fingerprint: digest of model, prompt and tool schemas, at most 64 bytes.
            cancel_on_end: cancel the block's body when the broker ends the task.

        Raises:
            ValueError: the deadline has no time zone.
        """
        return Task(
            self._connection,
            task_type,
            intent=intent,
            roles=roles,
            tools=tools,
            environment=environment,
            deadline=deadline,
            fingerprint=fingerprint,
            cancel_on_end=cancel_on_end,
        )

    async def get_task(self, task_id: str) -> tasks_pb2.Task:
        """One of this instance's tasks with its leases, as the wire has it.

        Raises:
            NotFound: no such task, or somebody else's.
        """
        request = tasks_pb2.GetTaskRequest(task_id=task_id)
        answer = await self._connection.call(lambda line: line.get, request, within=CALL_TIMEOUT)
        return answer.task

    async def list_tasks(self) -> list[tasks_pb2.Task]:
        """All of this instance's tasks, newest first, without their leases."""
        found: list[tasks_pb2.Task] = []
        token = ""
        while True:
            request = tasks_pb2.ListTasksRequest(page_size=_PAGE, page_token=token)
            answer = await self._connection.call(lambda line: line.list, request, within=CALL_TIMEOUT)
            found.extend(answer.tasks)
            token = answer.next_page_token
            if not token:
                return found

    async def __aenter__(self) -> Self:
        await self._identity.start(self._patience)
        try:
            await self._connection.open(self._patience)
        except BaseException:
            await self._identity.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._connection.close()
        await self._identity.close()
