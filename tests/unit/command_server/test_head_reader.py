"""The head reader: concurrent callers share a read that begins after their calls."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from command_server.event_tail import EventTail
from command_server.head_reader import HeadReader
from command_server.store.event_store import StoreUnavailable
from command_server.store.records import Decided, LogHead, NewEvent, Reads
from command_server.store.sqlite_store import SqliteEventStore
from diptych.contract.token import LogIdentity, Token
from diptych.server.settings import CommandServerSettings

IDENTITY = LogIdentity.new()


class SlowStore:
    """A store whose reads of the head end when a test says so."""

    def __init__(self) -> None:
        self.reads: list[asyncio.Future[LogHead]] = []

    async def head(self) -> LogHead:
        self.reads.append(asyncio.get_running_loop().create_future())
        return await self.reads[-1]


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_call_during_a_read_gets_a_later_read() -> None:
    store = SlowStore()
    reader = HeadReader(store)  # type: ignore[arg-type]
    first = asyncio.create_task(reader.read())
    await turns()
    later = [asyncio.create_task(reader.read()) for _ in range(5)]
    await turns()
    assert len(store.reads) == 1
    store.reads[0].set_result(LogHead(IDENTITY, 1))
    await turns()
    assert len(store.reads) == 2
    store.reads[1].set_result(LogHead(IDENTITY, 2))
    assert (await first).position == 1
    assert {(await one).position for one in later} == {2}
    assert len(store.reads) == 2


async def test_a_cancelled_call_leaves_the_read_to_the_others() -> None:
    store = SlowStore()
    reader = HeadReader(store)  # type: ignore[arg-type]
    cancelled, other = asyncio.create_task(reader.read()), asyncio.create_task(reader.read())
    await turns()
    cancelled.cancel()
    await turns()
    store.reads[0].set_result(LogHead(IDENTITY, 1))
    assert (await other).position == 1


async def test_a_failed_read_fails_its_callers_and_no_later_one() -> None:
    store = SlowStore()
    reader = HeadReader(store)  # type: ignore[arg-type]
    failed = asyncio.create_task(reader.read())
    await turns()
    store.reads[0].set_exception(StoreUnavailable("planted"))
    with pytest.raises(StoreUnavailable):
        await failed
    later = asyncio.create_task(reader.read())
    await turns()
    store.reads[1].set_result(LogHead(IDENTITY, 1))
    assert (await later).position == 1


async def test_a_token_that_another_server_acknowledged_is_not_ahead(tmp_path: Path) -> None:
    one = SqliteEventStore(tmp_path / "log.db", exclusive=False)
    other = SqliteEventStore(tmp_path / "log.db", exclusive=False)
    await one.open()
    await other.open()
    tail = EventTail(one, await one.head(), CommandServerSettings.model_validate({}))
    reader = HeadReader(one)
    events = [NewEvent("test/a", 1, "test.Happened", b"")]
    committed = await other.commit(Reads({"test/a": -1}, {}, ()), lambda loaded: Decided(events=events))
    token = (await other.head()).identity.token(committed.first_position)
    head = await reader.read()
    assert tail.head == 0, "the tail has not followed yet"
    assert head.identity.judge(Token.parse(token)) <= head.position
    await one.close()
    await other.close()
