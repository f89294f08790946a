"""Stage for processes: a real log, writer and host in this process, and a mail provider that tests control."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from command_server.dispatch import Caller, Dispatcher
from command_server.event_tail import EventTail
from command_server.processes.host import ProcessHost
from command_server.store.sqlite_store import SqliteEventStore
from command_server.submission import Submission
from command_server.writer import Writer
from diptych import Calling, Domain, Effect, Port, Process
from diptych.contract.frames import recorded
from diptych.domain.loading import LoadedDomain
from diptych.server.settings import CommandServerSettings
from diptych.v1.commands_pb2 import CommandContext
from diptych.v1.events_pb2 import RecordedEvent
from library.copies import copy
from library.lending import activity, lending
from library.members import member
from library.reservations import reservation
from library.v1.events_pb2 import SendNoticeRequest, SendNoticeResponse
from tests.support.polling import eventually

SECONDS = 30.0


class Mail:
    """Mail provider that honours idempotency keys. `failing` returns the error of a call."""

    def __init__(self) -> None:
        self.calls: list[tuple[SendNoticeRequest, Calling]] = []
        self.failing: Callable[[SendNoticeRequest, Calling], Exception | None] = lambda request, calling: None
        self.opened = 0
        self.closed = 0
        self.refusing_to_open = 0

    @property
    def keys(self) -> dict[str, str]:
        """Text of each notice by its key."""
        return {calling.key: request.text for request, calling in self.calls}

    async def __call__(self, request: SendNoticeRequest, calling: Calling) -> SendNoticeResponse:
        self.calls.append((request, calling))
        error = self.failing(request, calling)
        if error is not None:
            raise error
        return SendNoticeResponse(notice_id=f"notice-{calling.key}")

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Effect[SendNoticeRequest, SendNoticeResponse]]:
        if self.refusing_to_open:
            self.refusing_to_open -= 1
            raise ConnectionError("the provider is away")
        self.opened += 1
        try:
            yield self
        finally:
            self.closed += 1


class Stage:
    """A log with a process host."""

    def __init__(
        self,
        domain: LoadedDomain,
        store: SqliteEventStore,
        writer: Writer,
        host: ProcessHost,
        health: Mapping[str, bool],
    ) -> None:
        self.domain = domain
        self.store = store
        self.writer = writer
        self.host = host
        self.health = health

    async def execute(self, command: Message, context: CommandContext | None = None, **caller: str) -> Submission:
        """Submit a command and wait for its outcome; raise its refusal."""
        method = self.domain.commands[command.DESCRIPTOR.full_name]
        submission = Dispatcher(self.domain).submission(method, command, Caller(**caller), context)
        done = asyncio.Event()
        submission.done = done.set
        self.writer.submit(submission)
        await done.wait()
        if submission.refusal is not None:
            raise submission.refusal
        return submission

    async def log(self, stream: str = "") -> list[RecordedEvent]:
        """Return all events, or those of one stream."""
        page = await self.store.read_log(0, events_max=100_000, bytes_max=1 << 30)
        events = [recorded(frame) for frame in page.frames]
        return [one for one in events if not stream or f"{one.aggregate.type}/{one.aggregate.id}" == stream]

    async def names(self, stream: str) -> list[str]:
        """Return the types of a stream's events, without their package."""
        return [one.event.TypeName().rpartition(".")[2] for one in await self.log(stream)]

    async def until(self, stream: str, *names: str) -> None:
        """Wait until a stream has exactly these events, in any order."""
        found: list[str] = []

        async def there() -> bool:
            found[:] = await self.names(stream)
            return sorted(found) == sorted(names)

        try:
            await eventually(there)
        except AssertionError:
            raise AssertionError(f"{stream} has {found}") from None

    async def settled(self) -> None:
        """Wait until memory and store have no open outputs."""

        async def nothing() -> bool:
            return not list(self.host.outputs) and not await self.store.read_work((0, 0), 1)

        await eventually(nothing)


def library(
    mail: Mail,
    *,
    processes: Sequence[Process[Any]] = (reservation,),
    timeout: timedelta = timedelta(seconds=10),
    concurrency: int = 8,
) -> LoadedDomain:
    """Return the library with another mail provider, and by choice other processes."""
    port = Port(SendNoticeRequest, SendNoticeResponse, mail.connected, timeout=timeout, concurrency=concurrency)
    domain = Domain(
        "library", aggregates=[member, copy], projections=[lending, activity], processes=processes, ports=[port]
    )
    return LoadedDomain(domain)


@asynccontextmanager
async def stage(folder: Path, domain: LoadedDomain) -> AsyncIterator[Stage]:
    """Start a command server's log, writer and processes, and stop them at the end."""
    settings = CommandServerSettings.model_validate({})
    store = SqliteEventStore(folder / "log.db", "test")
    await store.open()
    tail = EventTail(store, await store.head(), settings)
    writer = Writer(domain, store, settings, tail.publish)
    writing = asyncio.create_task(writer.run())
    health: dict[str, bool] = {}

    async def tell(service: str, serving: bool) -> None:
        health[service] = serving

    host = ProcessHost(domain, store, tail, writer, tell)
    try:
        await host.start()
        yield Stage(domain, store, writer, host, health)
    finally:
        tail.close()
        await host.close()
        writer.close()
        await writing
        await store.close()
