"""A Workload API that a test tells what to answer."""

from __future__ import annotations

import queue
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from spiffe._proto import workload_pb2

from broker.client import Svid
from tests.unit.client.authority import Authority
from tests.unit.client.workload_api import WorkloadApi, _message


class SpireAgent(WorkloadApi):
    """Adds what an agent of the broker's has: other entries, federated bundles, JWT-SVIDs."""

    def __init__(self, socket: Path) -> None:
        self.others: list[Svid] = []
        self.federated: dict[str, Authority] = {}
        self.jwt_requests: list[tuple[str, list[str]]] = []
        self.hanging: threading.Event | None = None
        self.jwt_streams = 0
        self.jwt_bundles: queue.Queue[dict[str, bytes] | None] = queue.Queue()
        """What the stream of JWT bundles says next; None breaks it off."""
        super().__init__(socket)

    def FetchX509SVID(self, _request: Any, context: Any) -> Iterator[Any]:  # noqa: N802 - gRPC's name
        for answer in super().FetchX509SVID(_request, context):
            yield workload_pb2.X509SVIDResponse(
                svids=[*(other for svid in self.others for other in _message(svid).svids), *answer.svids],
                federated_bundles={
                    f"spiffe://{name}": x509.load_pem_x509_certificate(authority.pem).public_bytes(
                        Encoding.DER
                    )
                    for name, authority in self.federated.items()
                },
            )

    def FetchJWTBundles(self, _request: Any, context: Any) -> Iterator[Any]:  # noqa: N802 - gRPC's name
        self.jwt_streams += 1
        while context.is_active():
            try:
                bundles = self.jwt_bundles.get(timeout=0.05)
            except queue.Empty:
                continue
            if bundles is None:
                context.abort(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")
            yield workload_pb2.JWTBundlesResponse(bundles=bundles)

    def FetchJWTSVID(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        if self.hanging is not None:
            self.hanging.wait()
        self.jwt_requests.append((request.spiffe_id, list(request.audience)))
        if self._current is None:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")
        claims = {
            "sub": request.spiffe_id,
            "aud": list(request.audience),
            "exp": datetime.now(UTC) + timedelta(minutes=5),
        }
        token = jwt.encode(
            claims, ec.generate_private_key(ec.SECP256R1()), algorithm="ES256", headers={"kid": "k"}
        )
        return workload_pb2.JWTSVIDResponse(
            svids=[workload_pb2.JWTSVID(spiffe_id=request.spiffe_id, svid=token)]
        )


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose name is short enough for a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="tl-") as name:
        yield Path(name)


@pytest.fixture
def agent(folder: Path) -> Iterator[SpireAgent]:
    agent = SpireAgent(folder / "agent.sock")
    yield agent
    agent.break_streams()
    agent.server.stop(0).wait()
