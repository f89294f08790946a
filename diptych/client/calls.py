"""Unary calls, repeated while their server is UNAVAILABLE."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential

from diptych.client.errors import CallRefused, token_in
from diptych.client.methods import Method

_BACKOFF_FIRST_SECONDS, _BACKOFF_MAX_SECONDS = 0.05, 2


class Calls:
    """The unary calls of one connection.

    Args:
        metadata: Metadata of every call.
        timeout_seconds: The deadline of a call without one.
        retry_seconds: The time for which a call is repeated; 0: not at all.
        on_token: Called with the token of every response and error; an empty text without one.
    """

    def __init__(
        self,
        *,
        metadata: Sequence[tuple[str, str]],
        timeout_seconds: float,
        retry_seconds: float,
        on_token: Callable[[str], None],
    ) -> None:
        self._metadata = tuple(metadata)
        self._timeout_seconds = timeout_seconds
        self._retry_seconds = retry_seconds
        self._on_token = on_token
        self._bound: dict[tuple[grpc.aio.Channel, str], Any] = {}

    async def call(
        self,
        channel: grpc.aio.Channel,
        method: Method,
        request: Message,
        timeout_seconds: float | None,
        metadata: Mapping[str, str] | None,
    ) -> Any:
        """Call an rpc and return its response. Cancelling it cancels the call.

        Args:
            channel: The channel to the server.
            method: The rpc.
            request: The request.
            timeout_seconds: The deadline of one attempt; None: the connection's.
            metadata: Metadata beside the connection's.

        Raises:
            CallRefused: The call ended with an error.
        """
        key = (channel, method.path)
        if key not in self._bound:
            self._bound[key] = channel.unary_unary(
                method.path,
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=method.response.FromString,
            )
        bound = self._bound[key]
        all_metadata = (*self._metadata, *(metadata or {}).items())
        timeout = self._timeout_seconds if timeout_seconds is None else timeout_seconds

        async def attempt() -> Any:
            call = bound(request, metadata=all_metadata, timeout=timeout)
            try:
                response = await call
            except grpc.aio.AioRpcError as error:
                refused = CallRefused.of(error)
                self._on_token(refused.token)
                raise refused from None
            self._on_token(token_in(await call.trailing_metadata()))
            return response

        if not self._retry_seconds:
            return await attempt()
        return await retrying(self._retry_seconds)(attempt)


def retrying(seconds: float) -> AsyncRetrying:
    """Return the retry policy of calls: exponential backoff with jitter while the server is UNAVAILABLE.

    Args:
        seconds: The time after which no attempt begins.
    """
    return AsyncRetrying(
        retry=retry_if_exception(_is_unavailable),
        stop=stop_after_delay(seconds),
        wait=wait_random_exponential(multiplier=_BACKOFF_FIRST_SECONDS, max=_BACKOFF_MAX_SECONDS),
        reraise=True,
    )


def _is_unavailable(error: BaseException) -> bool:
    return isinstance(error, CallRefused) and error.code is grpc.StatusCode.UNAVAILABLE
