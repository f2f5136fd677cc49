"""TLS for the gRPC server, with an SVID that rotates without a restart: mTLS, or the server's side alone.

gRPC asks for credentials at each new connection, on a thread of its own. If asking raised, it would go on with the
old ones; so it never raises here: it answers with new ones, or with None for "as before". The roots are those of
every trust domain together, because Python's gRPC knows one pool alone; that is why the verifier, and not this,
says who is calling.
"""

from __future__ import annotations

import logging

import grpc

from broker.adapters.spire.identity import WorkloadIdentity

logger = logging.getLogger(__name__)


def server_credentials(
    identity: WorkloadIdentity, *, demand_certificate: bool = True
) -> grpc.ServerCredentials:
    """Credentials that follow `identity`.

    Without `demand_certificate` none is asked for, and one that a client has all the same is not seen: a connection
    with a certificate is always one whose key was shown.
    """
    served = -1

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal served
        version = identity.version
        if version == served:
            return None
        try:
            configuration = _configuration(identity)
        except Exception as error:  # noqa: BLE001 - raising would be as bad, and silent
            logger.error("the new SVID cannot be served: %s", type(error).__name__)
            return None
        served = version
        return configuration

    initial = _configuration(identity)
    return grpc.dynamic_ssl_server_credentials(
        initial,
        fetch,  # type: ignore[arg-type]  # None is "as before", says grpc's documentation; its types do not
        require_client_authentication=demand_certificate,
    )


def _configuration(identity: WorkloadIdentity) -> grpc.ServerCertificateConfiguration:
    svid = identity.svid
    return grpc.ssl_server_certificate_configuration(
        [(svid.key_pem.reveal().encode(), svid.chain_pem)], root_certificates=identity.all_roots_pem()
    )
