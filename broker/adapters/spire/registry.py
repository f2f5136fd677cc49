"""SPIRE's Entry API: the server's own unix socket, or TCP with the SVID of an admin entry.

What always holds: no entry that is not ours is written (docs/adr/0008); every entry of a batch has a result; an entry
that SPIRE has and that we cannot read is passed over, never guessed at. Batches are as large as the caller makes them:
SPIRE takes messages up to 4 MiB, some ten thousand entries.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

import grpc
import grpc.aio

from broker.adapters.spire.api import entry_pb2, entry_pb2_grpc, types_pb2
from broker.adapters.spire.unix_channel import unix_channel
from broker.domain.spiffe import InvalidSpiffeIdError, SpiffeId
from broker.domain.workload import EntryId, Ownership, Selector, WorkloadEntry
from broker.ports.registry import (
    EntryResult,
    NotOursError,
    Outcome,
    RegistryRefusedError,
    RegistryUnavailableError,
)

_PATIENCE: Final = timedelta(seconds=60)
_EVERYTHING: Final = types_pb2.EntryMask(
    **{field.name: True for field in types_pb2.EntryMask.DESCRIPTOR.fields if field.name != "revision_number"}
)
_OUTCOMES: Final = {
    grpc.StatusCode.OK.value[0]: Outcome.DONE,
    grpc.StatusCode.NOT_FOUND.value[0]: Outcome.GONE,
    grpc.StatusCode.INVALID_ARGUMENT.value[0]: Outcome.REFUSED,
    grpc.StatusCode.ALREADY_EXISTS.value[0]: Outcome.ID_TAKEN,
}

_Answer = TypeVar("_Answer")
_Result = (
    entry_pb2.BatchCreateEntryResponse.Result
    | entry_pb2.BatchUpdateEntryResponse.Result
    | entry_pb2.BatchDeleteEntryResponse.Result
)


@contextlib.asynccontextmanager
async def open_registry(
    address: str, *, endpoint_socket: str, trust_domain: str
) -> AsyncIterator[SpireWorkloadRegistry]:
    """The registry at an address.

    Args:
        address: `unix:///PATH`, or a host and a port.
        endpoint_socket: the Workload API that has this process's admin SVID; asked for TCP alone.
        trust_domain: the server's.

    Raises:
        RegistryUnavailableError, RegistryRefusedError: over TCP, as far as it shows at once.
    """
    async with contextlib.AsyncExitStack() as stack:
        if address.startswith("unix:"):
            channel = await stack.enter_async_context(unix_channel(address.removeprefix("unix://")))
        else:
            from broker.adapters.spire.tcp_channel import (  # noqa: PLC0415 - its libraries take long to load
                fetch_admin_svid,
                tcp_channel,
            )

            svid = await asyncio.to_thread(fetch_admin_svid, endpoint_socket, trust_domain=trust_domain)
            host, _, port = address.rpartition(":")
            channel = await stack.enter_async_context(tcp_channel(host.strip("[]"), int(port), svid))
        yield SpireWorkloadRegistry(channel, address=address)


class SpireWorkloadRegistry:
    """See the module. The channel is the caller's: `open_registry` opens one."""

    def __init__(self, channel: grpc.aio.Channel, *, address: str, patience: timedelta = _PATIENCE) -> None:
        self._stub = entry_pb2_grpc.EntryStub(channel)  # type: ignore[no-untyped-call]
        self._address = address
        self._patience = patience.total_seconds()

    async def pages(self, *, size: int = 500) -> AsyncIterator[Sequence[WorkloadEntry]]:
        """See ports.registry."""
        token = ""
        while True:
            request = entry_pb2.ListEntriesRequest(page_size=size, page_token=token)
            answer = await self._call(self._stub.ListEntries, request)
            found = [entry for message in answer.entries if (entry := _read(message)) is not None]
            if found:
                yield found
            token = answer.next_page_token
            if not token:
                return

    async def create(self, entries: Sequence[WorkloadEntry]) -> Sequence[EntryResult]:
        """See ports.registry."""
        _check_ours(entry.entry_id for entry in entries)
        request = entry_pb2.BatchCreateEntryRequest(entries=map(_message, entries))
        answer = await self._call(self._stub.BatchCreateEntry, request)
        return _results([entry.entry_id for entry in entries], answer.results)

    async def update(self, entries: Sequence[WorkloadEntry]) -> Sequence[EntryResult]:
        """See ports.registry."""
        _check_ours(entry.entry_id for entry in entries)
        request = entry_pb2.BatchUpdateEntryRequest(entries=map(_message, entries), input_mask=_EVERYTHING)
        answer = await self._call(self._stub.BatchUpdateEntry, request)
        return _results([entry.entry_id for entry in entries], answer.results)

    async def delete(self, entry_ids: Sequence[EntryId]) -> Sequence[EntryResult]:
        """See ports.registry."""
        _check_ours(entry_ids)
        request = entry_pb2.BatchDeleteEntryRequest(ids=entry_ids)
        answer = await self._call(self._stub.BatchDeleteEntry, request)
        return _results(entry_ids, answer.results)

    async def _call(self, method: Callable[..., Awaitable[_Answer]], request: object) -> _Answer:
        try:
            return await method(request, timeout=self._patience)
        except grpc.aio.AioRpcError as error:
            match error.code():
                case grpc.StatusCode.PERMISSION_DENIED | grpc.StatusCode.UNAUTHENTICATED:
                    message = (
                        f"SPIRE's server at {self._address} takes nothing from this caller: over TCP it must come "
                        "with the SVID of an entry that has admin set, or use the server's own socket"
                    )
                    raise RegistryRefusedError(message) from None
                case grpc.StatusCode.UNIMPLEMENTED:
                    message = f"what answers at {self._address} is no SPIRE server: name the server's socket, not the agent's"
                    raise RegistryRefusedError(message) from None
                case code:
                    message = (
                        f"SPIRE's server does not answer at {self._address}: {code.name}: {error.details()}"
                    )
                    raise RegistryUnavailableError(message) from None


def _check_ours(entry_ids: Iterable[str]) -> None:
    for entry_id in entry_ids:
        if Ownership.of(entry_id) is None:
            message = f"entry {entry_id!r} is not ours"
            raise NotOursError(message)


def _results(entry_ids: Sequence[EntryId], answers: Sequence[_Result]) -> list[EntryResult]:
    if len(answers) != len(entry_ids):
        message = f"SPIRE answered {len(answers)} results to {len(entry_ids)} entries"
        raise RegistryUnavailableError(message)
    return [_result(entry_id, answer) for entry_id, answer in zip(entry_ids, answers, strict=True)]


def _result(entry_id: EntryId, answer: _Result) -> EntryResult:
    outcome = _OUTCOMES.get(answer.status.code, Outcome.FAILED)
    entry = None
    if not isinstance(answer, entry_pb2.BatchDeleteEntryResponse.Result) and answer.HasField("entry"):
        entry = _read(answer.entry)
        if outcome is Outcome.ID_TAKEN:
            outcome = Outcome.EXISTS
    return EntryResult(entry_id=entry_id, outcome=outcome, entry=entry, why=answer.status.message)


def _message(entry: WorkloadEntry) -> types_pb2.Entry:
    return types_pb2.Entry(
        id=entry.entry_id,
        spiffe_id=_id_message(entry.spiffe_id),
        parent_id=_id_message(entry.parent_id),
        selectors=[
            types_pb2.Selector(type=selector.kind, value=selector.value)
            for selector in sorted(entry.selectors)
        ],
        x509_svid_ttl=int(entry.x509_svid_ttl.total_seconds()),
        jwt_svid_ttl=int(entry.jwt_svid_ttl.total_seconds()),
        federates_with=sorted(entry.federates_with),
        admin=entry.admin,
        downstream=entry.downstream,
        expires_at=int(entry.expires_at.timestamp()) if entry.expires_at else 0,
        dns_names=sorted(entry.dns_names),
        store_svid=entry.store_svid,
        hint=entry.hint,
    )


def _id_message(spiffe_id: SpiffeId) -> types_pb2.SPIFFEID:
    return types_pb2.SPIFFEID(trust_domain=spiffe_id.trust_domain, path=spiffe_id.path)


def _read(message: types_pb2.Entry) -> WorkloadEntry | None:
    """None for what is no entry of ours in any case: one whose IDs no SPIFFE ID could be."""
    try:
        spiffe_id, parent_id = (
            SpiffeId.parse(f"spiffe://{one.trust_domain}{one.path}")
            for one in (message.spiffe_id, message.parent_id)
        )
    except InvalidSpiffeIdError:
        return None
    return WorkloadEntry(
        entry_id=EntryId(message.id),
        spiffe_id=spiffe_id,
        parent_id=parent_id,
        selectors=frozenset(
            Selector(kind=selector.type, value=selector.value) for selector in message.selectors
        ),
        x509_svid_ttl=timedelta(seconds=message.x509_svid_ttl),
        jwt_svid_ttl=timedelta(seconds=message.jwt_svid_ttl),
        dns_names=frozenset(message.dns_names),
        federates_with=frozenset(message.federates_with),
        hint=message.hint,
        admin=message.admin,
        downstream=message.downstream,
        store_svid=message.store_svid,
        expires_at=datetime.fromtimestamp(message.expires_at, UTC) if message.expires_at else None,
    )
