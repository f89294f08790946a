"""The seam between a transport and the handlers: `TransportCall` below the router, `RequestContext` above it.

A handler sees one `RequestContext` for each call and nothing of the transport. The router reads a call's metadata and
writes its trailers through `TransportCall`, whose methods are the ones of `grpc.aio.ServicerContext` that the router
needs. gRPC therefore needs no adapter for each call; another transport implements the same six methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from diptych.contract.reasons import InvalidRequest, TokenMalformed, TokenOfAnotherLog, TokenOfOlderEpoch
from diptych.contract.token import TOKEN_KEY, LogIdentity, Token

REQUEST_ID_KEY = "diptych-request-id"
"""Metadata key of a request id."""

TRACEPARENT_KEY = "traceparent"
"""Metadata key of a trace context (W3C Trace Context)."""

Trailers = tuple[tuple[str, str | bytes], ...]


class TransportCall(Protocol):
    """One call, as its transport provides it."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """Return the metadata that came with the request, keys in lower case."""

    def time_remaining(self) -> float | None:
        """Return the seconds until the caller's deadline; None without a deadline."""

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback` with one argument when the call has ended, cancelled calls included."""

    def set_trailing_metadata(self, trailing_metadata: Trailers) -> None:
        """Set the trailers to send when the call ends."""

    def set_code(self, code: int) -> None:
        """Set the status code to send when the call ends, a `google.rpc.Code`. OK if never set."""

    def set_details(self, details: str) -> None:
        """Set the status message to send when the call ends."""


class RequestContext:
    """One call, as its handler sees it. The router makes one for each call.

    A handler learns of cancellation by `asyncio.CancelledError` at its current await.

    Attributes:
        token: Token for the call's trailers, of its answer and of its refusal alike. A handler sets it; the router
            sends it when the call ends. Empty: no token is sent.
    """

    __slots__ = ("_call", "_metadata", "token")

    def __init__(self, call: TransportCall) -> None:
        self._call = call
        self._metadata: Iterable[tuple[str, str | bytes]] | None = None
        self.token = ""

    def metadata(self) -> Iterable[tuple[str, str | bytes]]:
        """Return the request's metadata. It is read from the transport once, at the first use."""
        metadata = self._metadata
        if metadata is None:
            metadata = self._metadata = self._call.invocation_metadata() or ()
        return metadata

    def metadata_values(self, key: str) -> list[str]:
        """Return all values of `key` in the request's metadata. A value with commas is several, as gRPC says."""
        values: list[str] = []
        for name, value in self.metadata():
            if name == key:
                text = value if isinstance(value, str) else value.decode("ascii", "replace")
                if "," in text:
                    values.extend(part for part in map(str.strip, text.split(",")) if part)
                else:
                    values.append(text)
        return values

    def metadata_value(self, key: str) -> str:
        """Return the last value of `key` in the request's metadata; empty if there is none."""
        value: str | bytes = ""
        for name, each in self.metadata():
            if name == key:
                value = each
        return value if isinstance(value, str) else value.decode("ascii", "replace")

    @property
    def presented_tokens(self) -> tuple[str, ...]:
        """Tokens that the caller sent in the metadata, unparsed. A value of the metadata may have several."""
        metadata = self._metadata
        if metadata is None:  # As in `metadata`, without its call: every query comes through here.
            metadata = self._metadata = self._call.invocation_metadata() or ()
        tokens = tuple([str(value) for name, value in metadata if name == TOKEN_KEY])
        if any("," in token for token in tokens):
            return tuple(self.metadata_values(TOKEN_KEY))
        return tokens

    def presented_token(self, identity: LogIdentity) -> str:
        """Return the greatest token of a log that the caller sent; empty without one.

        Tokens that are malformed, of another log, of an epoch that the log does not have, or of events that it has
        lost are left out: a caller that keeps the greatest token it is answered with would never get rid of one.
        """
        presented = ""
        for text in self.presented_tokens:
            try:
                token = Token.parse(text)
                identity.judge(token)
                if identity.is_newer(token):
                    continue
            except (TokenMalformed, TokenOfAnotherLog, TokenOfOlderEpoch):
                continue
            presented = max(presented, text)
        return presented

    @property
    def request_id(self) -> str:
        """Request id from the metadata, unchecked; empty without one. Of several the last, for log lines."""
        return self.metadata_value(REQUEST_ID_KEY)

    def only_request_id(self) -> str:
        """Return the request id from the metadata, unchecked; empty without one.

        Raises:
            InvalidRequest: The metadata has two different request ids.
        """
        if not self.request_id:
            return ""
        request_ids = set(self.metadata_values(REQUEST_ID_KEY))
        if len(request_ids) > 1:
            raise InvalidRequest.of(
                (
                    REQUEST_ID_KEY,
                    "the metadata must name one request id; send an id with a comma in the field context.request_id",
                )
            )
        return request_ids.pop() if request_ids else ""

    @property
    def traceparent(self) -> str:
        """Trace context from the metadata, unchecked; empty without one."""
        return self.metadata_value(TRACEPARENT_KEY)

    @property
    def actor(self) -> str:
        """Identity of the caller. Empty: callers are not authenticated yet."""
        return ""

    def time_remaining(self) -> float | None:
        """Return the seconds until the caller's deadline; None without a deadline."""
        return self._call.time_remaining()

    def wait_seconds(self, without_deadline: float) -> float:
        """Return how many seconds the handler may wait and still answer before the caller's deadline.

        The reserve for the answer is 5 % of the remaining time, at least 5 and at most 250 milliseconds.

        Args:
            without_deadline: Seconds to return if the call has no deadline.
        """
        remaining = self._call.time_remaining()
        if remaining is None:
            return without_deadline
        return max(0.0, remaining - min(0.25, max(0.005, remaining * 0.05)))

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the call has ended, also if its client vanished while a message was on its way."""
        self._call.add_done_callback(lambda _: callback())
