"""Clients that record their calls and the answers."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from diptych.client import CallRefused, method_of, open_channel, with_context
from diptych.contract.token import TOKEN_KEY, Token
from diptych.v1 import events_pb2, read_model_pb2
from diptych.v1.commands_pb2 import CommandResult
from tests.history.records import (
    Followed,
    FrameKind,
    History,
    Read,
    Refused,
    Wait,
    Watched,
    WatchFrame,
    Write,
    WriteStatus,
)

_UNKNOWN_REASONS = frozenset({"OUTCOME_UNKNOWN"})
_SUBSCRIBE = "/diptych.v1.EventService/Subscribe"
_WATCH = "/diptych.v1.ReadModelService/Watch"
_WAIT = "/diptych.v1.ReadModelService/WaitForVersion"

RowsOf = Callable[[Any], Mapping[str, bytes | None]]
"""Function from an answer to the rows that it has, by key; None: no such row."""


class RecordingClient:
    """A client with channels of its own that carries its greatest token.

    Any number of them write to one history. `queries` has the addresses of query servers by name.
    """

    def __init__(self, name: str, history: History, commands: str, queries: Mapping[str, str]) -> None:
        self.name = name
        self.token = ""
        """Greatest token of all answers."""
        self.watched_to = 0
        """Greatest position of a progress frame of its watches."""
        self._history = history
        self._commands = open_channel(commands)
        self._queries = {server: open_channel(address) for server, address in queries.items()}

    @property
    def servers(self) -> list[str]:
        """Names of the query servers."""
        return list(self._queries)

    async def close(self) -> None:
        """Close the channels."""
        for channel in (self._commands, *self._queries.values()):
            await channel.close()

    async def write(
        self,
        command: Message,
        stream: str,
        request_id: str,
        *,
        expected_version: int | None = None,
        timeout: float = 2.0,
    ) -> Write:
        """Send a command once and record its status."""
        method = method_of(type(command))
        call: Any = self._commands.unary_unary(
            method.path, request_serializer=_serialize, response_deserializer=method.response.FromString
        )
        sent = with_context(command, request_id=request_id, expected_version=expected_version)
        began = time.monotonic()
        outcome: CommandResult | CallRefused
        try:
            outcome = (await call(sent, timeout=timeout)).result
        except grpc.aio.AioRpcError as failed:
            outcome = CallRefused.of(failed)
        return self.wrote(command, stream, request_id, began, outcome, expected_version=expected_version)

    def wrote(
        self,
        command: Message,
        stream: str,
        request_id: str,
        began: float,
        outcome: CommandResult | CallRefused,
        *,
        expected_version: int | None = None,
        repeated: bool = False,
    ) -> Write:
        """Record the status of a command that was sent at `began`."""
        fields: dict[str, Any]
        if isinstance(outcome, CallRefused):
            status = (
                WriteStatus.REFUSED
                if outcome.reason and outcome.reason not in _UNKNOWN_REASONS
                else WriteStatus.UNKNOWN
            )
            fields = {"status": status, "code": outcome.code.name, "reason": outcome.reason}
        else:
            fields = {
                "status": WriteStatus.ACKNOWLEDGED,
                "version": outcome.version,
                "token": outcome.token,
                "duplicate": outcome.duplicate,
            }
            stream = f"{outcome.aggregate.type}/{outcome.aggregate.id}"
        write = Write(
            client=self.name,
            request_id=request_id,
            command=command,
            stream=stream,
            began=began,
            ended=time.monotonic(),
            expected_version=expected_version,
            repeated=repeated,
            **fields,
        )
        self._history.writes.append(write)
        self.token = max(self.token, write.token)
        return write

    async def read(
        self,
        query: Message,
        view: str,
        rows_of: RowsOf,
        server: str,
        *,
        token: str = "",
        in_field: bool = False,
        whole: bool = False,
        missing: str = "",
        timeout: float = 5.0,
    ) -> Read:
        """Send a query once. `missing` is the key that has no row if the answer is NOT_FOUND."""
        method = method_of(type(query))
        call: Any = self._queries[server].unary_unary(
            method.path, request_serializer=_serialize, response_deserializer=method.response.FromString
        )
        sent: Any = type(query)()
        sent.CopyFrom(query)
        metadata: tuple[tuple[str, str], ...] = ()
        if token and in_field:
            sent.consistency.at_least_as_fresh = token
        elif token:
            metadata = ((TOKEN_KEY, token),)
        rows: Mapping[str, bytes | None] = {}
        refused = None
        began = time.monotonic()
        calling = call(sent, timeout=timeout, metadata=metadata)
        try:
            answer = await calling
            rows, trailer = rows_of(answer), _token_in(await calling.trailing_metadata())
        except grpc.aio.AioRpcError as failed:
            error = CallRefused.of(failed)
            trailer = error.token
            if error.code is grpc.StatusCode.NOT_FOUND and error.reason and missing:
                rows = {missing: None}
            else:
                refused = Refused(code=error.code.name, reason=error.reason, metadata=error.metadata)
        read = Read(
            client=self.name,
            server=server,
            view=view,
            began=began,
            ended=time.monotonic(),
            presented=token,
            trailer=trailer,
            rows=rows,
            whole=whole and refused is None,
            refused=refused,
            timeout=timeout,
        )
        self._history.reads.append(read)
        self.token = max(self.token, trailer)
        return read

    async def wait(
        self,
        server: str,
        view: str,
        *,
        token: str = "",
        stream: str = "",
        version: int = 0,
        timeout: float = 2.0,
    ) -> Wait:
        """Wait for a token or an aggregate's version."""
        request = read_model_pb2.WaitForVersionRequest(view=view)
        if token:
            request.token = token
        else:
            kind, _, id = stream.partition("/")
            request.aggregate_version.aggregate.type, request.aggregate_version.aggregate.id = kind, id
            request.aggregate_version.version = version
        call: Any = self._queries[server].unary_unary(
            _WAIT,
            request_serializer=_serialize,
            response_deserializer=read_model_pb2.WaitForVersionResponse.FromString,
        )
        fields: dict[str, Any]
        began = time.monotonic()
        calling = call(request, timeout=timeout)
        try:
            answer = await calling
            fields = {
                "outcome": answer.outcome,
                "applied": answer.progress.applied_position,
                "head": answer.progress.head_position,
                "progress_token": answer.progress.token,
                "trailer": _token_in(await calling.trailing_metadata()),
            }
        except grpc.aio.AioRpcError as failed:
            error = CallRefused.of(failed)
            refused = Refused(code=error.code.name, reason=error.reason, metadata=error.metadata)
            fields = {"refused": refused, "trailer": error.token}
        wait = Wait(
            client=self.name,
            server=server,
            view=view,
            began=began,
            ended=time.monotonic(),
            timeout=timeout,
            token=token,
            stream=stream,
            version=version,
            **fields,
        )
        self._history.waits.append(wait)
        return wait

    async def follow(self, event_types: frozenset[str] = frozenset(), *, by_token: bool = True) -> None:
        """Follow the log until cancelled. Each new connection starts at the end of the last one."""
        call: Any = self._commands.unary_stream(
            _SUBSCRIBE,
            request_serializer=_serialize,
            response_deserializer=events_pb2.SubscribeResponse.FromString,
        )
        token = ""
        seen: list[tuple[int, str]] = []
        try:
            while True:
                request = events_pb2.SubscribeRequest(event_types=sorted(event_types))
                if token and by_token:
                    request.token = token
                elif token:
                    request.position = Token.parse(token).position
                with suppress(grpc.aio.AioRpcError):
                    async for frame in call(request):
                        seen += [(event.position, event.event_id) for event in frame.batch.events]
                        token = frame.batch.token or frame.caught_up.token or frame.progress.token or token
                await asyncio.sleep(0.05)
        finally:
            self._history.followed.append(
                Followed(client=self.name, after=0, events=tuple(seen), types=frozenset(event_types))
            )

    async def watch(self, view: str, keys: frozenset[str] | None, rng: random.Random) -> None:
        """Watch rows until cancelled. Each new connection starts at the last cut, on any query server."""
        request = read_model_pb2.WatchRequest(view=view)
        if keys is None:
            request.all.SetInParent()
        else:
            request.keys.keys.extend(sorted(keys))
        frames: list[WatchFrame] = []
        try:
            while True:
                server = rng.choice(self.servers)
                await self._watch_on(server, request, frames)
                await asyncio.sleep(0.05)
        finally:
            self._history.watched.append(Watched(client=self.name, view=view, keys=keys, frames=tuple(frames)))

    async def _watch_on(self, server: str, request: read_model_pb2.WatchRequest, frames: list[WatchFrame]) -> None:
        call: Any = self._queries[server].unary_stream(
            _WATCH, request_serializer=_serialize, response_deserializer=read_model_pb2.WatchResponse.FromString
        )
        frames.append(
            WatchFrame(at=time.monotonic(), kind=FrameKind.OPENED, resume_token=request.resume_token, server=server)
        )
        try:
            async for answer in call(request):
                frames.append(_watch_frame(answer))
                request.resume_token = answer.resume_token or request.resume_token
                self.watched_to = max(self.watched_to, answer.progress.position)
                if answer.HasField("reset"):
                    request.resume_token = ""
        except grpc.aio.AioRpcError as failed:
            error = CallRefused.of(failed)
            if error.reason:
                frames.append(WatchFrame(at=time.monotonic(), kind=FrameKind.REFUSED, reason=error.reason))


def _watch_frame(answer: read_model_pb2.WatchResponse) -> WatchFrame:
    rows: tuple[tuple[str, int, bytes | None], ...] = ()
    reason = ""
    match answer.WhichOneof("frame"):
        case "rows":
            kind = FrameKind.ROWS
            rows = tuple(
                (row.key, row.position, row.row.value if row.HasField("row") else None) for row in answer.rows.rows
            )
        case "caught_up":
            kind = FrameKind.CAUGHT_UP
        case "progress":
            kind = FrameKind.PROGRESS
        case _:
            kind = FrameKind.RESET
            reason = read_model_pb2.ResetReason.Name(answer.reset.reason)
    return WatchFrame(
        at=time.monotonic(),
        kind=kind,
        rows=rows,
        resume_token=answer.resume_token,
        position=answer.progress.position,
        reason=reason,
    )


async def whole_log(address: str) -> list[events_pb2.RecordedEvent]:
    """Return the log from its start to its head."""
    events: list[events_pb2.RecordedEvent] = []
    async with open_channel(address) as channel:
        call: Any = channel.unary_stream(
            _SUBSCRIBE,
            request_serializer=_serialize,
            response_deserializer=events_pb2.SubscribeResponse.FromString,
        )
        # Channels of one process share connections: that of another client may be backing off after a failed attempt.
        async for frame in call(events_pb2.SubscribeRequest(), timeout=30, wait_for_ready=True):
            events += frame.batch.events
            if frame.HasField("caught_up"):
                break
    return events


async def sleep(commands: str, queries: str) -> None:
    """Open a subscription and a watch without reading them, until cancelled. Open them again when they end."""
    watch = read_model_pb2.WatchRequest(view="users")
    watch.all.SetInParent()
    asked = ((commands, _SUBSCRIBE, events_pb2.SubscribeRequest()), (queries, _WATCH, watch))

    async def one(address: str, method: str, request: Message) -> None:
        async with open_channel(address) as channel:
            open_stream: Any = channel.unary_stream(method, request_serializer=_serialize)
            while True:
                call = open_stream(request)
                with suppress(grpc.aio.AioRpcError):
                    await call.initial_metadata()
                    await call.code()  # Nothing is read until it has ended.
                await asyncio.sleep(0.1)

    await asyncio.gather(*(one(*each) for each in asked))


def _token_in(metadata: Any) -> str:
    return max((value for key, value in metadata or () if key == TOKEN_KEY), default="")


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()
