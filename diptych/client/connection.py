"""Connection of a program to a command server and a query server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any, Self

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.rpc import status_pb2

from diptych.client.calls import Calls
from diptych.client.command_stream import CommandStream
from diptych.client.errors import CallRefused
from diptych.client.latest_token import LatestToken
from diptych.client.methods import Method, method_of, with_context
from diptych.client.watch import watch
from diptych.contract.token import TOKEN_KEY
from diptych.domain.aggregate import AggregateRef
from diptych.server.channels import open_client_channel
from diptych.v1 import read_model_pb2

_WAIT_FOR_VERSION = Method("/diptych.v1.ReadModelService/WaitForVersion", read_model_pb2.WaitForVersionResponse)


class Connection:
    """Channels to a command server and a query server.

    The connection keeps the greatest token of all responses and errors, see `token`. A server of another log, or of one
    that lost the token's event in a restore, refuses it once; the connection then discards it. Use the connection as an
    async context manager, or close it.

    Args:
        commands: `HOST:PORT` of the command server; None: no commands.
        queries: `HOST:PORT` of the query server; None: no queries.
        read_your_writes: True if every query presents `token`. Queries then include all that this connection wrote
            or read before.
        metadata: Metadata of every call.
        timeout_seconds: The deadline of a call without one.
        retry_seconds: The time for which a call is repeated while its server is UNAVAILABLE, a command under the same
            request id. 0: not at all.
        credentials: Credentials for TLS; None: without TLS.
    """

    def __init__(
        self,
        commands: str | None = None,
        queries: str | None = None,
        *,
        read_your_writes: bool = False,
        metadata: Mapping[str, str] | None = None,
        timeout_seconds: float = 30.0,
        retry_seconds: float = 0.0,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._commands = None if commands is None else open_client_channel(commands, credentials)
        self._queries = None if queries is None else open_client_channel(queries, credentials)
        self._read_your_writes = read_your_writes
        self._metadata = tuple((metadata or {}).items())
        self._retry_seconds = retry_seconds
        self._calls = Calls(
            metadata=self._metadata,
            timeout_seconds=timeout_seconds,
            retry_seconds=retry_seconds,
            on_token=self.add_token,
        )
        self._latest = LatestToken()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channels and cancel running calls."""
        for channel in (self._commands, self._queries):
            if channel is not None:
                await channel.close()

    @property
    def commands(self) -> grpc.aio.Channel:
        """The channel to the command server, for stubs of your own. Raises `ValueError` without its address."""
        if self._commands is None:
            raise ValueError("The connection was made without the address of a command server.")
        return self._commands

    @property
    def queries(self) -> grpc.aio.Channel:
        """The channel to the query server, for stubs of your own. Raises `ValueError` without its address."""
        if self._queries is None:
            raise ValueError("The connection was made without the address of a query server.")
        return self._queries

    async def execute(
        self,
        command: Message,
        *,
        request_id: str | None = None,
        expected_version: int | None = None,
        timeout_seconds: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Any:
        """Execute a command and return its response, as `RegisterUserResponse` for `RegisterUserRequest`.

        Cancelling it cancels the call; the command can take effect all the same.

        Args:
            command: The command; it is not changed.
            request_id: The request id, under which a repetition takes effect once. None: the one in the command's
                context, or else a new one.
            expected_version: The version that the aggregate must have. None: the one in the command's context.
            timeout_seconds: The deadline of one attempt; None: the connection's.
            metadata: Metadata beside the connection's.

        Raises:
            CallRefused: The call ended with an error.
            LookupError: No rpc of a CommandService has this request.
        """
        return await self._calls.call(
            self.commands,
            method_of(type(command)),
            with_context(command, request_id=request_id, expected_version=expected_version),
            timeout_seconds,
            metadata,
        )

    async def query(
        self,
        query: Message,
        *,
        token: str | None = None,
        timeout_seconds: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Any:
        """Return the response to a query, as `User` for `GetUserRequest`. Cancelling it cancels the call.

        Args:
            query: The request.
            token: A token that the response must include. None: with `read_your_writes` the connection's own.
            timeout_seconds: The deadline of one attempt; None: the connection's.
            metadata: Metadata beside the connection's.

        Raises:
            CallRefused: The call ended with an error. TOKEN_OF_OLDER_EPOCH, TOKEN_OF_ANOTHER_LOG and
                TOKEN_AHEAD_OF_LOG come once after the log was restored or replaced: the connection then discards the
                token that it presented, and continues with the tokens of the log that there is now.
            LookupError: No rpc of a QueryService has this request.
        """
        presented = token or (self.token if self._read_your_writes else "")
        with_token = {**(metadata or {}), **({TOKEN_KEY: presented} if presented else {})}
        with self._discarding(presented):
            return await self._calls.call(self.queries, method_of(type(query)), query, timeout_seconds, with_token)

    async def wait_for(
        self,
        token: str | None = None,
        view: str = "",
        *,
        aggregate: AggregateRef | None = None,
        version: int = 0,
        timeout_seconds: float | None = None,
    ) -> read_model_pb2.WaitForVersionResponse:
        """Wait until a view includes a token or an aggregate's version, and return the outcome of the wait.

        A wait that does not succeed is no error: look at `outcome` of the response. Cancelling it cancels the call.

        Args:
            token: The token; None: the connection's own.
            view: The view; empty: all views.
            aggregate: The aggregate to wait for, instead of a token.
            version: Its version.
            timeout_seconds: The deadline; None: the connection's.

        Raises:
            CallRefused: The call ended with an error; `query` says which ones discard the connection's token.
        """
        request = read_model_pb2.WaitForVersionRequest(view=view)
        if aggregate is not None:
            request.aggregate_version.aggregate.type, request.aggregate_version.aggregate.id = aggregate
            request.aggregate_version.version = version
        else:
            request.token = token or self.token
        with self._discarding(request.token):
            response: read_model_pb2.WaitForVersionResponse = await self._calls.call(
                self.queries, _WAIT_FOR_VERSION, request, timeout_seconds, None
            )
            return response

    async def watch(
        self,
        view: str,
        keys: Iterable[str] | None = None,
        *,
        resume_token: str = "",
        retry_seconds: float = 60.0,
        metadata: Mapping[str, str] | None = None,
    ) -> AsyncIterator[read_model_pb2.WatchResponse]:
        """Yield the frames of the watch of a view, as the contract of `Watch` describes them.

        A lost connection is opened again. The watch then continues from the last resume token, and each row at a
        position still comes once. Without a usable resume token a `reset` without a reason comes first, and then a
        snapshot. To continue in another process, keep the last `resume_token`. Closing the generator ends the watch.

        Args:
            view: The view.
            keys: The keys of the rows; None: all rows.
            resume_token: The resume token to continue from; empty: from a snapshot.
            retry_seconds: The time since the last frame after which a lost watch fails.
            metadata: Metadata beside the connection's.

        Raises:
            CallRefused: The server refused the watch, or was not back in time.
        """
        request = read_model_pb2.WatchRequest(view=view, resume_token=resume_token)
        if keys is None:
            request.all.SetInParent()
        else:
            request.keys.SetInParent()
            request.keys.keys.extend(keys)
        try:
            frames = watch(
                self.queries,
                request,
                metadata=(*self._metadata, *(metadata or {}).items()),
                first_seconds=self._retry_seconds,
                retry_seconds=retry_seconds,
            )
            async with aclosing(frames):
                async for frame in frames:
                    yield frame
        except grpc.aio.AioRpcError as error:
            raise CallRefused.of(error) from None
        except TimeoutError:
            status = status_pb2.Status(code=14, message="The query server sent no frame and was not back in time.")
            raise CallRefused(status) from None

    @asynccontextmanager
    async def command_stream(
        self, *, window: int = 16, retry_seconds: float = 60.0, metadata: Mapping[str, str] | None = None
    ) -> AsyncIterator[CommandStream]:
        """Open a stream for many commands.

        A lost connection is opened again, and messages without a response are repeated under the same request ids.
        Leaving the block normally waits for all responses; leaving it by an exception abandons them.

        Args:
            window: The limit on messages without a response.
            retry_seconds: The time without any response after which the messages without one fail.
            metadata: Metadata beside the connection's.
        """
        stream = CommandStream(
            self.commands,
            window=window,
            retry_seconds=retry_seconds,
            metadata=(*self._metadata, *(metadata or {}).items()),
            on_token=self.add_token,
        )
        try:
            yield stream
        except BaseException:
            await stream.abandon()
            raise
        await stream.close()

    @property
    def token(self) -> str:
        """The greatest token so far of the log that answered last; empty before the first."""
        return self._latest.text

    def add_token(self, token: str) -> None:
        """Raise `token` to this one if it is greater, or of another log. For tokens of other channels."""
        self._latest.add(token)

    @contextmanager
    def _discarding(self, presented: str) -> Iterator[None]:
        """Discard the connection's token if a call that presented it is refused as the log does not have it."""
        try:
            yield
        except CallRefused as refused:
            self._latest.on_refusal(refused.reason, presented, refused.token)
            raise
