"""The parked writer: writes in order, and retries until the store is available."""

from __future__ import annotations

import asyncio

import pytest

from command_server.processes import parked_writer
from command_server.processes.parked_writer import ParkedWriter
from command_server.store.event_store import StoreUnavailable
from command_server.store.records import ParkedInput, ParkedKey

FIRST = ParkedInput("process", "p1", 9, -1, "ValueError: no", 1, 1234, b"")
SECOND = FIRST._replace(position=12)


class FailingStore:
    """A store that fails a number of writes, and lists the others."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.writes: list[tuple[str, ParkedKey]] = []

    async def put_parked(self, inputs: list[ParkedInput]) -> None:
        self._write("put", inputs[0].key)

    async def delete_parked(self, keys: list[ParkedKey]) -> None:
        self._write("delete", keys[0])

    def _write(self, kind: str, key: ParkedKey) -> None:
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("planted")
        self.writes.append((kind, key))


async def test_writes_keep_their_order_when_the_store_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parked_writer, "backoff", lambda attempts: 0)
    store = FailingStore(3)
    writer = ParkedWriter(store)  # type: ignore[arg-type]
    calls: list[str] = []
    done = asyncio.Event()
    writer.put(FIRST, lambda: calls.append("first"))
    writer.put(SECOND, lambda: calls.append("second"))
    writer.delete(FIRST.key)
    writer.call_after_writes(done.set)
    running = asyncio.create_task(writer.run())
    async with asyncio.timeout(30):
        await done.wait()
    assert store.writes == [("put", FIRST.key), ("put", SECOND.key), ("delete", FIRST.key)]
    assert calls == ["first", "second"]
    running.cancel()


async def test_a_call_after_writes_is_made_at_once_when_there_are_none() -> None:
    calls: list[str] = []
    ParkedWriter(FailingStore(0)).call_after_writes(lambda: calls.append("called"))  # type: ignore[arg-type]
    assert calls == ["called"]
