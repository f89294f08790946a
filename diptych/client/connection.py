"""A client for Python programs: commands on one side, queries as fresh as their tokens on the other.

Messages say which rpc is meant; their services are found in the descriptors of their package::

    async with Connection("127.0.0.1:50051", "127.0.0.1:50052") as shop:
        registered = await shop.execute(RegisterUserRequest(user_id="ada", email="ada@example.com"))
        ada = await shop.query(GetUserRequest(user_id="ada"), token=registered.result.token)

For many commands there is a pipelined stream, which survives a restart of the server::

    async with shop.command_stream() as stream:
        answers = [await stream.submit(some) for some in batches]     # waits while the window is full
        for answer in answers:
            for outcome in await answer:
                ...                                                   # a CommandResult or a CallRefused
"""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, NamedTuple, Self, TypeAlias

import grpc
import grpc.aio
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential

from diptych.client import watch as watching
from diptych.contract.reasons import TokenOfOlderEpoch
from diptych.contract.token import METADATA_KEY
from diptych.domain.aggregate import AggregateRef
from diptych.domain.ids import new_id
from diptych.server.channels import open_client_channel
from diptych.v1 import commands_pb2, read_model_pb2

Outcome: TypeAlias = "commands_pb2.CommandResult | CallRefused"
"""What became of one command of a stream."""

COMMANDS_TO_A_MESSAGE = 1000
"""The most commands that the command server takes in one message of a stream."""

_STATUS_DETAILS = "grpc-status-details-bin"
_CODES: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
_ENDINGS = (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL)
"""What else a stream of commands has for its status when its server stops: INTERNAL, without a reason of ours, is
gRPC's word for a write that came when the stream had ended, whatever it had ended with."""


class Violation(NamedTuple):
    """A rule of the contract that a request breaks."""

    field: str
    """The full path of the field, such as `items[0].quantity`."""
    description: str
    """What the rule says."""


class CallRefused(Exception):
    """A call that was answered with an error, with all that the error told."""

    def __init__(self, status: status_pb2.Status, token: str = "") -> None:
        super().__init__(status.message)
        self.code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
        """The gRPC status."""
        self.message: str = status.message
        """A sentence for people."""
        self.reason = ""
        """The reason, such as EMAIL_TAKEN; empty: gRPC itself made the error."""
        self.domain = ""
        """Whose reason it is: `diptych.v1` or the domain's package."""
        self.metadata: dict[str, str] = {}
        """The values that belong to the reason."""
        self.violations: list[Violation] = []
        """The rules of the contract that the request breaks."""
        self.retry_seconds: float | None = None
        """How soon a retry makes sense; None: not told."""
        self.token = token
        """Stands for the place in the log that the refusal was decided at; empty: not told."""
        for detail in status.details:
            self._read(detail)

    @classmethod
    def of(cls, error: grpc.aio.AioRpcError) -> CallRefused:
        """What an error of gRPC tells."""
        status = status_pb2.Status(code=error.code().value[0], message=error.details() or "")
        trailers = error.trailing_metadata() or ()
        for key, value in trailers:
            if key == _STATUS_DETAILS and isinstance(value, bytes):
                status = status_pb2.Status.FromString(value)
        return cls(status, _token_in(trailers))

    def _read(self, detail: Any) -> None:
        info = error_details_pb2.ErrorInfo()
        bad = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            self.reason, self.domain, self.metadata = info.reason, info.domain, dict(info.metadata)
        elif detail.Unpack(bad):
            self.violations += [Violation(each.field, each.description) for each in bad.field_violations]
        elif detail.Unpack(retry):
            self.retry_seconds = retry.retry_delay.ToNanoseconds() / 1e9

    def __str__(self) -> str:
        return f"{self.code.name}{f' {self.reason}' if self.reason else ''}: {self.message}"

    def __repr__(self) -> str:
        return f"CallRefused({self})"


class Connection:
    """Channels to a command server and a query server. Either address may be left out.

    It keeps the greatest token that any answer carried. With `read_your_writes` every query presents it, so
    that whoever uses this connection reads what was written or read through it before. `metadata` goes with
    every call; `timeout_seconds` is the time limit of a call that sets none; `retry_seconds` is for how long
    a call is repeated (a command under one request id) while its server is UNAVAILABLE: not at all, unless
    you say so.
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
        self._timeout_seconds = timeout_seconds
        self._retry_seconds = retry_seconds
        self._methods: dict[tuple[grpc.aio.Channel, str], Any] = {}
        self.token = ""
        """The greatest token seen; empty: none yet."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the channels; calls under way are cancelled."""
        for channel in (self._commands, self._queries):
            if channel is not None:
                await channel.close()

    @property
    def commands(self) -> grpc.aio.Channel:
        """The channel to the command server, for stubs of your own."""
        if self._commands is None:
            raise ValueError("The connection was made without the address of a command server.")
        return self._commands

    @property
    def queries(self) -> grpc.aio.Channel:
        """The channel to the query server, for stubs of your own."""
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
        """Executes a command and returns its response (of `RegisterUserRequest` a `RegisterUserResponse`).

        The message is not changed. Without a request id, here or in its context, it gets one, so that a
        repeat takes effect once. Raises `CallRefused`.
        """
        method = method_of(type(command))
        return await self._call(
            self.commands,
            method,
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
        """Asks a query and returns its response (of `GetUserRequest` a `User`).

        The answer includes everything up to `token`, or without one, with `read_your_writes`, up to the
        greatest token seen. Raises `CallRefused`; if the token seen stands for what the log has lost, as it was
        restored, that is told once, and the token forgotten.
        """
        presented = token or (self.token if self._read_your_writes else "")
        extra = {**(metadata or {}), **({METADATA_KEY: presented} if presented else {})}
        try:
            return await self._call(self.queries, method_of(type(query)), query, timeout_seconds, extra)
        except CallRefused as refused:
            if refused.reason == TokenOfOlderEpoch.reason and self.token == presented:
                self.token = ""
            raise

    async def wait_for(
        self,
        token: str | None = None,
        view: str = "",
        *,
        aggregate: AggregateRef | None = None,
        version: int = 0,
        timeout_seconds: float | None = None,
    ) -> read_model_pb2.WaitForVersionResponse:
        """Waits until a view (every view, if none is named) includes a token, or an aggregate's version.

        Without either it waits for the greatest token seen. It returns whatever came of it: look at
        `outcome`. Raises `CallRefused`.
        """
        request = read_model_pb2.WaitForVersionRequest(view=view)
        if aggregate is not None:
            request.aggregate_version.aggregate.type, request.aggregate_version.aggregate.id = aggregate
            request.aggregate_version.version = version
        else:
            request.token = token or self.token
        method = Method("/diptych.v1.ReadModelService/WaitForVersion", read_model_pb2.WaitForVersionResponse)
        answer: read_model_pb2.WaitForVersionResponse = await self._call(
            self.queries, method, request, timeout_seconds, None
        )
        return answer

    async def watch(
        self,
        view: str,
        keys: Iterable[str] | None = None,
        *,
        resume_token: str = "",
        retry_seconds: float = 60.0,
        metadata: Mapping[str, str] | None = None,
    ) -> AsyncIterator[read_model_pb2.WatchResponse]:
        """Watches a view, all of its rows or those of some keys: the frames of `Watch`, as the contract has them.

        When the server goes away it connects again and goes on from the last resume token, and each row at a
        position still comes once; after `retry_seconds` without a sign of it, it fails. If there was no resume token
        yet, or it has expired, a `reset` without a reason comes first, and then a snapshot. To go on in another
        process, keep the last `resume_token`. Raises `CallRefused`.
        """
        request = read_model_pb2.WatchRequest(view=view, resume_token=resume_token)
        if keys is None:
            request.all.SetInParent()
        else:
            request.keys.SetInParent()
            request.keys.keys.extend(keys)
        try:
            frames = watching.watch(
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
            status = status_pb2.Status(code=14, message="The query server fell silent, and did not come back in time.")
            raise CallRefused(status) from None

    @asynccontextmanager
    async def command_stream(
        self, *, window: int = 16, retry_seconds: float = 60.0, metadata: Mapping[str, str] | None = None
    ) -> AsyncIterator[CommandStream]:
        """Opens a stream for many commands, with at most `window` messages under way.

        When the server goes away it connects again and repeats what was not answered, under the same request
        ids; after `retry_seconds` without a sign of it, what is under way fails. Leaving the block normally
        waits for all answers; leaving it by an exception gives them up.
        """
        stream = CommandStream(
            self.commands,
            window=window,
            retry_seconds=retry_seconds,
            metadata=(*self._metadata, *(metadata or {}).items()),
            seen=self.saw,
        )
        try:
            yield stream
        except BaseException:
            await stream.abandon()
            raise
        await stream.close()

    async def _call(
        self,
        channel: grpc.aio.Channel,
        method: Method,
        request: Message,
        timeout_seconds: float | None,
        metadata: Mapping[str, str] | None,
    ) -> Any:
        key = (channel, method.path)
        if key not in self._methods:
            self._methods[key] = channel.unary_unary(
                method.path,
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=method.response.FromString,
            )
        bound = self._methods[key]
        sent = (*self._metadata, *(metadata or {}).items())
        limit = self._timeout_seconds if timeout_seconds is None else timeout_seconds

        async def once() -> Any:
            call = bound(request, metadata=sent, timeout=limit)
            try:
                answer = await call
            except grpc.aio.AioRpcError as error:
                refused = CallRefused.of(error)
                self.saw(refused.token)
                raise refused from None
            self.saw(_token_in(await call.trailing_metadata()))
            return answer

        if not self._retry_seconds:
            return await once()
        return await _retrying(self._retry_seconds)(once)

    def saw(self, token: str) -> None:
        """Keeps a token that came by another way, if it is the greatest so far."""
        # Of two tokens of one log the greater string is the later; those of two logs cannot be compared.
        self.token = max(self.token, token)


class _Sent(NamedTuple):
    """A message of a stream that has no answer yet."""

    request: commands_pb2.ExecuteRequest
    answer: asyncio.Future[list[Outcome]]


class CommandStream:
    """A pipelined stream of commands; `Connection.command_stream` makes it."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        window: int,
        retry_seconds: float,
        metadata: Sequence[tuple[str, str]],
        seen: Callable[[str], None],
    ) -> None:
        self._method = channel.stream_stream(
            "/diptych.v1.CommandStreamService/Execute",
            request_serializer=commands_pb2.ExecuteRequest.SerializeToString,
            response_deserializer=commands_pb2.ExecuteResponse.FromString,
        )
        self._metadata = tuple(metadata)
        self._retry_seconds = retry_seconds
        self._seen = seen
        self._slots = asyncio.Semaphore(window)
        self._unanswered: deque[_Sent] = deque()
        self._written = 0  # How many of them were written to the connection of now.
        self._more = asyncio.Event()
        self._closing = False
        self._failure: Exception | None = None
        self._running = asyncio.create_task(self._run())

    async def submit(self, commands: Sequence[Message | commands_pb2.CommandEnvelope]) -> asyncio.Future[list[Outcome]]:
        """Sends commands as one message and returns what their outcomes can be awaited on, in their order.

        It waits while the window is full. Commands of one aggregate are decided in the order submitted. A
        command without a request id gets one. Raises `CallRefused` if the stream has failed.
        """
        if len(commands) > COMMANDS_TO_A_MESSAGE:
            raise ValueError(f"A message holds {COMMANDS_TO_A_MESSAGE} commands at most, not {len(commands)}.")
        if self._closing:
            raise ValueError("The command stream is closed.")
        request = commands_pb2.ExecuteRequest(commands=[_envelope(command) for command in commands])
        await self._slots.acquire()
        if self._failure is not None:
            self._slots.release()
            raise self._failure
        sent = _Sent(request, asyncio.get_running_loop().create_future())
        self._unanswered.append(sent)
        self._more.set()
        return sent.answer

    async def close(self) -> None:
        """Waits until every message is answered or has failed, and ends the stream."""
        self._closing = True
        self._more.set()
        await self._running

    async def abandon(self) -> None:
        """Ends the stream now; answers that have not come are cancelled."""
        self._closing = True
        self._running.cancel()
        with suppress(asyncio.CancelledError):
            await self._running
        while self._unanswered:
            self._unanswered.popleft().answer.cancel()

    async def _run(self) -> None:
        while not (self._closing and not self._unanswered):
            if not self._unanswered:
                self._more.clear()
                await self._more.wait()
                continue
            try:
                await _retrying(self._retry_seconds)(self._connect)
            except CallRefused as refused:
                self._fail(refused)
                return
            except Exception as error:  # A defect; but whoever awaits an answer must not wait for ever.
                self._fail(error)
                raise

    async def _connect(self) -> None:
        """Talks over one connection. Raises `CallRefused` if it ends before it gave any answer."""
        call = self._method(metadata=self._metadata)
        self._written = 0
        answered = 0
        writing = asyncio.create_task(self._write(call))
        try:
            while isinstance(response := await call.read(), commands_pb2.ExecuteResponse):
                self._answer(response)
                answered += 1
            refused = CallRefused(status_pb2.Status(code=(await call.code()).value[0], message=await call.details()))
        except grpc.aio.AioRpcError as error:
            refused = CallRefused.of(error)
        finally:
            writing.cancel()
            with suppress(asyncio.CancelledError):
                await writing
            call.cancel()
        if not self._unanswered:
            return
        if refused.code in _ENDINGS and not refused.reason:
            refused = CallRefused(status_pb2.Status(code=14, message="The command server ended the stream."))
        if refused.code is not grpc.StatusCode.UNAVAILABLE or not answered:
            raise refused

    async def _write(self, call: Any) -> None:
        try:
            while True:
                while self._written < len(self._unanswered):
                    request = self._unanswered[self._written].request
                    self._written += 1
                    await call.write(request)
                if self._closing:
                    await call.done_writing()
                    return
                self._more.clear()
                await self._more.wait()
        except (grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError):
            return  # The reader is told the same, and says what follows.

    def _answer(self, response: commands_pb2.ExecuteResponse) -> None:
        sent = self._unanswered.popleft()
        self._written -= 1
        self._slots.release()
        outcomes: list[Outcome] = []
        for outcome in response.outcomes:
            if outcome.HasField("error"):
                outcomes.append(CallRefused(outcome.error))
            else:
                outcomes.append(outcome.result)
                self._seen(outcome.result.token)
        if not sent.answer.done():
            sent.answer.set_result(outcomes)

    def _fail(self, error: Exception) -> None:
        self._failure = error
        while self._unanswered:
            answer = self._unanswered.popleft().answer
            if not answer.done():
                answer.set_exception(error)
                answer.exception()  # Told to whoever awaits it; nobody else need hear of it.
            self._slots.release()


class Method(NamedTuple):
    """An rpc: its path and what it answers with."""

    path: str
    response: type[Message]

    @property
    def service(self) -> str:
        """The full name of its service."""
        return self.path.split("/")[1]


_methods: dict[str, Method] = {}


def method_of(request: type[Message]) -> Method:
    """The rpc of a domain's CommandService or QueryService that takes this request; raises `LookupError`."""
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
    """Imports the generated modules of a proto package, so that its messages and services are known."""
    found = importlib.import_module(package)
    for module in pkgutil.iter_modules(found.__path__):
        if module.name.endswith("_pb2"):
            importlib.import_module(f"{package}.{module.name}")


def with_context(command: Message, *, request_id: str | None = None, expected_version: int | None = None) -> Message:
    """A copy of a command with these values in its context; without any request id it gets a new one."""
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


def _envelope(command: Message | commands_pb2.CommandEnvelope) -> commands_pb2.CommandEnvelope:
    envelope = commands_pb2.CommandEnvelope()
    if isinstance(command, commands_pb2.CommandEnvelope):
        envelope.CopyFrom(command)
    else:
        envelope.command.Pack(command)
        envelope.context.CopyFrom(command.context)  # type: ignore[attr-defined]
    if not envelope.context.request_id:
        envelope.context.request_id = new_id()
    return envelope


def _retrying(seconds: float) -> AsyncRetrying:
    return AsyncRetrying(
        retry=retry_if_exception(_is_unavailable),
        stop=stop_after_delay(seconds),
        wait=wait_random_exponential(multiplier=0.05, max=2),
        reraise=True,
    )


def _is_unavailable(error: BaseException) -> bool:
    return isinstance(error, CallRefused) and error.code is grpc.StatusCode.UNAVAILABLE


def _token_in(metadata: Any) -> str:
    return max((value for key, value in metadata or () if key == METADATA_KEY), default="")
