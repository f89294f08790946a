"""Port to the mail provider: sends a line of JSON to `LIBRARY_MAIL` and reads a line of JSON."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from diptych import Calling, Effect, EffectFailed, Port
from library.v1.events_pb2 import SendNoticeRequest, SendNoticeResponse


async def _send(request: SendNoticeRequest, calling: Calling) -> SendNoticeResponse:
    host, _, port = os.environ["LIBRARY_MAIL"].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        request_line = {
            "key": calling.key,
            "email": request.email,
            "text": request.text,
            "attempt": calling.attempt,
            "correlation_id": calling.correlation_id,
            "traceparent": calling.traceparent,
        }
        writer.write(json.dumps(request_line).encode() + b"\n")
        answer = json.loads(await reader.readline())
    finally:
        writer.close()
    if "reason" in answer:
        raise EffectFailed(answer["reason"], f"No notice was sent to {request.email}.")
    return SendNoticeResponse(notice_id=answer["notice_id"])


@asynccontextmanager
async def _connected() -> AsyncIterator[Effect[SendNoticeRequest, SendNoticeResponse]]:
    yield _send


mail = Port(SendNoticeRequest, SendNoticeResponse, _connected, concurrency=8, timeout=timedelta(seconds=5))
