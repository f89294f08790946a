"""Message types that a server describes by reflection: JSON of the events and rows of any domain."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator
from typing import Any

import typer
from google.protobuf import descriptor_pb2, descriptor_pool, json_format
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection_pb2

from diptych.client import import_contracts
from diptych.domain.package_origin import working_directory_first
from diptych.server.channels import CallError, Channel
from diptych.server.options import fail

_METHOD = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
_ANSWER_SECONDS = 10.0
_UNKNOWN_TYPE = re.compile(r"type_url: \S*?([\w.]+)\s*$")
"""End of protobuf's error for a packed message of an unknown type."""


class ReflectedTypes:
    """Types of packed messages: those that this program has imported, else those that a server describes.

    Each type is requested once, with all types that it uses. They are kept in a pool of their own: their files may
    differ from those that this program has imported. A type that the server does not describe is named on stderr once.
    """

    def __init__(self, channel: Channel, server: str) -> None:
        """Create it without types.

        Args:
            channel: Channel to the server.
            server: Name and address of the server for messages.
        """
        self._channel = channel
        self._server = server
        self._pool = descriptor_pool.DescriptorPool()
        self._files: set[str] = set()
        self._requested: set[str] = set()

    async def fields(self, message: Message) -> dict[str, Any] | None:
        """Return a message as JSON fields; None if it has a packed message of an unknown type.

        Args:
            message: A message that may have packed messages, at any depth.
        """
        try:
            return _as_dict(message, None)
        except TypeError:  # This program has not imported a type.
            pass
        while True:
            try:
                return _as_dict(message, self._pool)
            except TypeError as error:
                unknown = _UNKNOWN_TYPE.search(str(error))
                if unknown is None or unknown[1] in self._requested:
                    return None
                await self._add_type(unknown[1])

    async def packed_fields(self, packed: AnyMessage) -> dict[str, Any]:
        """Return a packed message as JSON fields without its type; its bytes as base64 if the type is unknown."""
        fields = await self.fields(packed)
        if fields is None:
            return {"value": base64.b64encode(packed.value).decode("ascii")}
        return {name: value for name, value in fields.items() if name != "@type"}

    async def _add_type(self, name: str) -> None:
        """Request a type and add it to the pool. If that fails, say why its messages are printed as bytes."""
        self._requested.add(name)
        try:
            answer = await self._request(name)
        except CallError as error:
            cause = f"{error.code().name}: {error.details()}"
        else:
            if answer.HasField("file_descriptor_response"):
                cause = self._add_files(answer.file_descriptor_response.file_descriptor_proto)
            else:
                cause = answer.error_response.error_message
        if cause:
            typer.echo(
                f"{name} is printed as bytes in base64: the {self._server} does not describe it by reflection "
                f"({cause}). Give --domain PACKAGE with a Python package that has its contract.",
                err=True,
            )

    async def _request(self, name: str) -> reflection_pb2.ServerReflectionResponse:
        async def requests() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
            yield reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)

        rpc: Any = self._channel.stream_stream(
            _METHOD,
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        async for answer in rpc(requests(), timeout=_ANSWER_SECONDS):
            response: reflection_pb2.ServerReflectionResponse = answer
            return response
        return reflection_pb2.ServerReflectionResponse()

    def _add_files(self, serialized: Any) -> str:
        """Add files to the pool, each after its imports; return the cause if one is missing or wrong."""
        files = {file.name: file for file in map(descriptor_pb2.FileDescriptorProto.FromString, serialized)}

        def add(name: str) -> None:
            if name in self._files or name not in files:
                return
            self._files.add(name)
            for imported in files[name].dependency:
                add(imported)
            self._pool.Add(files[name])

        try:
            for name in files:
                add(name)
        except TypeError as error:
            return str(error)
        return ""


def _as_dict(message: Message, pool: descriptor_pool.DescriptorPool | None) -> dict[str, Any]:
    """Return a message as JSON fields. Raise `TypeError` for a packed message of a type that is not in the pool."""
    fields: dict[str, Any] = json_format.MessageToDict(message, descriptor_pool=pool)
    return fields


def import_domain(command: str, domain: str) -> None:
    """Import the contracts of a domain that an option names; end the program if it has none.

    Args:
        command: Name of the command, for its error.
        domain: Python package of the domain; empty: none.
    """
    if not domain:
        return
    try:
        with working_directory_first(domain):
            import_contracts(f"{domain}.v1")
    except ModuleNotFoundError as error:
        fail(command, f"--domain {domain}: {error}. Leave --domain out: the server describes its types.", status=1)
