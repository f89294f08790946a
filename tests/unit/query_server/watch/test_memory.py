"""Bytes that watches hold: pages, unread frames and buffers, bounded for all watches together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from diptych.contract.reasons import Overloaded
from diptych.v1.read_model_pb2 import ResetReason
from query_server.watch import memory as watch_memory
from query_server.watch.change_reader import Change
from query_server.watch.memory import PAGE_BYTES_MIN, BufferMemory, WatchMemory
from query_server.watch.subscriber import Subscriber
from tests.support.clock import Clock
from tests.support.notes import Noted
from tests.support.polling import eventually
from tests.support.watch_stage import Client, Server, Stage, quiet

ROW = "x" * 4000
BYTES_MAX = 1 << 20


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = await Stage(tmp_path / "read.db").open()
    await stage.put(*(Noted(key=f"k{n:04d}", text=ROW) for n in range(300)))
    yield stage
    await stage.close()


async def test_bug_each_watch_whose_client_reads_nothing_held_a_page_of_its_own(stage: Stage) -> None:
    server = Server(stage, watch_bytes_max=BYTES_MAX)
    clients = []
    for _ in range(40):  # Each would hold 3 MiB.
        clients.append(Client(server))
        await eventually(lambda: clients[-1].ended is not None or clients[-1].frames)
        assert server.watches.memory.held <= BYTES_MAX
    refused = [client for client in clients if client.ended is not None]
    assert refused
    assert all(client.ended == Overloaded(what="bytes of watches", limit=BYTES_MAX) for client in refused)
    assert len(refused) < 35
    for client in clients:
        await client.leave()
    assert server.watches.memory.held == 0
    after = Client(server)
    after.take()
    await quiet([after])
    assert len(after.state) == 300
    await server.stop()
    assert server.watches.memory.held == 0


async def test_watch_that_reads_gets_room_from_one_that_does_not(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_memory, "UNREAD_SECONDS", 0.01)
    server = Server(stage, watch_bytes_max=1 << 18)
    reading = Client(server)
    await eventually(lambda: reading.frames)
    unread: list[Client] = []
    while not unread or unread[-1].ended is None:
        unread.append(Client(server))
        await eventually(lambda: unread[-1].ended is not None or unread[-1].frames)
    reading.take()
    await eventually(lambda: len(reading.state) == 300)
    assert not reading.resets
    await asyncio.gather(*(client.leave() for client in [*unread, reading]))
    await server.stop()


async def test_buffers_of_slow_watches_are_reset_when_all_together_have_too_many_bytes(stage: Stage) -> None:
    server = Server(stage, watch_bytes_max=4 * BYTES_MAX)
    slow, quick = Client(server), Client(server)
    for client in (slow, quick):
        client.take()
    await quiet([slow, quick])
    slow._unlimited, slow._permits = False, asyncio.Semaphore(0)
    for turn in range(4):  # 1.2 MB for a buffer that may have 4 MiB.
        await stage.put(*(Noted(key=f"new{turn}-{n}", text=ROW) for n in range(75)))
        server.hear()
        await quiet([slow, quick])
        assert server.watches.memory.buffers.held <= BYTES_MAX + 75 * 4500
    assert not quick.resets
    slow.take()
    await quiet([slow, quick])
    assert slow.resets == [ResetReason.RESET_REASON_OVERFLOW]
    assert slow.state == quick.state == slow.view_at(len(stage.events))
    assert server.watches.memory.held == 0
    await server.stop()


def test_change_in_several_buffers_counts_once() -> None:
    memory = BufferMemory()
    one, other = (Subscriber(None, rows_max=10, bytes_max=1 << 20, memory=memory) for _ in range(2))
    change = Change("a", 1, b"x" * 10_000)
    one.add(change)
    alone = memory.held
    other.add(change)
    assert alone > 10_000
    assert memory.held < 2 * alone - 9_000
    one.add(Change("a", 2, b""))
    other.cover(1)
    assert memory.held < 1_000
    one.drain()
    assert memory.held > 0
    one.release_drained()
    assert memory.held == 0


async def test_pages_are_smaller_the_more_watches_are_open() -> None:
    memory = WatchMemory(256 << 20, Clock())
    sizes = []
    for _ in range(2000):
        share = memory.open(lambda: None)
        async with asyncio.timeout(5):
            sizes.append(await memory.take_page(share))
    assert sizes[0] == 1 << 20
    assert sizes[-1] == PAGE_BYTES_MIN
    assert memory.held <= 192 << 20
