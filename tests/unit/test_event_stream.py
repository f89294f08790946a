"""The event stream: nothing is lost, doubled or reordered where the store meets memory."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from command_server.event_tail import EventTail, TailClosed
from command_server.store.records import Decided, NewEvent, Reads
from command_server.store.sqlite_store import SqliteEventStore
from diptych.contract.frames import recorded
from diptych.server.settings import CommandServerSettings
from diptych.v1.events_pb2 import RecordedEvent

KINDS = ("test.One", "test.Two")


class Log:
    """A store and its stream, with as little memory as a test wants."""

    def __init__(self, folder: Path, events_max: int, bytes_max: int = 1 << 20) -> None:
        self.store = SqliteEventStore(folder / "log.db")
        limits = {"tail_events_max": events_max, "tail_bytes_max": bytes_max}
        self.settings = CommandServerSettings.model_validate(limits)
        self.written: list[str] = []

    async def __aenter__(self) -> Log:
        await self.store.open()
        self.stream = EventTail(self.store, await self.store.head(), self.settings)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.store.close()

    async def append(self, count: int, random_kind: random.Random) -> None:
        events = []
        for _ in range(count):
            kind = random_kind.choice(KINDS)
            self.written.append(kind)
            body = RecordedEvent(version=len(self.written), event_id=f"e{len(self.written)}").SerializeToString()
            events.append(NewEvent("test/a", len(self.written), kind, body))
        reads = Reads({"test/a": len(self.written) - count}, {}, ())
        committed = await self.store.commit(reads, lambda loaded: Decided(events=events))
        self.stream.publish(committed, [one.type for one in events], {"test/a": len(self.written)})

    def positions(self, types: frozenset[str]) -> list[int]:
        return [index + 1 for index, kind in enumerate(self.written) if not types or kind in types]


async def follow(log: Log, after: int, until: int, types: frozenset[str], pace: random.Random) -> list[int]:
    """What a subscriber sees that stops now and then, so that it falls out of memory and comes back."""
    seen: list[int] = []
    position = after
    async with asyncio.timeout(30):
        while position < until:
            page = await log.stream.read(position, types)
            seen += [recorded(one).position for one in page.frames]
            assert page.position >= position
            if page.position > position:
                assert recorded(page.last_frame).position == page.position
            position = page.position
            for _ in range(pace.randrange(4)):
                await asyncio.sleep(0)
            if log.stream.head <= position < until:
                await log.stream.wait_beyond(position, 30)
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


async def test_memory_is_bounded_and_ends_at_the_head(tmp_path: Path) -> None:
    async with Log(tmp_path, events_max=10) as log:
        for _ in range(50):
            await log.append(3, random.Random(1))
            assert log.stream.head - log.stream.memory_start + 1 <= 10
        assert log.stream.head == 150


async def test_a_batch_larger_than_memory_is_read_from_the_store(tmp_path: Path) -> None:
    async with Log(tmp_path, events_max=10, bytes_max=1024) as log:
        await log.append(500, random.Random(1))
        assert await follow(log, 0, 500, frozenset(), random.Random(2)) == list(range(1, 501))


async def test_a_waiting_subscriber_is_woken_and_a_late_one_does_not_wait(tmp_path: Path) -> None:
    async with Log(tmp_path, events_max=10) as log:
        waiting = asyncio.create_task(log.stream.wait_beyond(0, 30))
        await asyncio.sleep(0)
        await log.append(1, random.Random(1))
        assert await waiting
        assert await log.stream.wait_beyond(0, 30)
        assert not await log.stream.wait_beyond(1, 0.01)


async def test_a_stopping_server_ends_every_wait(tmp_path: Path) -> None:
    async with Log(tmp_path, events_max=10) as log:
        waiting = asyncio.create_task(log.stream.wait_beyond(0, 30))
        await asyncio.sleep(0)
        log.stream.close()
        with pytest.raises(TailClosed):
            await waiting
        with pytest.raises(TailClosed):
            await log.stream.wait_beyond(0, 30)
