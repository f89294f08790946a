"""Rpcs of a domain, by the types of their requests."""

from __future__ import annotations

import importlib
import pkgutil
from contextlib import suppress
from typing import NamedTuple

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message

from diptych.domain.ids import new_id
from diptych.v1 import commands_pb2


class Method(NamedTuple):
    """An rpc: its path and the type of its response."""

    path: str
    response: type[Message]

    @property
    def service(self) -> str:
        """The full name of its service."""
        return self.path.split("/")[1]


_methods: dict[str, Method] = {}
"""By the full name of the request's type."""


def method_of(request: type[Message]) -> Method:
    """Return the rpc of a domain's CommandService or QueryService with this request.

    Args:
        request: The request type.

    Raises:
        LookupError: No rpc of the two services has this request.
    """
    name = request.DESCRIPTOR.full_name
    if name not in _methods:
        package = request.DESCRIPTOR.file.package
        import_contracts(package)
        pool = descriptor_pool.Default()
        for service in ("CommandService", "QueryService"):
            with suppress(KeyError):
                for method in pool.FindServiceByName(f"{package}.{service}").methods:
                    response = message_factory.GetMessageClass(method.output_type)
                    _methods[method.input_type.full_name] = Method(f"/{package}.{service}/{method.name}", response)
    try:
        return _methods[name]
    except KeyError:
        raise LookupError(f"{name} is the request of no rpc of its package's CommandService or QueryService.") from None


def import_contracts(package: str) -> None:
    """Import the generated modules of a proto package, so that the descriptor pool has its messages and services.

    Args:
        package: The proto package, which is also the Python package of the modules.

    Raises:
        ModuleNotFoundError: There is no such Python package.
    """
    module_package = importlib.import_module(package)
    for module in pkgutil.iter_modules(module_package.__path__):
        if module.name.endswith("_pb2"):
            importlib.import_module(f"{package}.{module.name}")


def with_context(command: Message, *, request_id: str | None = None, expected_version: int | None = None) -> Message:
    """Return a copy of a command with these values in its context.

    Args:
        command: The command.
        request_id: The request id. None: the one in the command's context, or else a new one.
        expected_version: The version that the aggregate must have. None: the one in the command's context.
    """
    copy = type(command)()
    copy.CopyFrom(command)
    context: commands_pb2.CommandContext = copy.context  # type: ignore[attr-defined]
    if request_id is not None:
        context.request_id = request_id
    if not context.request_id:
        context.request_id = new_id()
    if expected_version is not None:
        context.expected_version = expected_version
    return copy
