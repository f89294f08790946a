"""The event store against a model of lists and dicts: commits, reads and reopening in any order."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from command_server.store.records import Decided, Loaded, NewEvent, Reads, Request, Snapshot, StreamHead
from command_server.store.sqlite_store import SqliteEventStore
from diptych.contract.frames import recorded
from diptych.server.errors import StartError
from diptych.v1.events_pb2 import RecordedEvent
from tests.faults.extent import EXAMPLES, memory_folder

T = TypeVar("T")

pytestmark = pytest.mark.timeout(120 + EXAMPLES)

SHAPES = (b"shape-one", b"shape-two")
streams = st.sampled_from(["test/a", "test/b", "test/c", "test/d"])
kinds = st.sampled_from(["test.Happened", "test.Other", "test.Rare"])
keys = st.sampled_from(["r-1", "r-2", "r-3", "r-4", "r-5"])
values = st.sampled_from(["email\nada", "email\nbob", "email\neve"])


class RefusedError(Exception):
    """Exception of a decision."""


class StoreModel(RuleBasedStateMachine):
    """A store, and the content that it must have."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = memory_folder()
        self.store: SqliteEventStore
        self.log: list[RecordedEvent] = []
        self.requests: dict[str, Request] = {}
        self.holders: dict[str, str] = {}
        self.snapshots: dict[str, Snapshot] = {}

    def run_async(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @initialize()
    def open(self) -> None:
        self.store = SqliteEventStore(self.folder / "log.db", "model")
        self.run_async(self.store.open())

    def of_stream(self, stream: str) -> list[RecordedEvent]:
        return [one for one in self.log if f"{one.aggregate.type}/{one.aggregate.id}" == stream]

    def check_loaded(self, reads: Reads, loaded: Loaded) -> None:
        """Check that a decision is given the model's values for exactly the names and keys in `reads`."""
        expected = {name: found for name in reads.streams if (found := self.of_stream(name))}
        assert loaded.streams == {name: StreamHead(len(of), of[-1].position) for name, of in expected.items()}
        assert loaded.requests == {key: self.requests[key] for key in reads.requests if key in self.requests}
        stale = {name for name, events in expected.items() if reads.streams[name] != len(events)}
        assert set(loaded.histories) == stale
        for name in stale:
            snapshot, frames = loaded.histories[name]
            kept = self.snapshots.get(name)
            assert snapshot == (kept if kept is not None and kept.shape == reads.shapes["test"] else None)
            assert [recorded(one) for one in frames] == expected[name][snapshot.version if snapshot else 0 :]

    # Writes.

    @rule(
        data=st.data(),
        appended=st.lists(st.tuples(streams, kinds), max_size=6),
        also=st.sets(streams, max_size=2),
        request_keys=st.sets(keys, max_size=3),
        lookups=st.sets(values, max_size=2),
        shape=st.sampled_from(SHAPES),
        fails=st.sampled_from([False, False, False, True]),
    )
    def commit(
        self,
        data: st.DataObject,
        appended: list[tuple[str, str]],
        also: set[str],
        request_keys: set[str],
        lookups: set[str],
        shape: bytes,
        fails: bool,
    ) -> None:
        names = sorted({stream for stream, _ in appended} | also)
        # The cached version is current, absent or stale.
        cached = {name: data.draw(st.sampled_from([len(self.of_stream(name)), -1, 1, 2])) for name in names}
        reads = Reads(cached, {"test": shape}, sorted(request_keys))
        first = len(self.log) + 1
        events, made = self._events(appended, first)
        remembered = {
            key: Request(key.encode(), names[0], 1, data.draw(st.sampled_from([-1, 0])) if events else 0)
            for key in sorted(request_keys)
            if names and key not in self.requests
        }
        claims = {value: data.draw(st.sampled_from([None, *names])) for value in sorted(lookups)}
        kept = {
            name: Snapshot(len(self.of_stream(name)) + sum(one == name for one, _ in appended), shape, name.encode())
            for name in names
            if any(one == name for one, _ in appended) and data.draw(st.booleans())
        }
        calls = 0

        def decide(loaded: Loaded) -> Decided:
            nonlocal calls
            calls += 1
            self.check_loaded(reads, loaded)
            if calls == 1 and lookups:
                assert not loaded.holders
                return Decided(lookups=lookups)
            assert loaded.holders == {value: self.holders.get(value) for value in lookups}
            if fails:
                raise RefusedError
            return Decided((), events, remembered, claims, kept)

        if fails:
            with suppress(RefusedError):
                self.run_async(self.store.commit(reads, decide))
                raise AssertionError("commit does not raise the exception of the decision")
            return
        committed = self.run_async(self.store.commit(reads, decide))
        assert committed.first_position == first
        assert [recorded(one) for one in committed.frames] == made
        self.log += made
        self.requests |= {
            key: request._replace(position=first - 1 - request.position) if request.position < 0 else request
            for key, request in remembered.items()
        }
        for value, holder in claims.items():
            self.holders.pop(value, None)
            if holder is not None:
                self.holders[value] = holder
        self.snapshots |= kept

    def _events(self, appended: list[tuple[str, str]], first: int) -> tuple[list[NewEvent], list[RecordedEvent]]:
        versions = {stream: len(self.of_stream(stream)) for stream, _ in appended}
        events, made = [], []
        for position, (stream, kind) in enumerate(appended, first):
            versions[stream] += 1
            one = RecordedEvent(version=versions[stream], event_id=f"{stream}@{versions[stream]}")
            one.aggregate.type, _, one.aggregate.id = stream.partition("/")
            one.event.type_url = f"type.googleapis.com/{kind}"
            events.append(NewEvent(stream, versions[stream], kind, one.SerializeToString()))
            one.position = position
            made.append(one)
        return events, made

    @rule()
    def reopen(self) -> None:
        self.run_async(self.store.close())
        self.open()

    @rule()
    def second_writer(self) -> None:
        other = SqliteEventStore(self.folder / "log.db", "another")
        with suppress(StartError):
            self.run_async(other.open())
            raise AssertionError("two stores have the log open")

    # Reads.

    @rule(after=st.integers(0, 40), types=st.sets(kinds, max_size=2), count=st.integers(1, 7), size=st.integers(1, 400))
    def read_on(self, after: int, types: set[str], count: int, size: int) -> None:
        """Read pages from any position to the head: every matching event comes once, in order."""
        events: list[RecordedEvent] = []
        position = min(after, len(self.log))
        start = position
        while position < len(self.log):
            page = self.run_async(self.store.read_log(position, types=types, events_max=count, bytes_max=size))
            assert position < page.position <= len(self.log)
            assert len(page.frames) <= count
            assert recorded(page.last_frame) == self.log[page.position - 1]
            events += map(recorded, page.frames)
            position = page.position
        assert events == [
            one for one in self.log[start:] if not types or one.event.type_url.rpartition("/")[2] in types
        ]
        page = self.run_async(self.store.read_log(position, types=types, events_max=count, bytes_max=size))
        assert (list(page.frames), page.position, page.last_frame) == ([], position, b"")

    @rule(stream=streams, version=st.integers(1, 12), count=st.integers(1, 5), size=st.integers(1, 400))
    def read_stream(self, stream: str, version: int, count: int, size: int) -> None:
        events = self.of_stream(stream)
        frames = self.run_async(self.store.read_stream(stream, version, count, size))
        found = [recorded(one) for one in frames]
        assert found == events[version - 1 :][: len(found)]
        assert len(found) <= count
        assert bool(found) == (version <= len(events))
        there = events[version - 1].position if version <= len(events) else None
        assert self.run_async(self.store.position_of(stream, version)) == there

    @rule(position=st.integers(1, 40))
    def read_one(self, position: int) -> None:
        one = self.run_async(self.store.frame_at(position))
        assert (None if one is None else recorded(one)) == (
            self.log[position - 1] if position <= len(self.log) else None
        )

    @invariant()
    def head_is_the_last_position(self) -> None:
        if hasattr(self, "store"):
            assert self.run_async(self.store.head()).position == len(self.log)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.run_async(self.store.close())
        self.loop.close()
        shutil.rmtree(self.folder)


TestStoreModel = StoreModel.TestCase
TestStoreModel.settings = settings(
    max_examples=EXAMPLES or 25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
