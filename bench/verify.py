"""What verifying the caller costs a call: the gate's own verification, inside real calls over mTLS.

The server is in this process, so that its verification can be timed: a real gate before health's Check, an SVID of
SPIRE's on both sides. A warm peer was seen before; for a cold one the verifier forgets everything before each call.
A token's bundle is SPIRE's as well.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from jwt import PyJWK

from bench.figures import percentile
from bench.stack import AGENT_CLASS, Measured
from broker.adapters.spire.identity import TrustBundle
from broker.adapters.spire.jwt_bundles import JwtBundle
from broker.adapters.spire.jwt_verifier import JwtSvidVerifier
from broker.adapters.spire.verifier import SvidVerifier
from broker.adapters.store.sqlite import SqliteStore
from broker.adapters.system.clock import SystemClock
from broker.adapters.system.ids import RandomIds
from broker.client import Svid
from broker.demo.callers import svid_of
from broker.devstack.spire import BROKER_DNS_NAME, Spire
from broker.devstack.state import BROKER_ID, TRUST_DOMAIN
from broker.domain.operators import Operators
from broker.domain.peer import VerifiedPeer
from broker.domain.spiffe import SpiffeId
from broker.server.gate import Gate
from broker.server.rate_limit import RateLimit
from broker.server.rpc_table import RpcRule
from broker.usecases.record_refusal import RecordRefusal

WARM_UP = 200
AUDIENCE = "bench"


class _Nobody:
    def holds(self, _spiffe_id: SpiffeId) -> bool:
        return False


class _Timed(Gate):
    """Takes the time of each verification."""

    times: list[float]
    before: Callable[[], object]

    def _verify(
        self, method: str, rule: RpcRule, context: grpc.aio.ServicerContext[Any, Any]
    ) -> VerifiedPeer:
        self.before()
        began = time.perf_counter()
        peer = super()._verify(method, rule, context)
        self.times.append(time.perf_counter() - began)
        return peer


async def a_call(measured: Measured, folder: Path, *, runs: int) -> dict[str, float]:
    """p50 and p99 for a warm peer, a cold peer, and tokens."""
    spire = measured.stack.spire
    verifier = SvidVerifier(
        bundle_of={TRUST_DOMAIN: _bundle(spire)}.get, quarantine=_Nobody(), clock=SystemClock()
    )
    gate = _Timed(
        verifier=verifier,
        operators=Operators(broker=SpiffeId.parse(BROKER_ID), grants=()),
        record_refusal=RecordRefusal(
            store=SqliteStore.open(f"sqlite:///{folder / 'refusals.db'}"), clock=SystemClock()
        ),
        rate_limit=RateLimit(rate=1e9, burst=1e9),
        max_concurrent_calls=64,
        clock=SystemClock(),
        ids=RandomIds(),
    )
    gate.times, gate.before = [], lambda: None
    peer = _minted(spire, spire.instance_id(AGENT_CLASS, "verify"), folder / "peer")
    own = _minted(spire, BROKER_ID, folder / "own", BROKER_DNS_NAME)
    server = grpc.aio.server(interceptors=(gate,))
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    tls = grpc.ssl_server_credentials([(own.key, own.chain)], own.authorities, require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", tls)
    await server.start()
    try:
        credentials = grpc.ssl_channel_credentials(peer.authorities, peer.key, peer.chain)
        options = [("grpc.ssl_target_name_override", BROKER_DNS_NAME)]
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            warm = await _times(gate, stub, runs)
            gate.before = verifier.forget
            cold = await _times(gate, stub, runs)
    finally:
        await server.stop(0)
    return {
        "verify.runs": runs,
        "verify.p50_ms": percentile(warm, 50) * 1000,
        "verify.p99_ms": percentile(warm, 99) * 1000,
        "verify.cold_p50_ms": percentile(cold, 50) * 1000,
        "verify.cold_p99_ms": percentile(cold, 99) * 1000,
        **_tokens(spire, runs),
    }


async def _times(gate: _Timed, stub: health_pb2_grpc.HealthStub, runs: int) -> list[float]:
    gate.times.clear()
    for _ in range(WARM_UP + runs):
        await stub.Check(health_pb2.HealthCheckRequest())
    return gate.times[WARM_UP:]


def _tokens(spire: Spire, runs: int) -> dict[str, float]:
    """Without a connection around it: a token is a header, not something of the connection."""
    keys = {
        key["kid"]: PyJWK(key).key for key in json.loads(spire.bundle())["keys"] if key["use"] == "jwt-svid"
    }
    verifier = JwtSvidVerifier(
        audience=AUDIENCE,
        max_validity=timedelta(minutes=10),
        bundle_of={TRUST_DOMAIN: JwtBundle.of(TRUST_DOMAIN, keys)}.get,
        quarantine=_Nobody(),
        clock=SystemClock(),
    )
    token = spire.mint_jwt(
        spire.instance_id(AGENT_CLASS, "verify"), audience=AUDIENCE, ttl=timedelta(minutes=5)
    )
    found = {}
    for name in ("jwt", "jwt_cold"):
        times = []
        for _ in range(WARM_UP + runs):
            if name == "jwt_cold":
                verifier.forget()
            began = time.perf_counter()
            verifier.verify(token)
            times.append(time.perf_counter() - began)
        found[f"verify.{name}_p50_ms"] = percentile(times[WARM_UP:], 50) * 1000
    return found


def _bundle(spire: Spire) -> TrustBundle:
    authorities = [
        x509.load_pem_x509_certificate(
            f"-----BEGIN CERTIFICATE-----{os.linesep}{key['x5c'][0]}{os.linesep}-----END CERTIFICATE-----".encode()
        )
        for key in json.loads(spire.bundle())["keys"]
        if key["use"] == "x509-svid"
    ]
    return TrustBundle(trust_domain=TRUST_DOMAIN, authorities=tuple(authorities), digest="bench")


def _minted(spire: Spire, spiffe_id: str, folder: Path, *dns_names: str) -> Svid:
    files = spire.mint(spiffe_id, ttl=timedelta(hours=1), folder=folder, dns_names=dns_names)
    return svid_of(files, spiffe_id)
