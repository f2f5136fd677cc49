"""Processes that the tests run on the real stack: `python -m tests.integration.spire.workloads NAME SOCKET`.

`asker` asks the Workload API once for each line that it reads, and says what it got. `broker` keeps the broker's
identity as the broker does, and says each SVID that it has. Both answer in JSON, a line each.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import timedelta

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from spiffe import WorkloadApiClient
from spiffe.errors import PySpiffeError

from broker.adapters.spire.identity import WorkloadIdentity
from broker.devstack.state import BROKER_ID
from broker.domain.spiffe import SpiffeId


def say(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def asker(socket: str) -> None:
    with WorkloadApiClient(socket_path=socket, default_timeout=10) as client:
        for _line in sys.stdin:
            try:
                svids = client.fetch_x509_svids()
            except PySpiffeError as error:
                say(refused=str(error))
                continue
            say(
                names=[str(svid.spiffe_id) for svid in svids],
                chains=[
                    [item.public_bytes(Encoding.PEM).decode() for item in svid.cert_chain] for svid in svids
                ],
            )


async def broker(socket: str) -> None:
    identity = WorkloadIdentity(endpoint_socket=socket, expected_id=SpiffeId.parse(BROKER_ID))
    await identity.start(patience=timedelta(seconds=30))
    token = await identity.fetch_jwt_svid("vault")
    say(jwt=jwt.decode(token.reveal(), options={"verify_signature": False})["sub"])
    said = ""
    while True:
        leaf = x509.load_pem_x509_certificate(identity.svid.chain_pem)
        if said != (said := str(leaf.serial_number)):
            say(serial=said, version=identity.version)
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    name, address = sys.argv[1:]
    if name == "asker":
        asker(address)
    else:
        asyncio.run(broker(address))
