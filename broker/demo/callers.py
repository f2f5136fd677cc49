"""Calls to the broker as anybody: with a minted SVID, somebody else's, or none.

Unlike the SDK, nothing is repeated, hidden or made pleasant: what the broker answered is what is returned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from broker.api.v1 import (
    anomalies_pb2_grpc,
    credentials_pb2_grpc,
    instances_pb2_grpc,
    leases_pb2_grpc,
    operators_pb2_grpc,
    signals_pb2_grpc,
    tasks_pb2,
    tasks_pb2_grpc,
    tools_pb2_grpc,
)
from broker.client import Svid

_DNS_NAME: Final = "tasklease-broker"
_TIMEOUT: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How a call ended."""

    code: grpc.StatusCode
    reason: str = ""
    """The ErrorInfo's; empty where the broker did not answer by itself (a failed handshake)."""
    text: str = ""
    denial_class: str = ""
    message: Any = None

    @property
    def ok(self) -> bool:
        """Whether it was answered."""
        return self.code is grpc.StatusCode.OK

    def __str__(self) -> str:
        return " ".join(filter(None, (self.code.name, self.reason)))


class Caller:
    """One connection, for as long as its block lasts."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stubs = (
            tasks_pb2_grpc.TaskServiceStub(channel),  # type: ignore[no-untyped-call]
            credentials_pb2_grpc.CredentialServiceStub(channel),  # type: ignore[no-untyped-call]
            operators_pb2_grpc.QuarantineServiceStub(channel),  # type: ignore[no-untyped-call]
            instances_pb2_grpc.InstanceServiceStub(channel),  # type: ignore[no-untyped-call]
            leases_pb2_grpc.LeaseServiceStub(channel),  # type: ignore[no-untyped-call]
            signals_pb2_grpc.SignalServiceStub(channel),  # type: ignore[no-untyped-call]
            tools_pb2_grpc.ToolServiceStub(channel),  # type: ignore[no-untyped-call]
            anomalies_pb2_grpc.AnomalyServiceStub(channel),  # type: ignore[no-untyped-call]
        )

    def call(self, rpc: str, request: Message, *, timeout: float = _TIMEOUT) -> Answer:
        """Make one call of the RPC of that name."""
        return attempt(lambda: self._method(rpc)(request, timeout=timeout))

    def stream(self, rpc: str, request: Message, *, timeout: float = _TIMEOUT) -> Iterator[Any]:
        """Open a stream; what it ends with is raised."""
        messages: Iterator[Any] = self._method(rpc)(request, timeout=timeout)
        return messages

    def knock(self) -> Answer:
        """The least there is to ask: the caller's own tasks."""
        return self.call("ListTasks", tasks_pb2.ListTasksRequest(page_size=1))

    def _method(self, rpc: str) -> Callable[..., Any]:
        stub = next(stub for stub in self._stubs if hasattr(stub, rpc))
        method: Callable[..., Any] = getattr(stub, rpc)
        return method


@contextmanager
def calling(address: str, *, authorities: bytes, svid: Svid | None = None) -> Iterator[Caller]:
    """A connection to the broker; `authorities` is what the caller trusts, `svid` what it shows (None: nothing)."""
    credentials = grpc.ssl_channel_credentials(
        authorities, svid.key if svid else None, svid.chain if svid else None
    )
    options = [
        ("grpc.ssl_target_name_override", _DNS_NAME),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
    ]
    with grpc.secure_channel(address, credentials, options) as channel:
        yield Caller(channel)


def attempt(call: Callable[[], Message]) -> Answer:
    """The call's answer, whatever it is."""
    try:
        return Answer(code=grpc.StatusCode.OK, message=call())
    except grpc.RpcError as error:
        status = rpc_status.from_call(error)  # type: ignore[arg-type]  # an RpcError of a call is the call
        reason = denial_class = ""
        for detail in status.details if status else ():
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info):
                reason, denial_class = info.reason, info.metadata.get("denial_class", "")
        return Answer(code=error.code(), reason=reason, text=error.details() or "", denial_class=denial_class)


def svid_of(files: tuple[Path, Path, Path], spiffe_id: str) -> Svid:
    """What `spire-server x509 mint` wrote: SVID, key and bundle."""
    chain, key, bundle = (path.read_bytes() for path in files)
    return Svid(spiffe_id=spiffe_id, chain=chain, key=key, authorities=bundle)
