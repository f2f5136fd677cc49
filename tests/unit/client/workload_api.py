"""A Workload API that does as it is told, on a Unix socket."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from spiffe._proto import workload_pb2, workload_pb2_grpc

from broker.client import Svid


class WorkloadApi(workload_pb2_grpc.SpiffeWorkloadAPIServicer):
    """Answers each stream with the newest SVID, then with those that come; refuses while it has none."""

    def __init__(self, socket: Path) -> None:
        self.address = f"unix://{socket}"
        self.streams = 0
        self._current: Svid | None = None
        self._queues: list[queue.Queue[Svid | None]] = []
        self.server = grpc.server(futures.ThreadPoolExecutor(8))
        workload_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server(self, self.server)  # type: ignore[no-untyped-call]
        self.server.add_insecure_port(self.address)
        self.server.start()

    def give(self, svid: Svid) -> None:
        self._current = svid
        for waiting in self._queues:
            waiting.put(svid)

    def break_streams(self) -> None:
        for waiting in list(self._queues):
            waiting.put(None)

    def FetchX509SVID(self, _request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        self.streams += 1
        if self._current is None:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")
            return
        mine: queue.Queue[Svid | None] = queue.Queue()
        mine.put(self._current)
        self._queues.append(mine)
        context.add_callback(lambda: mine.put(None))
        try:
            while (svid := mine.get()) is not None:
                yield _message(svid)
        finally:
            self._queues.remove(mine)
        if context.is_active():
            # What the client holds for final: it closes its source for good.
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "broken on purpose")


def _message(svid: Svid) -> Any:
    key = load_pem_private_key(svid.key, None)
    return workload_pb2.X509SVIDResponse(
        svids=[
            workload_pb2.X509SVID(
                spiffe_id=svid.spiffe_id,
                x509_svid=x509.load_pem_x509_certificate(svid.chain).public_bytes(Encoding.DER),
                x509_svid_key=key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
                bundle=x509.load_pem_x509_certificate(svid.authorities).public_bytes(Encoding.DER),
            )
        ]
    )
