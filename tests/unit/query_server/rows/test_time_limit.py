"""Time limits of lists: a slow one is interrupted, and its reader thread serves others."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from structlog.testing import capture_logs

from diptych import Find, Projection
from diptych.contract.reasons import Overloaded
from diptych.contract.token import LogIdentity
from query_server.rows.row_reader import RowReader
from query_server.rows.time_limit import TimeLimit
from tests.support.read_store_file import StoreFile

things = Projection("things", version=1)
rows = things.view("things", StringValue)
search = rows.text("search", lambda row: row.value)

SLOW = Find(search.contains("a" * 4000 + "b"))
"""Compares the pattern at each letter of each row: a minute of work."""

LIMIT = "milliseconds for one read of the store"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoreFile]:
    made = StoreFile(tmp_path / "read.db", [things], LogIdentity.new())
    row = StringValue(value="a" * 20_000)
    made.write(rows, {f"k{number:03}": row for number in range(300)}, 1)
    yield made
    made.close()


@pytest.fixture
async def reader(store: StoreFile) -> AsyncIterator[RowReader]:
    made = RowReader(store.path, [things], readers=1)
    yield made
    await made.close()


async def test_bug_slow_list_held_its_reader_beyond_every_deadline(reader: RowReader) -> None:
    async with asyncio.timeout(15):
        with capture_logs() as logs, pytest.raises(Overloaded) as refused:
            await reader.find(rows, SLOW, limit=10, time_limit=TimeLimit(0.2, 30))
        assert refused.value == Overloaded(what=LIMIT, limit=200)
        assert logs == []
        page = await reader.find(rows, Find(), limit=10, time_limit=TimeLimit(30, 30))
        assert page.keys == [f"k{number:03}" for number in range(10)]
        assert (await reader.get(rows, "k007")).row


async def test_list_is_ended_by_the_greatest_duration_if_the_caller_allows_more(reader: RowReader) -> None:
    async with asyncio.timeout(15):
        with pytest.raises(Overloaded) as refused:
            await reader.find(rows, SLOW, limit=10, time_limit=TimeLimit(3600, 0.3))
    assert refused.value == Overloaded(what=LIMIT, limit=300)


async def test_list_whose_caller_leaves_is_interrupted(reader: RowReader) -> None:
    slow = asyncio.ensure_future(reader.find(rows, SLOW, limit=10))
    queued = asyncio.ensure_future(reader.find(rows, SLOW, limit=10))
    await asyncio.sleep(0)
    slow.cancel()
    queued.cancel()
    async with asyncio.timeout(15):
        assert len((await reader.find(rows, Find(), limit=10)).rows) == 10


async def test_list_is_refused_at_its_limit_while_it_waits_for_a_reader(reader: RowReader) -> None:
    slow = asyncio.ensure_future(reader.find(rows, SLOW, limit=10))
    await asyncio.sleep(0)
    async with asyncio.timeout(15):
        with pytest.raises(Overloaded):
            await reader.find(rows, Find(), limit=10, time_limit=TimeLimit(0.1, 30))
        assert not slow.done()
        slow.cancel()
        await reader.get(rows, "k000")


async def test_limit_interrupts_no_later_list(reader: RowReader) -> None:
    """Lists end at about the moment of their limits; the ones after them run to their end."""
    for number in itertools.count():
        limit = TimeLimit(number % 20 / 4000, 30)
        limited = asyncio.ensure_future(reader.find(rows, Find(), limit=5, time_limit=limit))
        assert len((await reader.find(rows, Find(), limit=5)).rows) == 5
        await asyncio.wait((limited,))
        if limited.exception() is not None:
            assert isinstance(limited.exception(), Overloaded)
        if number >= 100:
            break


def test_limit_is_extended_by_later_callers_up_to_the_greatest_duration() -> None:
    limit = TimeLimit(1, 10)
    began_at = limit.until - 1
    limit.extend(TimeLimit(0.5, 10))
    assert limit.milliseconds == 1000
    limit.extend(TimeLimit(5, 10))
    assert 6 > limit.until - began_at >= 5
    limit.extend(TimeLimit(60, 60))
    assert limit.milliseconds == 10_000
