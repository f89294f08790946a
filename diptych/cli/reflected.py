"""Rpcs of a server as its reflection service describes them, with the types of their messages."""

from __future__ import annotations

from typing import Any, NamedTuple

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from diptych.contract.suggestions import did_you_mean


class UnknownRpc(Exception):
    """A service or method that the server does not have. The message names similar ones."""


class Rpc(NamedTuple):
    """An rpc of a server."""

    path: str
    request: type[Message]
    response: type[Message]
    client_streaming: bool
    server_streaming: bool
    pool: Any
    """Descriptors of the server, for messages inside `google.protobuf.Any`."""


def find_rpc(channel: grpc.Channel, service: str, method: str) -> Rpc:
    """Return an rpc of a server.

    Args:
        channel: Channel to the server.
        service: Full name of the service.
        method: Name of the method.

    Raises:
        UnknownRpc: The server has no such rpc.
        grpc.RpcError: The server did not answer.
    """
    database: Any = ProtoReflectionDescriptorDatabase(channel)
    services = list(database.get_services())
    if service not in services:
        raise UnknownRpc(f"there is no service {service!r}.{did_you_mean(service, services)}")
    pool = descriptor_pool.DescriptorPool(descriptor_db=database)
    try:
        methods = {each.name: each for each in pool.FindServiceByName(service).methods}
    except KeyError:
        raise UnknownRpc(f"reflection lists {service} and does not describe it.") from None
    if method not in methods:
        raise UnknownRpc(f"{service} has no method {method!r}.{did_you_mean(method, methods)}")
    rpc = methods[method]
    return Rpc(
        path=f"/{service}/{method}",
        request=message_factory.GetMessageClass(rpc.input_type),
        response=message_factory.GetMessageClass(rpc.output_type),
        client_streaming=rpc.client_streaming,
        server_streaming=rpc.server_streaming,
        pool=pool,
    )
