"""Stage for tests of watches: a log of notes, the projector's row writer on a real file, and query servers.

Everything runs in this process, and nothing by itself: the test folds events, sends feed frames, and lets clients take
frames. A client checks the promises of a watch with every frame.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from diptych.contract.token import LogIdentity
from diptych.domain.domain import Domain
from diptych.domain.memory_rows import MemoryRows
from diptych.domain.refusal import Refusal
from diptych.internal.v1 import feed_pb2
from diptych.server.request_context import RequestContext
from diptych.server.settings import QueryServerSettings
from diptych.storage.read_store import Lease
from diptych.storage.read_store_schema import Checkpoint
from diptych.v1.projections_pb2 import ProjectionState
from diptych.v1.read_model_pb2 import ResetReason, WatchRequest, WatchResponse
from projector.store import generations
from projector.store.row_writer import RowWriter
from projector.store.sqlite_connection import transaction
from projector.store.sqlite_read_store import SqliteReadStore
from projector.store.tombstones import Tombstones
from query_server.freshness.tracker import FreshnessTracker
from query_server.rows.row_source import StoredGeneration
from query_server.watch.resume_token import ResumeToken, watched
from query_server.watch.service import WatchService
from query_server.watch.subscriber import SubscriberState
from tests.support.notes import Notes, recorded
from tests.support.polling import LIMIT_SECONDS
from tests.support.transport_call import TransportCallStub

IDENTITY = LogIdentity.new()
RUNNING = ProjectionState.PROJECTION_STATE_RUNNING

Rows = dict[str, tuple[int, bytes]]
"""Rows by key: the position that last changed each, and its bytes."""


class Gate:
    """Gate for pages: open, or letting a number of pages pass."""

    def __init__(self) -> None:
        self._open = True
        self._let = 0

    def set(self, *, held: bool) -> None:
        """Open or close the gate."""
        self._open, self._let = not held, 0

    @property
    def letting(self) -> bool:
        """True while a page may pass the closed gate."""
        return self._let > 0

    def let(self, pages: int) -> None:
        """Let a number of pages pass the closed gate."""
        self._let += pages

    async def pass_through(self) -> None:
        """Wait until the gate lets a page pass."""
        while not self._open and not self._let:
            await asyncio.sleep(0.0005)
        self._let = max(self._let - 1, 0)


class Stage:
    """The log, the read store, and the projector."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = SqliteReadStore(path, "127.0.0.1:1")
        self.events: list[Any] = []
        self.history: dict[str, list[Rows]] = {"notes": [{}], "notes_tags": [{}]}
        """Rows of each view at each position."""
        self.time = 1_000_000.0
        self.folded = 0
        """Number of applied events; the file may have fewer."""
        self.changed = 0
        """Position of the last event that changed a row."""
        self._rows = MemoryRows(Notes().projection)
        self._version = 0
        self.writer: RowWriter

    async def open(self) -> Stage:
        """Open the store and begin the first generation."""
        await self.file.open()
        await self.refill()
        return self

    async def close(self) -> None:
        """Close the store."""
        await self.file.close()

    async def refill(self, upto: int | None = None) -> None:
        """Begin a new active generation, and fill it."""
        self._version += 1
        projection = Notes(version=self._version).projection

        def begin() -> int:
            with transaction(self.file.connection):
                self.file.connection.execute("UPDATE diptych_generations SET active = FALSE")
                return generations.begin(self.file.connection, projection, 1, active=True)

        generation = await self.file.run(begin)
        lease = Lease(projection, 1, generation, 0, paused=False)
        self.writer = RowWriter(await self.file.open_generation(lease, generation))
        await self.writer.write_identity(IDENTITY)
        self.tombstones = Tombstones(self.writer.store, keep_seconds=3600, clock=lambda: self.time)
        wanted = self.folded if upto is None else upto
        self.folded = self.changed = 0
        await self.fold(wanted)

    def record(self, *events: Any) -> None:
        """Record events, without a report to any server."""
        for event in events:
            made = recorded(len(self.events) + 1, event)
            self.events.append(made)
            self._rows.apply([made])
            for view, history in self.history.items():
                history.append({key: (r[1], r[2]) for key, r in self._rows.rows[view].items() if r[2] is not None})

    async def fold(self, count: int | None = None) -> None:
        """Fold `count` recorded events as one batch; all by default."""
        batch = self.events[self.folded :][:count]
        if batch:
            last = batch[-1]
            committed = await self.writer.commit(batch, Checkpoint(last.position, last.event_id))
            assert committed.folded.failure is None
            self.folded = last.position
            self.changed = committed.folded.changed_position or self.changed

    async def write_checkpoint(self) -> None:
        """Write the checkpoint of events that are applied in memory alone."""
        if self.folded:
            await self.writer.write_checkpoint(Checkpoint(self.folded, f"a-{self.folded}"))

    async def put(self, *events: Any) -> None:
        """Record events and fold them."""
        self.record(*events)
        await self.fold()


class Server:
    """One query server."""

    def __init__(
        self, stage: Stage, *, rows_max: int = 1000, drain_seconds: float = LIMIT_SECONDS, **settings: Any
    ) -> None:
        self.stage = stage
        domain = Domain("notes", aggregates=[], projections=[Notes().projection])
        self.freshness = FreshnessTracker(domain, waits_max=10)
        self.watches = WatchService(
            domain,
            self.freshness,
            stage.path,
            QueryServerSettings(watch_buffer_rows_max=rows_max, **settings),
            # Clients here are served by threads, which a busy machine delays by more than a second.
            drain_seconds=drain_seconds,
        )
        self.coming: Client | None = None
        self._begin = self.watches._begin
        setattr(self.watches, "_begin", self._begins)  # noqa: B010 - so that a client knows its watch.
        self._page = self.watches.reader._page
        setattr(self.watches.reader, "_page", self._pages)  # noqa: B010 - so that pages can be held back.
        self.gates = {"watch-live": Gate(), "watch-catch-up": Gate()}
        self._running = asyncio.create_task(self.watches.run())
        self.hear()

    def _begins(self, *args: Any) -> Any:
        watch = self._begin(*args)
        assert self.coming is not None
        self.coming.watch = watch
        return watch

    async def _pages(self, thread: Any, *args: Any) -> Any:
        page = await self._page(thread, *args)
        await self.gates[thread.name].pass_through()
        return page

    def hold(self, *, live: bool = False, catch_up: bool = False) -> None:
        """Hold back pages for the hubs or for catching up watches, until the next call."""
        for held, gate in zip((live, catch_up), self.gates.values(), strict=True):
            gate.set(held=held)

    def let(self, *, live: int = 0, catch_up: int = 0) -> None:
        """Let a number of held pages pass."""
        for pages, gate in zip((live, catch_up), self.gates.values(), strict=True):
            gate.let(pages)

    def hear(self) -> None:
        """Send the projector's state in a feed frame."""
        stage = self.stage
        self.freshness.on_head(len(stage.events), IDENTITY)
        said = feed_pb2.ProjectionFeed(
            name="notes",
            version=stage.writer.projection.version,
            generation=stage.writer.generation,
            state=RUNNING,
            applied_position=stage.folded,
            changed_position=stage.changed,
        )
        self.freshness.on_feed_frame(feed_pb2.FollowFeedResponse(projections=[said]))

    def poll(self) -> None:
        """Poll the store."""
        writer = self.stage.writer
        found = StoredGeneration(
            "notes", writer.generation, writer.projection.version, writer.stored.position, IDENTITY, False
        )
        self.freshness.on_store_poll([found])

    async def stop(self) -> None:
        """Stop as at SIGTERM."""
        self.hold()
        await self.watches.drain()
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        await self.watches.close()


class Cut:
    """A resume token, and the rows that its holder had."""

    def __init__(self, token: str, position: int, state: Rows) -> None:
        self.token = token
        self.position = position
        self.state = state


class Client:
    """A client that watches, takes frames as the test allows, and checks the promises of each frame."""

    def __init__(
        self, server: Server, view: str = "notes", keys: Sequence[str] | None = None, start: Cut | None = None
    ) -> None:
        self.server = server
        self.view = view
        self.keys = keys
        self._start = start
        self.state: Rows = dict(start.state) if start is not None else {}
        self.frames: list[WatchResponse] = []
        self.cuts: list[Cut] = []
        self.resets: list[ResetReason] = []
        self.ended: Refusal | None = None
        self.caught_up = start is not None
        self._last_position = start.position if start is not None else 0
        self._last_key: str | None = None
        self._row_versions: set[tuple[str, int]] = set()
        self._permits = asyncio.Semaphore(0)
        self._waits = False
        self.watch: Any = None
        self._unlimited = False
        request = WatchRequest(view=view, resume_token=start.token if start is not None else "")
        if keys is None:
            request.all.SetInParent()
        else:
            request.keys.keys.extend(keys)
        self._request = request.SerializeToString()
        self.task = asyncio.create_task(self._run())

    def take(self, frames: int | None = None) -> None:
        """Let the client take more frames; any number by default."""
        self._unlimited = self._unlimited or frames is None
        for _ in range(frames or 1):
            self._permits.release()
        self._waits = False

    async def leave(self) -> None:
        """Cancel the watch."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    @property
    def idle(self) -> bool:
        """True while the client waits, for the test or for a change."""
        if self.task.done():
            self.task.result()
            return True
        if self._waits:
            return True
        watch, watches = self.watch, self.server.watches
        if watch is None or watches.reader.under_way:
            return False
        return (
            watch.subscriber.state is SubscriberState.SYNCED
            and watch.hub.is_idle
            and not watch.subscriber.woken.is_set()
        )

    @property
    def position(self) -> int:
        """Position of its last cut."""
        return self.cuts[-1].position if self.cuts else 0

    async def _run(self) -> None:
        context = RequestContext(TransportCallStub())
        self.server.coming = self
        try:
            async with aclosing(self.server.watches.watch(self._request, context)) as frames:  # type: ignore[type-var]
                async for data in frames:
                    self._check(WatchResponse.FromString(data))
                    if not self._unlimited:
                        self._waits = True
                        await self._permits.acquire()
                        self._waits = False
        except Refusal as refusal:
            self.ended = refusal

    def _check(self, frame: WatchResponse) -> None:
        self.frames.append(frame)
        match frame.WhichOneof("frame"):
            case "rows":
                assert frame.rows.rows
                for row in frame.rows.rows:
                    self._check_row(row)
            case "caught_up":
                self.caught_up = True
            case "reset":
                self.resets.append(frame.reset.reason)
                self.state, self.caught_up, self._last_key, self._last_position = {}, False, None, 0
                self._row_versions.clear()
            case "progress":
                assert frame.resume_token
                assert frame.progress.position >= self.position
        if frame.resume_token:
            self._check_cut(frame.resume_token)

    def _check_row(self, row: Any) -> None:
        assert (row.key, row.position) not in self._row_versions, "unique"
        self._row_versions.add((row.key, row.position))
        assert self.keys is None or row.key in self.keys
        before = self.state.get(row.key)
        assert before is None or before[0] < row.position, "a row never goes back"
        if self.caught_up:
            assert row.position >= self._last_position, "ordered"
            self._last_position = row.position
        if row.HasField("deleted"):
            self.state.pop(row.key, None)
        else:
            assert row.row.TypeName() == ("notes.v1.Note" if self.view == "notes" else "notes.v1.Tag")
            self.state[row.key] = (row.position, row.row.value)

    def _check_cut(self, text: str) -> None:
        token = ResumeToken.decode(text, watched(self.view, self.keys))
        assert token.position >= self.position or self.resets
        assert self.state == self.view_at(token.position), f"consistent at {token.position}: {self.story()}"
        self.cuts.append(Cut(text, token.position, dict(self.state)))

    def story(self) -> str:
        """Return all frames as text, for the message of a failure."""
        told = []
        for frame in self.frames:
            rows = [f"{row.key}@{row.position}{'' if row.HasField('row') else ' deleted'}" for row in frame.rows.rows]
            token = frame.resume_token and ResumeToken.decode(frame.resume_token, watched(self.view, self.keys))
            told.append(f"{frame.WhichOneof('frame')} {' '.join(rows)}{f' -> {token.position}' if token else ''}")
        start = f" from {sorted(self._start.state)} at {self._start.position}" if self._start is not None else ""
        return f"{self.view} {self.keys or 'all'}{start}: {'; '.join(told)}; it is {self.state}"

    def view_at(self, position: int) -> Rows:
        """Return the watched rows at a position."""
        rows = self.server.stage.history[self.view][position]
        return {key: row for key, row in rows.items() if self.keys is None or key in self.keys}


async def quiet(clients: Iterable[Client]) -> None:
    """Wait until clients are sent no more frames for the changes so far."""
    calm = 0
    async with asyncio.timeout(LIMIT_SECONDS):
        while calm < 5:
            await asyncio.sleep(0.001 if calm == 0 else 0)
            calm = calm + 1 if all(client.idle for client in clients) else 0
