"""The conformance suite of event stores. A backend is one more parameter of the fixture `backend`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from command_server.store.event_store import EventStore
from command_server.store.records import (
    Committed,
    Decided,
    Loaded,
    NewEvent,
    ParkedInput,
    Reads,
    Request,
    Snapshot,
    Work,
    WorkKind,
)
from command_server.store.sqlite_store import SqliteEventStore
from diptych.contract.frames import frame, recorded
from diptych.server.errors import StartError
from diptych.v1.events_pb2 import RecordedEvent

SHAPE = b"shape-01"


class Backend:
    """One log, which a test opens several times."""

    def __init__(self, name: str, folder: Path) -> None:
        assert name == "sqlite"
        self._folder = folder

    @asynccontextmanager
    async def open(self, *, exclusive: bool = True) -> AsyncIterator[EventStore]:
        store = SqliteEventStore(self._folder / "log.db", "test", exclusive=exclusive)
        await store.open()
        try:
            yield store
        finally:
            await store.close()


@pytest.fixture(params=["sqlite"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return Backend(request.param, tmp_path)


@pytest.fixture
async def store(backend: Backend) -> AsyncIterator[EventStore]:
    async with backend.open() as opened:
        yield opened


@pytest.fixture
async def writers(backend: Backend) -> AsyncIterator[tuple[EventStore, EventStore]]:
    """Two stores of one log, as two command servers have them."""
    async with backend.open(exclusive=False) as one, backend.open(exclusive=False) as other:
        yield one, other


def event(stream: str, version: int, kind: str = "test.Happened") -> NewEvent:
    return NewEvent(
        stream, version, kind, RecordedEvent(version=version, event_id=f"{stream}@{version}").SerializeToString()
    )


def reads(*streams: str, requests: Sequence[str] = (), cached: Mapping[str, int] | None = None) -> Reads:
    versions = cached or {}
    return Reads({name: versions.get(name, -1) for name in streams}, {"test": SHAPE}, requests)


async def append(store: EventStore, *events: NewEvent, **decided: object) -> Committed:
    return await store.commit(
        reads(*{one.stream for one in events}),
        lambda loaded: Decided(events=events, **decided),  # type: ignore[arg-type]
    )


async def load(store: EventStore, what: Reads, lookups: Sequence[str] = ()) -> Loaded:
    calls: list[Loaded] = []

    def decide(loaded: Loaded) -> Decided:
        calls.append(loaded)
        return Decided(lookups=[key for key in lookups if key not in loaded.holders])

    await store.commit(what, decide)
    return calls[-1]


async def position(store: EventStore) -> int:
    return (await store.head()).position


async def all_events(store: EventStore, *types: str) -> list[RecordedEvent]:
    events: list[RecordedEvent] = []
    position = 0
    while True:
        page = await store.read_log(position, types=types, events_max=3, bytes_max=1 << 20)
        events += [recorded(one) for one in page.frames]
        if not page.last_frame:
            return events
        position = page.position


async def test_positions_ascend_from_1_without_gaps(store: EventStore) -> None:
    first = await append(store, event("test/a", 1), event("test/b", 1))
    second = await append(store, event("test/a", 2))
    assert (first.first_position, second.first_position, await position(store)) == (1, 3, 3)
    assert [one.position for one in await all_events(store)] == [1, 2, 3]
    assert [recorded(one).position for one in (*first.frames, *second.frames)] == [1, 2, 3]


async def test_committed_events_are_read_as_the_same_bytes(store: EventStore) -> None:
    committed = await append(store, event("test/a", 1), event("test/b", 1))
    page = await store.read_log(0, events_max=10, bytes_max=1 << 20)
    assert list(page.frames) == list(committed.frames)
    assert (page.position, page.last_frame) == (2, committed.frames[1])
    assert await store.frame_at(2) == committed.frames[1]


async def test_a_commit_is_complete_after_reopening(backend: Backend) -> None:
    async with backend.open() as store:
        identity = (await store.head()).identity
        await append(
            store,
            event("test/a", 1),
            requests={"k": Request(b"d", "test/a", 1, -1)},
            claims={"test.email:x": "test/a"},
            snapshots={"test/a": Snapshot(1, SHAPE, b"state")},
        )
    async with backend.open() as store:
        assert await store.head() == (identity, 1)
        loaded = await load(store, reads("test/a", requests=["k"]), ["test.email:x"])
        assert loaded.streams["test/a"] == (1, 1)
        assert loaded.requests == {"k": Request(b"d", "test/a", 1, 1)}
        assert loaded.holders == {"test.email:x": "test/a"}
        assert loaded.histories["test/a"] == (Snapshot(1, SHAPE, b"state"), [])


async def test_a_second_process_is_refused_with_the_address_of_the_first(backend: Backend) -> None:
    async with backend.open():
        with pytest.raises(StartError, match=r"log\.db is in use by another process \(pid=\d+ address=test\)"):
            async with backend.open():
                pass


async def test_an_exception_in_the_decision_records_nothing(store: EventStore) -> None:
    def decide(loaded: Loaded) -> Decided:
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        await store.commit(reads("test/a"), decide)
    assert await position(store) == 0
    assert (await append(store, event("test/a", 1))).first_position == 1


async def test_a_batch_without_events_takes_no_position(store: EventStore) -> None:
    await append(store, event("test/a", 1))
    committed = await store.commit(reads(), lambda loaded: Decided(requests={"k": Request(b"d", "test/a", 1, 1)}))
    assert (committed.frames, await position(store)) == ([], 1)
    assert (await load(store, reads(requests=["k"]))).requests["k"].position == 1


async def test_a_history_is_loaded_only_when_the_cached_version_is_stale(store: EventStore) -> None:
    await append(store, event("test/a", 1), event("test/a", 2))
    fresh = await load(store, reads("test/a", cached={"test/a": 2}))
    stale = await load(store, reads("test/a", cached={"test/a": 1}))
    assert fresh.histories == {}
    assert [recorded(one).version for one in stale.histories["test/a"].frames] == [1, 2]


async def test_a_history_begins_at_the_snapshot_unless_its_shape_differs(store: EventStore) -> None:
    await append(store, event("test/a", 1), event("test/a", 2), snapshots={"test/a": Snapshot(1, SHAPE, b"s")})
    await append(store, event("test/a", 3))
    history = (await load(store, reads("test/a"))).histories["test/a"]
    assert history.snapshot == (1, SHAPE, b"s")
    assert [recorded(one).version for one in history.frames] == [2, 3]
    other = await load(store, reads("test/a")._replace(shapes={"test": b"another!"}))
    assert other.histories["test/a"].snapshot is None
    assert len(other.histories["test/a"].frames) == 3


async def test_unique_values_are_taken_moved_and_released(store: EventStore) -> None:
    await store.commit(reads(), lambda loaded: Decided(claims={"u:1": "test/a", "u:2": "test/a"}))
    await store.commit(reads(), lambda loaded: Decided(claims={"u:1": None, "u:2": "test/b"}))
    assert (await load(store, reads(), ["u:1", "u:2"])).holders == {"u:1": None, "u:2": "test/b"}


async def test_a_filtered_read_advances_over_other_types(store: EventStore) -> None:
    await append(store, event("test/a", 1), event("test/a", 2, "test.Other"), event("test/a", 3))
    page = await store.read_log(0, types=["test.Other"], events_max=10, bytes_max=1 << 20)
    assert [recorded(one).version for one in page.frames] == [2]
    assert page.position == 3
    assert recorded(page.last_frame).version == 3
    nothing = await store.read_log(0, types=["test.Never"], events_max=10, bytes_max=1 << 20)
    assert (nothing.frames, nothing.position) == ([], 3)


async def test_a_page_ends_at_its_limits_of_events_and_bytes(store: EventStore) -> None:
    await append(store, *(event("test/a", version) for version in range(1, 8)))
    assert len((await store.read_log(0, events_max=3, bytes_max=1 << 20)).frames) == 3
    assert len((await store.read_log(0, events_max=9, bytes_max=1)).frames) == 1
    assert [one.version for one in await all_events(store)] == list(range(1, 8))


async def test_a_page_at_the_head_is_empty_and_does_not_advance(store: EventStore) -> None:
    await append(store, event("test/a", 1))
    for types in ((), ("test.Happened",)):
        page = await store.read_log(1, types=types, events_max=9, bytes_max=1 << 20)
        assert (list(page.frames), page.position, page.last_frame) == ([], 1, b"")


async def test_streams_are_read_by_version(store: EventStore) -> None:
    await append(store, event("test/a", 1), event("test/b", 1), event("test/a", 2), event("test/a", 3))
    assert [recorded(one).position for one in await store.read_stream("test/a", 2, 10)] == [3, 4]
    assert [recorded(one).position for one in await store.read_stream("test/a", 1, 2)] == [1, 3]
    assert list(await store.read_stream("test/none", 1, 10)) == []
    assert await store.position_of("test/a", 3) == 4
    assert await store.position_of("test/a", 4) is None
    assert await store.frame_at(9) is None


async def test_concurrent_commits_lose_nothing(store: EventStore) -> None:
    """Commit twenty appends at once (Eventuous #582 lost ten of them)."""

    async def one(number: int) -> None:
        await append(store, event(f"test/{number}", 1))

    await asyncio.gather(*(one(number) for number in range(20)))
    found = await all_events(store)
    assert [entry.position for entry in found] == list(range(1, 21))
    assert len({entry.event_id for entry in found}) == 20


Step = Callable[[EventStore], Awaitable[None]]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.tuples(st.sampled_from("abcde"), st.booleans()), min_size=1, max_size=6), max_size=12))
def test_the_store_equals_its_model(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[str, bool]]]
) -> None:
    """The log is the list of all appended events, and each stream is its part of that list."""
    asyncio.run(_check_against_model(tmp_path_factory.mktemp("log"), batches))


async def _check_against_model(folder: Path, batches: list[list[tuple[str, bool]]]) -> None:
    log: list[tuple[str, int, str]] = []
    versions: dict[str, int] = {}
    async with Backend("sqlite", folder).open() as store:
        for batch in batches:
            events = []
            for name, other in batch:
                stream = f"test/{name}"
                versions[stream] = versions.get(stream, 0) + 1
                kind = "test.Other" if other else "test.Happened"
                events.append(event(stream, versions[stream], kind))
                log.append((stream, versions[stream], kind))
            await append(store, *events)
    async with Backend("sqlite", folder).open() as store:
        expected = [f"{stream}@{version}" for stream, version, _ in log]
        assert [one.event_id for one in await all_events(store)] == expected
        others = [f"{stream}@{version}" for stream, version, kind in log if kind == "test.Other"]
        assert [one.event_id for one in await all_events(store, "test.Other")] == others
        for stream, version in versions.items():
            found = await store.read_stream(stream, 1, 100)
            assert [recorded(one).version for one in found] == list(range(1, version + 1))
            position = await store.position_of(stream, version)
            assert position is not None
            assert log[position - 1][:2] == (stream, version)


def test_a_frame_is_an_element_of_a_batch() -> None:
    body = RecordedEvent(version=7, event_id="id").SerializeToString()
    assert recorded(frame(300, body)) == RecordedEvent(position=300, version=7, event_id="id")


def work(position: int, ordinal: int = 0, due: int = 0) -> Work:
    return Work(position, ordinal, "process", "p1", WorkKind.TIMEOUT if due else WorkKind.COMMAND, due)


async def test_work_is_opened_with_its_step_and_closed_with_its_outcome(backend: Backend) -> None:
    async with backend.open() as store:
        await append(store, event("test/a", 1))
        await append(store, event("test/b", 1), event("test/p", 1), opened=[work(-2), work(-2, 1, due=77)])
        assert await store.read_work((0, 0), 10) == [work(3), work(3, 1, due=77)]
        await append(store, event("test/p", 2), opened=[work(-1)], settled=[(3, 0), (99, 0)])
    async with backend.open() as store:
        assert await store.read_work((0, 0), 10) == [work(3, 1, due=77), work(4)]
        assert await store.read_work((0, 0), 1) == [work(3, 1, due=77)]
        assert await store.read_work((3, 1), 10) == [work(4)]
        await store.commit(reads(), lambda loaded: Decided(settled=[(3, 1), (4, 0)]))
        assert await store.read_work((0, 0), 10) == []


async def test_timeouts_are_read_in_the_order_of_due_time_and_key(store: EventStore) -> None:
    opened = [work(-1), work(-1, 1, due=70), work(-1, 2, due=50), work(-2, 0, due=70), work(-2, 1, due=60)]
    await append(store, event("test/p", 1), event("test/q", 1), opened=opened)
    ordered = [work(1, 2, due=50), work(2, 1, due=60), work(1, 1, due=70), work(2, 0, due=70)]
    assert await store.read_timeouts(0, (0, 0), 10) == ordered
    assert await store.read_timeouts(0, (0, 0), 2) == ordered[:2]
    assert await store.read_timeouts(60, (2, 1), 10) == ordered[2:]
    assert await store.read_timeouts(70, (1, 1), 10) == ordered[3:]
    assert await store.read_timeouts(70, (2, 0), 10) == []


async def test_running_instances_are_counted_once(store: EventStore) -> None:
    other = work(-2)._replace(instance="p2")
    await append(store, event("test/p", 1), event("test/q", 1), opened=[work(-1), work(-1, 1, due=70), other])
    assert (await store.count_running("process"), await store.count_running("another")) == (2, 0)


async def test_a_commit_that_fails_opens_and_settles_nothing(store: EventStore) -> None:
    await append(store, event("test/p", 1), opened=[work(-1)])
    with pytest.raises(Exception, match="UNIQUE"):
        await append(store, event("test/p", 2), event("test/p", 2), opened=[work(-1)], settled=[(1, 0)])
    assert await store.read_work((0, 0), 10) == [work(1)]


async def test_marks_of_processes_are_there_after_reopening(backend: Backend) -> None:
    async with backend.open() as store:
        assert await store.process_marks() == {}
        await store.put_process_marks({"one": 5, "two": 6})
        await store.put_process_marks({"one": 7})
    async with backend.open() as store:
        assert await store.process_marks() == {"one": 7, "two": 6}


async def test_event_type_that_is_not_in_the_domain_is_named_with_its_first_position(backend: Backend) -> None:
    async with backend.open() as store:
        await append(store, event("test/p", 1), event("test/p", 2, "test.Done"), event("test/p", 3, "test.Done"))
        assert await store.take_event_types(["test.Other"]) == [("test.Happened", 1), ("test.Done", 2)]
        assert await store.take_event_types(["test.Happened", "test.Done", "test.Never"]) == []
    async with backend.open() as store:
        assert await store.take_event_types(["test.Happened"]) == [("test.Done", 2)]
        assert await store.take_event_types(["test.Happened", "test.Done"]) == []


async def test_event_type_recorded_after_it_was_taken_is_named_when_it_is_gone(backend: Backend) -> None:
    async with backend.open() as store:
        assert await store.take_event_types(["test.Happened", "test.Done"]) == []
        await append(store, event("test/p", 1))
    async with backend.open() as store:
        assert await store.take_event_types(["test.Done"]) == [("test.Happened", 1)]


async def test_parked_inputs_are_there_after_reopening(backend: Backend) -> None:
    first = ParkedInput("process", "p1", 9, -1, "ValueError: no", 1, 1234, b"")
    second = ParkedInput("process", "p1", 12, 1, "", 0, 1235, b"outcome")
    async with backend.open() as store:
        await store.put_parked([second, first])
        await store.put_parked([first._replace(attempts=2)])
    async with backend.open() as store:
        assert await store.parked_inputs() == [first._replace(attempts=2), second]
        await store.delete_parked([first.key, first.key])
        assert await store.parked_inputs() == [second]


# Two stores write one log.


async def test_head_includes_events_of_another_writer(writers: tuple[EventStore, EventStore]) -> None:
    one, other = writers
    assert (await one.head()).identity == (await other.head()).identity
    await append(other, event("test/b", 1), event("test/b", 2))
    assert (await position(one), await position(other)) == (2, 2)


async def test_beyond_returns_when_another_writer_commits(writers: tuple[EventStore, EventStore]) -> None:
    one, other = writers
    waiting = asyncio.create_task(one.beyond(0, 30))
    await asyncio.sleep(0)
    assert not waiting.done()
    await append(other, event("test/b", 1))
    async with asyncio.timeout(20):
        assert (await waiting).position == 1


async def test_beyond_returns_the_head_at_once_when_it_is_beyond(store: EventStore) -> None:
    await append(store, event("test/a", 1), event("test/a", 2))
    async with asyncio.timeout(20):
        assert (await store.beyond(1, 1000)).position == 2


async def test_beyond_returns_the_head_when_the_time_is_up(store: EventStore) -> None:
    await append(store, event("test/a", 1))
    assert (await store.beyond(1, 0)).position == 1
    assert (await store.beyond(1, 0.01)).position == 1


async def test_positions_stay_gapless_when_two_writers_commit_in_turns(writers: tuple[EventStore, EventStore]) -> None:
    for number in range(1, 11):
        committed = await append(writers[number % 2], event("test/a", number))
        assert committed.first_position == number
    for store in writers:
        assert [(one.position, one.version) for one in await all_events(store)] == [(n, n) for n in range(1, 11)]


async def test_positions_stay_gapless_when_two_writers_commit_at_once(writers: tuple[EventStore, EventStore]) -> None:
    await asyncio.gather(*(append(writers[number % 2], event(f"test/{number}", 1)) for number in range(20)))
    assert [one.position for one in await all_events(writers[0])] == list(range(1, 21))


async def test_first_position_without_events_follows_the_head_of_all_writers(
    writers: tuple[EventStore, EventStore],
) -> None:
    one, other = writers
    await append(other, event("test/b", 1))
    assert (await one.commit(reads(), lambda loaded: Decided())).first_position == 2


async def test_a_cached_version_is_stale_when_another_writer_has_appended(
    writers: tuple[EventStore, EventStore],
) -> None:
    one, other = writers
    await append(one, event("test/a", 1))
    await append(other, event("test/a", 2))
    loaded = await load(one, reads("test/a", cached={"test/a": 1}))
    assert loaded.streams["test/a"] == (2, 2)
    assert [recorded(frame).version for frame in loaded.histories["test/a"].frames] == [1, 2]


async def test_a_commit_loads_what_another_writer_took(writers: tuple[EventStore, EventStore]) -> None:
    one, other = writers
    first = Request(b"d", "test/b", 1, -1)
    await append(other, event("test/b", 1), requests={"k": first}, claims={"u:1": "test/b"})
    loaded = await load(one, reads("test/a", requests=["k"]), ["u:1"])
    assert loaded.requests == {"k": first._replace(position=1)}
    assert loaded.holders == {"u:1": "test/b"}


async def test_a_decision_on_values_that_were_not_read_is_made_again_with_them(
    writers: tuple[EventStore, EventStore],
) -> None:
    """The decision loses a race, like one that was made before the write lock was held."""
    one, other = writers
    await append(other, event("test/b", 1), requests={"k": Request(b"d", "test/b", 1, -1)}, claims={"u:1": "test/b"})
    calls: list[Loaded] = []

    def decide(loaded: Loaded) -> Decided:
        calls.append(loaded)
        free = not loaded.requests.get("k") and not loaded.holders.get("u:1") and "test/b" not in loaded.streams
        if free:
            return Decided(
                events=[event("test/b", 1), event("test/a", 1)],
                requests={"k": Request(b"e", "test/b", 1, -1)},
                claims={"u:1": "test/a"},
            )
        return Decided(events=[event("test/a", 1)])

    committed = await one.commit(reads("test/a"), decide)
    assert committed.first_position == 2
    assert len(calls) == 2
    assert calls[1].streams is not calls[0].streams
    assert calls[1].streams == {"test/b": (1, 1)}
    assert set(calls[1].requests) == {"k"}
    assert calls[1].holders == {"u:1": "test/b"}
    assert [one.event_id for one in await all_events(other)] == ["test/b@1", "test/a@1"]
    assert (await load(other, reads(requests=["k"]), ["u:1"])).holders == {"u:1": "test/b"}


async def test_a_request_id_is_never_recorded_twice(store: EventStore) -> None:
    request = Request(b"d", "test/a", 1, 0)
    await store.commit(reads(), lambda loaded: Decided(requests={"k": request}))
    with pytest.raises(Exception, match="UNIQUE"):
        await store.commit(reads(), lambda loaded: Decided(requests={"k": request._replace(digest=b"e")}))
    assert (await load(store, reads(requests=["k"]))).requests == {"k": request}


# Parked inputs.


async def test_a_commit_unparks_an_input_with_its_step(backend: Backend) -> None:
    first = ParkedInput("process", "p1", 9, -1, "ValueError: no", 1, 1234, b"")
    second = ParkedInput("process", "p1", 12, 1, "", 0, 1235, b"outcome")
    async with backend.open() as store:
        await store.put_parked([first, second])
        await append(store, event("test/p", 1), unparked=[first.key, ("process", "p2", 1, -1)])
    async with backend.open() as store:
        assert await store.parked_inputs() == [second]


async def test_a_commit_that_fails_unparks_nothing(store: EventStore) -> None:
    first = ParkedInput("process", "p1", 9, -1, "ValueError: no", 1, 1234, b"")
    await store.put_parked([first])
    with pytest.raises(Exception, match="UNIQUE"):
        await append(store, event("test/p", 1), event("test/p", 1), unparked=[first.key])
    assert await store.parked_inputs() == [first]


# Request ids that are forgotten.


async def test_requests_are_read_with_their_acceptance_times_in_pages_of_keys(store: EventStore) -> None:
    for number, key in enumerate(("b", "c", "a")):
        decided = Decided(requests={key: Request(b"d", "test/a", 1, 0)}, accepted_at=number)
        await store.commit(reads(), lambda _, decided=decided: decided)  # type: ignore[misc]
    assert [tuple(row) for row in await store.request_times("", 2)] == [("a", 2), ("b", 0)]
    assert [tuple(row) for row in await store.request_times("b", 2)] == [("c", 1)]


async def test_only_requests_that_were_accepted_before_a_time_are_forgotten(backend: Backend) -> None:
    request = Request(b"d", "test/a", 1, 0)
    async with backend.open() as store:
        await store.commit(reads(), lambda _: Decided(requests={"old": request, "stays": request}, accepted_at=10))
        await store.commit(reads(), lambda _: Decided(requests={"new": request}, accepted_at=20))
        assert await store.forgotten_before() == 0
        assert await store.forget_requests(["old", "new", "unknown"], 20) == 1
        assert await store.forget_requests(["stays"], 5) == 0
    async with backend.open() as store:
        assert await store.forgotten_before() == 20, "it never decreases"
        loaded = await load(store, reads(requests=["old", "new", "stays"]))
        assert loaded.requests == {"new": request, "stays": request}
        await store.commit(reads(), lambda _: Decided(requests={"old": request}, accepted_at=30))
        assert (await load(store, reads(requests=["old"]))).requests == {"old": request}
