"""Watching a view from a Python program: a watch that outlives connections and servers. `Connection.watch` makes it.

A connection that is lost is taken up again from the last resume token. What was told after that token comes again
then, and is left out: to the program it is one watch, in which each row at a position comes once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import grpc
import grpc.aio

from diptych.v1.read_model_pb2 import Reset, WatchRequest, WatchResponse

SILENCE_SECONDS = 30.0
"""A server that has said nothing for so long is gone: it says something every 10 s."""

_LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL)
"""How a watch ends that can be taken up again. All but the first: if no reason of ours is told."""

_PAUSE_FIRST, _PAUSE_MAX = 0.05, 2.0


class Watching:
    """What one watch has told, and where it can be taken up again."""

    def __init__(self, request: WatchRequest) -> None:
        self.request = request
        self._given = request.resume_token
        self._since: dict[str, int] = {}
        """The rows that were told after the last resume token, and their positions."""
        self._partial = False
        """Whether what was told cannot be resumed."""

    def too_late(self) -> bool:
        """Takes word that the resume token has expired; whether the watch can begin anew, as it was not given."""
        if self.request.resume_token == self._given:
            return False
        self.request.resume_token = ""
        self._partial = True
        return True

    def taken_up(self) -> WatchResponse | None:
        """What the program must be told before the watch is taken up again; None: nothing."""
        if not self._partial:
            return None
        self._partial = False
        self._since.clear()
        return WatchResponse(reset=Reset())

    def take(self, frame: WatchResponse) -> WatchResponse | None:
        """A frame without what was told before; None: all of it was."""
        since = self._since
        if frame.HasField("reset"):
            self.request.resume_token = ""
            self._partial = False
            since.clear()
        elif frame.HasField("rows"):
            rows = [row for row in frame.rows.rows if since.get(row.key) != row.position]
            if len(rows) < len(frame.rows.rows):
                frame = WatchResponse(resume_token=frame.resume_token)
                frame.rows.rows.extend(rows)
            for row in rows:
                since[row.key] = row.position
            if not rows and not frame.resume_token:
                return None
            self._partial = self._partial or not self.request.resume_token
        if frame.resume_token:
            self.request.resume_token = frame.resume_token
            self._partial = False
            since.clear()
        return frame


async def watch(
    channel: grpc.aio.Channel,
    request: WatchRequest,
    *,
    metadata: Sequence[tuple[str, str]],
    first_seconds: float,
    retry_seconds: float,
) -> AsyncGenerator[WatchResponse, None]:
    """The frames of a watch. Raises what gRPC raises when it is refused, or cannot be taken up again in time."""
    method: Any = channel.unary_stream(
        "/diptych.v1.ReadModelService/Watch",
        request_serializer=WatchRequest.SerializeToString,
        response_deserializer=WatchResponse.FromString,
    )
    watching = Watching(request)
    until = time.monotonic() + first_seconds
    attempt = 0
    while True:
        call = method(watching.request, metadata=metadata)
        try:
            while isinstance(frame := await _read(call), WatchResponse):
                until = time.monotonic() + retry_seconds
                attempt = 0
                told = watching.take(frame)
                if told is not None:
                    yield told
        except grpc.aio.AioRpcError as error:
            expired = error.code() is grpc.StatusCode.OUT_OF_RANGE and watching.too_late()
            if not (expired or _is_lost(error)) or time.monotonic() >= until:
                raise
        except TimeoutError:
            if time.monotonic() >= until:
                raise
        finally:
            call.cancel()
        await asyncio.sleep(random.uniform(0.5, 1.0) * min(_PAUSE_FIRST * 2**attempt, _PAUSE_MAX))
        attempt = min(attempt + 1, 10)
        if (first := watching.taken_up()) is not None:
            yield first


async def _read(call: Any) -> Any:
    async with asyncio.timeout(SILENCE_SECONDS):
        return await call.read()


def _is_lost(error: grpc.aio.AioRpcError) -> bool:
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return True
    told = any(key == "grpc-status-details-bin" for key, _ in error.trailing_metadata() or ())
    return error.code() in _LOST and not told
