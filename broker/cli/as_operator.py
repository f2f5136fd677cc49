"""Calls of operators to the broker: who runs a command, where the broker is, and what went wrong.

Whoever runs it is known to the broker by an X.509-SVID: from SPIRE's Workload API, or from files, for the day on which
that does not work. The broker's settings say who is an operator.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, NoReturn, TypeVar

import typer
from cryptography import x509

from broker.cli.output import fail
from broker.client import BrokerError, StaticIdentity, Svid
from broker.client.connection import Connection
from broker.client.errors import (
    Denied,
    InvalidRequest,
    NoIdentity,
    NotConnected,
    Unauthenticated,
)
from broker.client.identity import Identity, WorkloadApiIdentity

NO_WAY_IN: Final = 2
"""Exit code: nobody was asked, or the question was wrong."""

_PATIENCE: Final = timedelta(seconds=10)

ReasonOption = Annotated[str, typer.Option("--reason", "-r", help="Why, in words: kept and audited.")]
BrokerOption = Annotated[
    str, typer.Option(envvar="TASKLEASE_BROKER", help="The broker's address: HOST:PORT.")
]
BrokerIdOption = Annotated[
    str,
    typer.Option(envvar="TASKLEASE_BROKER_ID", help="The broker's SPIFFE ID, if it is not the usual one."),
]
SvidOption = Annotated[
    Path | None,
    typer.Option(help="Your SVID as a PEM file, instead of the Workload API; with --key, --bundle."),
]
KeyOption = Annotated[Path | None, typer.Option(help="Its private key, PEM.")]
BundleOption = Annotated[Path | None, typer.Option(help="The bundle of its trust domain, PEM.")]
TimeoutOption = Annotated[float, typer.Option(help="Seconds for the call.", min=1, max=300)]

Result = TypeVar("Result")


def identity_of(svid: Path | None, key: Path | None, bundle: Path | None) -> Identity:
    """Who runs the command: by the Workload API, or by three files. Ends the command where that is wrong."""
    if svid is None and key is None and bundle is None:
        return WorkloadApiIdentity()
    if svid is None or key is None or bundle is None:
        fail("--svid, --key and --bundle belong together", code=NO_WAY_IN)
    try:
        chain, key_pem, authorities = (path.read_bytes() for path in (svid, key, bundle))
        leaf = x509.load_pem_x509_certificate(chain)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (spiffe_id,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", code=NO_WAY_IN)
    except (ValueError, x509.ExtensionNotFound):
        fail(f"{svid} holds no X.509-SVID", code=NO_WAY_IN)
    return StaticIdentity(Svid(spiffe_id=spiffe_id, chain=chain, key=key_pem, authorities=authorities))


def call_broker(
    work: Callable[[Connection], Awaitable[Result]], broker: str, broker_id: str, identity: Identity
) -> Result:
    """Connect, call, disconnect. Ends the command with a text where that does not work."""
    if not broker:
        fail("where is the broker? --broker HOST:PORT, or TASKLEASE_BROKER", code=NO_WAY_IN)

    async def connected() -> Result:
        await identity.start(_PATIENCE)
        connection = Connection(address=broker, identity=identity, broker_id=broker_id or None)
        try:
            await connection.open(_PATIENCE)
            return await work(connection)
        finally:
            await connection.close()
            await identity.close()

    try:
        return asyncio.run(connected())
    except BrokerError as error:
        _explain(error, identity)


def _explain(error: BrokerError, identity: Identity) -> NoReturn:
    match error:
        case Denied(reason="OPERATOR_UNKNOWN" | "OPERATOR_ROLE_MISSING"):
            fail(f"{error}\nyou are {identity.svid().spiffe_id}", code=1)
        case NoIdentity() | NotConnected() | Unauthenticated() | InvalidRequest():
            fail(str(error), code=NO_WAY_IN)
        case _:
            fail(str(error))
