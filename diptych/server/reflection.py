"""Reflection: gRPC's reflection service, which describes the contracts of the services bound.

It is served as `grpc.reflection.v1` and as `v1alpha`, which have the same messages under two package names. Python
ships the descriptors of `v1alpha` only, so those of `v1` are a copy with the other name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from grpc_reflection.v1alpha import reflection, reflection_pb2

from diptych.contract.validation import parse
from diptych.server.request_context import RequestContext
from diptych.server.router import Router

REFLECTION = "grpc.reflection.v1.ServerReflection"
REFLECTION_ALPHA: str = reflection.SERVICE_NAME

_ALPHA_PACKAGE = "grpc.reflection.v1alpha"
_PACKAGE = "grpc.reflection.v1"
_FILE = "grpc/reflection/v1/reflection.proto"


def bind_reflection(router: Router, services: Iterable[str]) -> None:
    """Bind the reflection service in both versions.

    Args:
        router: The router to bind to.
        services: Full names of the services to list. Reflection adds itself.
    """
    _add_descriptors()
    pool = _SymbolPool(descriptor_pool.Default())
    servicer: Any = reflection.aio.ReflectionServicer((*services, REFLECTION, REFLECTION_ALPHA), pool)

    async def parsed(requests: AsyncIterator[bytes]) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        async for data in requests:
            yield parse(reflection_pb2.ServerReflectionRequest, data)

    async def info(requests: AsyncIterator[bytes], context: RequestContext) -> AsyncIterator[bytes]:
        async for answer in servicer.ServerReflectionInfo(parsed(requests), context):
            yield answer.SerializeToString()

    for name in (REFLECTION, REFLECTION_ALPHA):
        router.bind_duplex(name, "ServerReflectionInfo", info)


class _SymbolPool:
    """The pool of all descriptors, with look-ups of symbols that are members of another one.

    protobuf finds files by the names of messages, fields, enums and services, but not by the names of methods,
    oneofs and enum values.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802 - the name of protobuf
        """Return the file that defines a symbol. Raise `KeyError` if none does."""
        try:
            file: FileDescriptor = self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            parent, _, member = symbol.rpartition(".")
            file = self._pool.FindFileContainingSymbol(parent)
            if not self._has_member(parent, member):
                raise
        return file

    def _has_member(self, parent: str, member: str) -> bool:
        for find, tables in (
            (self._pool.FindServiceByName, ("methods_by_name",)),
            (self._pool.FindMessageTypeByName, ("oneofs_by_name", "enum_values_by_name")),
            (self._pool.FindEnumTypeByName, ("values_by_name",)),
        ):
            try:
                descriptor = find(parent)
            except KeyError:
                continue
            return any(member in getattr(descriptor, table) for table in tables)
        return False


def _add_descriptors() -> None:
    """Add the descriptors of `grpc.reflection.v1` to the pool, if no other module has added them."""
    pool = descriptor_pool.Default()
    try:
        pool.FindFileByName(_FILE)
    except KeyError:
        file = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(file)
        file.name, file.package = _FILE, _PACKAGE
        for message in file.message_type:
            for field in filter(lambda one: one.type_name, message.field):
                field.type_name = _renamed(field.type_name)
        for service in file.service:
            for method in service.method:
                method.input_type, method.output_type = _renamed(method.input_type), _renamed(method.output_type)
        pool.Add(file)


def _renamed(type_name: str) -> str:
    return type_name.replace(f".{_ALPHA_PACKAGE}.", f".{_PACKAGE}.")
