"""Watch of a view that continues over connections and servers; made by `Connection.watch`.

After a lost connection the watch continues from the last resume token:

1. The server sends the rows after that token again.
2. `WatchProgress` leaves out those that the program has already, so that each row at a position comes once.
3. Without a usable resume token the program gets a `reset` first, and then a snapshot.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import grpc
import grpc.aio

from diptych.client.errors import has_details
from diptych.v1.read_model_pb2 import Reset, WatchRequest, WatchResponse

SILENCE_SECONDS = 30.0
"""Time without a frame after which the connection counts as lost. The server sends one every 10 s."""

_LOST_CODES = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL)
"""Statuses of a lost connection; all but the first only without a reason of ours."""

_BACKOFF_FIRST_SECONDS, _BACKOFF_MAX_SECONDS = 0.05, 2.0


class WatchProgress:
    """The last resume token of a watch, and the rows after it.

    Args:
        request: The request, whose resume token is the one to continue from; updated with every frame.
    """

    def __init__(self, request: WatchRequest) -> None:
        self.request = request
        self._given_token = request.resume_token
        self._positions: dict[str, int] = {}
        """Rows after the last resume token: their keys and positions."""
        self._must_reset = False
        """True if the program has rows from which the watch cannot be resumed."""

    def discard_expired_token(self) -> bool:
        """Discard the resume token, which has expired. Return False if it is the token that the caller gave."""
        if self.request.resume_token == self._given_token:
            return False
        self.request.resume_token = ""
        self._must_reset = True
        return True

    def reset_before_resume(self) -> WatchResponse | None:
        """Return the reset that must precede the frames of the next connection; None if they continue."""
        if not self._must_reset:
            return None
        self._must_reset = False
        self._positions.clear()
        return WatchResponse(reset=Reset())

    def take(self, frame: WatchResponse) -> WatchResponse | None:
        """Record a frame. Return it without rows that came before; None if nothing is left of it."""
        positions = self._positions
        if frame.HasField("reset"):
            self.request.resume_token = ""
            self._must_reset = False
            positions.clear()
        elif frame.HasField("rows"):
            rows = [row for row in frame.rows.rows if positions.get(row.key) != row.position]
            if len(rows) < len(frame.rows.rows):
                frame = WatchResponse(resume_token=frame.resume_token)
                frame.rows.rows.extend(rows)
            for row in rows:
                positions[row.key] = row.position
            if not rows and not frame.resume_token:
                return None
            self._must_reset = self._must_reset or not self.request.resume_token
        if frame.resume_token:
            self.request.resume_token = frame.resume_token
            self._must_reset = False
            positions.clear()
        return frame


async def watch(
    channel: grpc.aio.Channel,
    request: WatchRequest,
    *,
    metadata: Sequence[tuple[str, str]],
    first_seconds: float,
    retry_seconds: float,
) -> AsyncGenerator[WatchResponse, None]:
    """Yield the frames of a watch. Closing the generator cancels the call.

    Args:
        channel: The channel to the query server.
        request: The request; it is changed.
        metadata: Metadata of every call.
        first_seconds: The time without any frame after which the watch fails.
        retry_seconds: The time since the last frame after which the watch fails.

    Raises:
        AioRpcError: The server refused the watch, or was not back in time.
        TimeoutError: The server sent no frame for `SILENCE_SECONDS` and was not back in time.
    """
    method: Any = channel.unary_stream(
        "/diptych.v1.ReadModelService/Watch",
        request_serializer=WatchRequest.SerializeToString,
        response_deserializer=WatchResponse.FromString,
    )
    progress = WatchProgress(request)
    until = time.monotonic() + first_seconds
    attempt = 0
    while True:
        call = method(progress.request, metadata=metadata)
        try:
            while isinstance(frame := await _read(call), WatchResponse):
                until = time.monotonic() + retry_seconds
                attempt = 0
                new = progress.take(frame)
                if new is not None:
                    yield new
        except grpc.aio.AioRpcError as error:
            expired = error.code() is grpc.StatusCode.OUT_OF_RANGE and progress.discard_expired_token()
            if not (expired or _is_lost(error)) or time.monotonic() >= until:
                raise
        except TimeoutError:
            if time.monotonic() >= until:
                raise
        finally:
            call.cancel()
        backoff = min(_BACKOFF_FIRST_SECONDS * 2**attempt, _BACKOFF_MAX_SECONDS)
        await asyncio.sleep(random.uniform(0.5, 1.0) * backoff)
        attempt = min(attempt + 1, 10)
        if (reset := progress.reset_before_resume()) is not None:
            yield reset


async def _read(call: Any) -> Any:
    async with asyncio.timeout(SILENCE_SECONDS):
        return await call.read()


def _is_lost(error: grpc.aio.AioRpcError) -> bool:
    """Return True if the connection was lost, and not refused by a server of ours."""
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return True
    return error.code() in _LOST_CODES and not has_details(error)
