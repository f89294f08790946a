"""Calls of the operator's commands: one call on a channel of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeVar

from google.protobuf.message import Message

from diptych.client import CallRefused
from diptych.server.channels import Channel, open_client_channel

Response = TypeVar("Response", bound=Message)


async def call(
    channel: Channel, method: str, request: Message, response: type[Response], seconds: float | None = None
) -> Response:
    """Call a unary rpc.

    Args:
        channel: Channel to the server.
        method: Full name, such as `diptych.v1.ProjectionService/Pause`.
        request: Request message.
        response: Type of the response.
        seconds: Deadline; None for a call that may take any time.

    Raises:
        CallError: The server refused the call or did not answer.
    """
    rpc: Any = channel.unary_unary(
        f"/{method}", request_serializer=type(request).SerializeToString, response_deserializer=response.FromString
    )
    answer: Response = await rpc(request, timeout=seconds)
    return answer


async def call_at(
    address: str, method: str, request: Message, response: type[Response], seconds: float | None = None
) -> Response:
    """Call a unary rpc of the server with an address, as `call` does on a channel."""
    async with open_client_channel(address) as channel:
        return await call(channel, method, request, response, seconds)


async def stream(channel: Channel, method: str, request: Message, response: type[Response]) -> AsyncIterator[Response]:
    """Call an rpc with a stream of responses, and yield them. Raise `CallError` as `call` does."""
    rpc: Any = channel.unary_stream(
        f"/{method}", request_serializer=type(request).SerializeToString, response_deserializer=response.FromString
    )
    async for answer in rpc(request):
        yield answer


def describe_failure(server: str, refused: CallRefused, *, verb: str = "refused") -> str:
    """Return a sentence on a failed call. An error without a reason is gRPC's own: the server did not answer.

    Args:
        server: Name and address, such as `projector at 127.0.0.1:50053`.
        refused: Error of the call.
        verb: Predicate for an error that the server itself made.
    """
    return f"the {server} {verb if refused.reason else 'did not answer'}: {refused}"
