"""The event tail: nothing is lost, doubled or reordered between the store and memory."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from command_server import event_tail
from command_server.event_tail import EventTail, TailClosed
from command_server.store.event_store import StoreUnavailable
from command_server.store.records import Committed, Decided, LogHead, NewEvent, Page, Reads
from command_server.store.sqlite_store import SqliteEventStore
from diptych.contract.frames import recorded
from diptych.server.settings import CommandServerSettings
from diptych.v1.events_pb2 import RecordedEvent

KINDS = ("test.One", "test.Two")


def recorded_event(version: int, kind: str) -> RecordedEvent:
    event = RecordedEvent(version=version, event_id=f"e{version}")
    event.aggregate.type, event.aggregate.id = "test", "a"
    event.event.type_url = f"type.googleapis.com/{kind}"
    return event


class Log:
    """A store and its tail, with as little memory as a test wants."""

    def __init__(self, folder: Path, events_max: int, bytes_max: int = 1 << 20) -> None:
        self.store = SqliteEventStore(folder / "log.db")
        limits = {"tail_events_max": events_max, "tail_bytes_max": bytes_max}
        self.settings = CommandServerSettings.model_validate(limits)
        self.written: list[str] = []

    async def __aenter__(self) -> Log:
        await self.store.open()
        self.tail = EventTail(self.store, await self.store.head(), self.settings)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.store.close()

    async def append(self, count: int, random_kind: random.Random) -> None:
        committed, events = await self.commit(count, random_kind)
        self.tail.publish(committed, [one.type for one in events], {"test/a": len(self.written)})

    async def commit(self, count: int, random_kind: random.Random) -> tuple[Committed, list[NewEvent]]:
        """Record events without publishing them, as another server does."""
        events = []
        for _ in range(count):
            kind = random_kind.choice(KINDS)
            self.written.append(kind)
            body = recorded_event(len(self.written), kind).SerializeToString()
            events.append(NewEvent("test/a", len(self.written), kind, body))
        reads = Reads({"test/a": len(self.written) - count}, {}, ())
        return await self.store.commit(reads, lambda loaded: Decided(events=events)), events

    def positions(self, types: frozenset[str]) -> list[int]:
        return [index + 1 for index, kind in enumerate(self.written) if not types or kind in types]


async def follow(log: Log, after: int, until: int, types: frozenset[str], pace: random.Random) -> list[int]:
    """Return the positions that a subscriber receives; it pauses at random, so that it falls out of memory."""
    seen: list[int] = []
    position = after
    async with asyncio.timeout(30):
        while position < until:
            page = await log.tail.read(position, types)
            seen += [recorded(one).position for one in page.frames]
            assert page.position >= position
            if page.position > position:
                assert recorded(page.last_frame).position == page.position
            position = page.position
            for _ in range(pace.randrange(4)):
                await asyncio.sleep(0)
            if log.tail.head <= position < until:
                await log.tail.wait_beyond(position, 30)
    return seen


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    events_max=st.integers(1, 30),
    bytes_max=st.sampled_from([1024, 1 << 20]),
    batches=st.lists(st.integers(1, 12), min_size=1, max_size=25),
)
def test_every_subscriber_sees_every_position_once_in_order(
    tmp_path_factory: pytest.TempPathFactory, seed: int, events_max: int, bytes_max: int, batches: list[int]
) -> None:
    async def run() -> None:
        chance = random.Random(seed)
        total = sum(batches)
        async with Log(tmp_path_factory.mktemp("log"), events_max, bytes_max) as log:
            wanted: list[tuple[int, frozenset[str]]] = [
                (chance.randrange(total), frozenset(chance.choice([(), KINDS[:1], KINDS]))) for _ in range(4)
            ]
            followers = [
                asyncio.create_task(follow(log, after, total, types, random.Random(seed + number)))
                for number, (after, types) in enumerate(wanted)
            ]
            for count in batches:
                await log.append(count, chance)
            for (after, types), follower in zip(wanted, followers, strict=True):
                assert await follower == [one for one in log.positions(types) if one > after]

    asyncio.run(run())


async def test_memory_stays_within_its_limit_and_ends_at_the_head(tmp_path: Path) -> None:
    async with Log(tmp_path, events_max=10) as log:
        for _ in range(50):
            await log.append(3, random.Random(1))
            assert log.tail.head - log.tail.memory_start + 1 <= 10
        assert log.tail.head == 150


async def test_a_batch_larger_than_memory_is_read_from_the_store(tmp_path: Path) -> None:
    async with Log(tmp_path, events_max=10, bytes_max=1024) as log:
        await log.append(500, random.Random(1))
        assert await follow(log, 0, 500, frozenset(), random.Random(2)) == list(range(1, 501))


async def test_wait_beyond_returns_when_an_event_is_appended_and_at_once_when_it_is_there(tmp_path: Path) -> None:
    async with Log(tmp_path, events_max=10) as log:
        waiting = asyncio.create_task(log.tail.wait_beyond(0, 30))
        await asyncio.sleep(0)
        await log.append(1, random.Random(1))
        assert await waiting
        assert await log.tail.wait_beyond(0, 30)
        assert not await log.tail.wait_beyond(1, 0.01)


async def test_close_ends_every_wait_now_and_later(tmp_path: Path) -> None:
    async with Log(tmp_path, events_max=10) as log:
        waiting = asyncio.create_task(log.tail.wait_beyond(0, 30))
        await asyncio.sleep(0)
        log.tail.close()
        with pytest.raises(TailClosed):
            await waiting
        with pytest.raises(TailClosed):
            await log.tail.wait_beyond(0, 30)


# Events of other writers.


async def page(log: Log, after: int, events_max: int) -> Page:
    return await log.store.read_log(after, events_max=events_max, bytes_max=1 << 20)


async def test_take_appends_a_page_that_continues_the_tail(tmp_path: Path) -> None:
    async with Log(tmp_path, events_max=100) as log:
        await log.append(3, random.Random(1))
        await log.commit(4, random.Random(2))
        await log.tail.take(await page(log, 3, 10))
        assert (log.tail.head, log.tail.memory_start) == (7, 1)
        for types in (frozenset[str](), frozenset(KINDS[:1])):
            assert await follow(log, 0, 7, types, random.Random(3)) == log.positions(types)


async def test_take_skips_events_that_the_tail_has(tmp_path: Path) -> None:
    async with Log(tmp_path, events_max=100) as log:
        await log.append(5, random.Random(1))
        await log.commit(1, random.Random(1))
        await log.tail.take(await page(log, 0, 3))
        assert log.tail.head == 5
        await log.tail.take(await page(log, 2, 10))
        assert await follow(log, 0, 6, frozenset(), random.Random(3)) == [1, 2, 3, 4, 5, 6]


async def test_take_reads_a_gap_from_the_store(tmp_path: Path) -> None:
    async with Log(tmp_path, events_max=5000) as log:
        await log.append(1, random.Random(1))
        await log.commit(2500, random.Random(1))
        await log.tail.take(await page(log, 2400, 10))
        assert log.tail.head == 2501, "the last page that was read for the gap reaches to the head"
        assert await follow(log, 0, 2501, frozenset(), random.Random(3)) == list(range(1, 2502))


async def test_publish_leaves_a_gap_to_run(tmp_path: Path) -> None:
    async with Log(tmp_path, events_max=100) as log:
        await log.commit(2, random.Random(1))
        await log.append(2, random.Random(1))
        assert log.tail.head == 0, "a commit that does not continue the tail is not appended"
        running = asyncio.create_task(log.tail.run())
        assert await log.tail.wait_beyond(3, 30)
        await log.append(2, random.Random(1))
        assert await follow(log, 0, 6, frozenset(), random.Random(3)) == [1, 2, 3, 4, 5, 6]
        running.cancel()


async def test_publish_skips_events_that_run_has_taken(tmp_path: Path) -> None:
    async with Log(tmp_path, events_max=100) as log:
        committed, events = await log.commit(4, random.Random(1))
        await log.tail.take(await page(log, 0, 3))
        for _ in range(2):
            log.tail.publish(committed, [one.type for one in events], {"test/a": 4})
            assert await follow(log, 0, 4, frozenset(), random.Random(3)) == [1, 2, 3, 4]


async def test_run_wakes_subscribers_of_a_stream_for_events_of_another_writer(tmp_path: Path) -> None:
    async with Log(tmp_path, events_max=100) as log:
        running = asyncio.create_task(log.tail.run())
        with log.tail.version_wait("test/a", 1) as changed:
            await log.commit(1, random.Random(1))
            async with asyncio.timeout(30):
                await changed
        assert log.tail.head == 1
        running.cancel()


async def test_run_follows_again_when_the_store_is_available_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_tail, "_RETRY_SECONDS", 0)
    async with Log(tmp_path, events_max=100) as log:
        failures = iter([StoreUnavailable("planted")] * 3)
        beyond = log.store.beyond

        async def failing(position: int, seconds: float) -> LogHead:
            for failure in failures:
                raise failure
            return await beyond(position, seconds)

        monkeypatch.setattr(log.store, "beyond", failing)
        await log.commit(3, random.Random(1))
        running = asyncio.create_task(log.tail.run())
        assert await log.tail.wait_beyond(2, 30)
        running.cancel()
