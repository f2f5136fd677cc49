"""A bare grpc.aio server over mTLS that answers the message that it was sent: `python -m bench.echo ADDRESS KEY CHAIN BUNDLE`."""

from __future__ import annotations

import sys
from pathlib import Path

import grpc
import uvloop

from broker.api.v1 import tools_pb2

METHOD = "/bench.Echo/Echo"


_Request = tools_pb2.AuthorizeActionRequest


async def _echo(request: _Request, _context: object) -> _Request:
    return request


class _Handlers(grpc.GenericRpcHandler):
    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[_Request, _Request] | None:
        if details.method != METHOD:
            return None
        return grpc.unary_unary_rpc_method_handler(
            _echo, request_deserializer=_Request.FromString, response_serializer=_Request.SerializeToString
        )


async def main(address: str, key: bytes, chain: bytes, bundle: bytes) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Handlers(),))
    tls = grpc.ssl_server_credentials([(key, chain)], bundle, require_client_auth=True)
    server.add_secure_port(address, tls)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], *(Path(file).read_bytes() for file in sys.argv[2:5])))
