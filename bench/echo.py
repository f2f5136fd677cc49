"""A bare grpc.aio server over mTLS that answers what it was sent: `python -m bench.echo ADDRESS KEY CHAIN BUNDLE`."""

from __future__ import annotations

import sys
from pathlib import Path

import grpc
import uvloop

METHOD = "/bench.Echo/Echo"


async def _echo(request: bytes, _context: object) -> bytes:
    return request


class _Handlers(grpc.GenericRpcHandler):
    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        return grpc.unary_unary_rpc_method_handler(_echo) if details.method == METHOD else None


async def main(address: str, key: bytes, chain: bytes, bundle: bytes) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Handlers(),))
    tls = grpc.ssl_server_credentials([(key, chain)], bundle, require_client_auth=True)
    server.add_secure_port(address, tls)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], *(Path(file).read_bytes() for file in sys.argv[2:5])))
