"""Projector with events that it cannot fold, between a scripted log and a real read store."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from prometheus_client import REGISTRY

from diptych.client import CallRefused
from diptych.domain.memory_rows import MemoryRows
from diptych.internal.v1 import feed_pb2
from diptych.v1 import projections_pb2 as states
from diptych.v1.commands_pb2 import AggregateRef
from tests.integration.test_projector import (
    Running,
    checkpoint,
    is_paused,
    is_running,
    is_stalled,
    rows,
    running,
)
from tests.support.notes import Archived, Note, Noted, Notes, Tagged
from tests.support.polling import eventually
from tests.support.scripted_log import ScriptedLog

QUICKLY: dict[str, Any] = {"park_pause_seconds": 0.001}


@pytest.fixture
async def log() -> AsyncIterator[ScriptedLog]:
    log = ScriptedLog()
    await log.start()
    yield log
    await log.stop()


def by_key(poison: str = "poison") -> Notes:
    """Notes whose streams change rows of their own."""
    return Notes(poison=poison, count_under=lambda event: event.key)


def note(key: str) -> AggregateRef:
    return AggregateRef(type="note", id=key)


async def parked(projector: Running, *, discarded: bool = False, size: int = 0) -> list[states.ParkedStream]:
    """Return the parked streams of all pages."""
    found: list[states.ParkedStream] = []
    request = states.ListParkedRequest(projection="notes", page_size=size, include_discarded=discarded)
    while True:
        page = await projector.projections.ListParked(request)
        found.extend(page.parked)
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def retry(projector: Running, key: str) -> states.RetryParkedResponse:
    request = states.RetryParkedRequest(projection="notes", aggregate=note(key))
    answer: states.RetryParkedResponse = await projector.projections.RetryParked(request)
    return answer


async def refusal(call: Any) -> CallRefused:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return CallRefused.of(error.value)


def folded(log: ScriptedLog, *left_out: int) -> Any:
    memory = MemoryRows(by_key("-").projection)
    memory.apply([event for event in log.events if event.position not in left_out])
    return memory.rows["notes"], memory.rows["notes_tags"]


def read(path: Path, generation: int = 1) -> Any:
    """Return both tables of a generation."""
    connection = sqlite3.connect(f"file:{path / 'read.db'}?mode=ro", uri=True)
    try:
        return tuple(
            {row[0]: row for row in connection.execute(f"SELECT * FROM {view}_g{generation}")}
            for view in ("notes", "notes_tags")
        )
    finally:
        connection.close()


async def fed(projector: Running) -> Any:
    frame = await anext(aiter(projector.feeds.FollowFeed(feed_pb2.FollowFeedRequest())))
    (told,) = [projection for projection in frame.projections if projection.name == "notes"]
    return told


async def test_an_event_that_cannot_be_folded_parks_its_stream_only(tmp_path: Path, log: ScriptedLog) -> None:
    async with running(tmp_path, log, by_key().projection, **QUICKLY) as projector:
        await log.append(
            Noted(key="a", text="x"),
            Noted(key="a", text="poison"),
            Noted(key="b", text="y"),
            Noted(key="a", text="z"),
            Archived(key="b"),
            by_key=True,
        )
        await projector.applied(5)
        status = await projector.until(is_running)
        assert (status.parked_streams, status.left_out_events, status.reason) == (1, 2, "")
        assert await projector.serving("notes")
        (stream,) = await parked(projector)
        assert (stream.projection, stream.aggregate) == ("notes", note("a"))
        assert (stream.first_position, stream.events, stream.attempts) == (2, 2, 4)
        assert re.fullmatch(
            r"Event 2 \(notes\.v1\.Noted of note/a\) failed in view notes_tags, row a: ValueError: no such text "
            r"\(in tests/support/notes\.py:\d+\)\.",
            stream.error,
        )
        assert stream.trace.rstrip().endswith("ValueError: no such text")
        assert stream.event == log.events[1]
        assert abs(stream.park_time.ToDatetime().timestamp() - time.time()) < 86400
        assert not stream.HasField("discard_time")
        told = await fed(projector)
        assert (told.parked_streams, told.left_out_events, told.left_out_position) == (1, 2, 4)
        metric = REGISTRY.get_sample_value("diptych_projection_parked_streams", {"projection": "notes"})
        assert metric == 1
    assert read(tmp_path) == folded(log, 2, 4)


@pytest.mark.parametrize("batch_events_max", [1, 3, 1000])
async def test_a_parked_stream_stays_parked_after_a_restart(
    tmp_path: Path, log: ScriptedLog, batch_events_max: int
) -> None:
    await log.append(
        *(Noted(key=f"k{n % 3}", text="poison" if n == 10 else str(n)) for n in range(60)),
        by_key=True,
    )
    left_out = [position for position in range(11, 61) if (position - 1) % 3 == 1]
    async with running(tmp_path, log, by_key().projection, batch_events_max=batch_events_max, **QUICKLY) as projector:
        await projector.applied(60)
        before = await parked(projector)
    assert read(tmp_path) == folded(log, *left_out)
    await log.append(Noted(key="k1", text="more"), Noted(key="k2", text="more"), by_key=True)
    async with running(tmp_path, log, by_key("-").projection) as projector:
        await projector.applied(62)
        (after,) = await parked(projector)
        assert (after.events, after.first_position, after.error) == (len(left_out) + 1, 11, before[0].error)
    assert read(tmp_path) == folded(log, *left_out, 61)


async def test_retries_of_an_event_delay_no_other_projection(tmp_path: Path, log: ScriptedLog) -> None:
    good = Notes("healthy", poison="-")
    async with running(tmp_path, log, by_key().projection, good.projection, park_pause_seconds=3600) as projector:
        await log.append(Noted(key="a", text="x"), Noted(key="a", text="poison"), by_key=True)
        await projector.applied(1)
        await eventually(lambda: checkpoint(tmp_path)[0] == 1)
        await log.append(Noted(key="b", text="y"), by_key=True)
        await projector.applied(3, "healthy")
        status = await projector.status()
        assert (status.progress.applied_position, status.parked_streams) == (1, 0)
        paused = await projector.pause()
        assert is_paused(paused), "whoever waits for another attempt can be halted"


async def test_an_event_that_can_be_folded_after_all_is_not_parked(tmp_path: Path, log: ScriptedLog) -> None:
    notes = by_key()
    failures = 0

    @notes.notes.on(Archived, key=lambda e: e.key)
    def archived(row: Any, event: Any, at: Any) -> Any:
        nonlocal failures
        failures += 1
        if failures < 4:
            raise OSError("not yet")
        return row

    async with running(tmp_path, log, notes.projection, **QUICKLY) as projector:
        await log.append(Noted(key="a", text="x"), Archived(key="a"), Noted(key="a", text="y"), by_key=True)
        status = await projector.applied(3)
        assert (failures, status.parked_streams) == (4, 0)


async def test_parking_is_reported_and_tried_again_when_the_store_fails(tmp_path: Path, log: ScriptedLog) -> None:
    async with running(tmp_path, log, by_key().projection, **QUICKLY) as projector:
        await log.append(Noted(key="a", text="x"), by_key=True)
        await projector.applied(1)
        connection = sqlite3.connect(tmp_path / "read.db")
        connection.execute(
            "CREATE TRIGGER full BEFORE INSERT ON diptych_parked BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
        )
        await log.append(Noted(key="a", text="poison"), Noted(key="b", text="y"), by_key=True)
        status = await projector.until(is_stalled)
        assert status.reason == "READ_STORE_UNAVAILABLE: disk is full; it is tried again."
        assert (status.progress.applied_position, status.parked_streams) == (1, 0)
        connection.execute("DROP TRIGGER full")
        connection.close()
        status = await projector.applied(3)
        assert status.parked_streams == 1
        await projector.until(is_running)
    assert read(tmp_path) == folded(log, 2)


async def test_a_projection_stalls_over_a_hundred_parked_streams_until_resumed(
    tmp_path: Path, log: ScriptedLog
) -> None:
    notes = by_key()
    await log.append(*(Noted(key=f"k{n}", text="poison") for n in range(102)), by_key=True)
    began = time.monotonic()
    async with running(tmp_path, log, notes.projection) as projector:
        status = await projector.until(is_stalled)
        assert time.monotonic() - began < 30, "it does not pause at each of them"
        assert status.reason.startswith("PARKED_TOO_MANY: 100 streams are parked, ")
        assert (status.parked_streams, status.stalled_event) == (100, log.events[100])
        assert status.progress.applied_position == 100
        assert [stream.first_position for stream in await parked(projector, size=30)] == list(range(1, 101))
        await projector.resume()
        status = await projector.until(is_stalled)
        notes.poison = "-"
        assert (await retry(projector, "k7")).events == 1
        await projector.resume()
        status = await projector.applied(102)
        assert (status.parked_streams, status.reason) == (99, "")
        await projector.until(is_running)
    left_out = {position for position in range(1, 101) if position != 8}
    assert read(tmp_path) == folded(log, *left_out)


async def test_a_parked_stream_is_refolded_in_place(tmp_path: Path, log: ScriptedLog) -> None:
    notes = by_key()
    async with running(tmp_path, log, notes.projection, **QUICKLY) as projector:
        await log.append(
            Noted(key="a", text="x"), Noted(key="a", text="poison"), Tagged(key="a", tags=["r"]), by_key=True
        )
        await log.append(*(Noted(key=f"k{n}", text=str(n)) for n in range(500)), by_key=True)
        await projector.applied(503)
        before = await fed(projector)
        refused = await refusal(retry(projector, "a"))
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "STILL_PARKED")
        assert refused.metadata["position"] == "2"
        (stream,) = await parked(projector)
        assert (stream.attempts, stream.events) == (5, 2)

        notes.poison = "-"
        answer = await retry(projector, "a")
        assert (answer.mode, answer.events, answer.reason) == (states.RETRY_MODE_IN_PLACE, 2, "")
        assert (answer.status.parked_streams, answer.status.left_out_events) == (0, 0)
        assert await parked(projector) == []
        after = await fed(projector)
        assert (after.left_out_position, after.gap) == (0, True)
        assert (after.filling != before.filling, after.generation) == (True, before.generation)
        head = await log.append(Noted(key="a", text="live"), by_key=True)
        await projector.applied(head)
        assert (await refusal(retry(projector, "a"))).reason == "PARKED_NOT_FOUND"
    assert read(tmp_path) == folded(log)
    async with running(tmp_path, log, notes.projection) as projector:
        assert (await fed(projector)).filling == after.filling


async def test_a_parked_stream_with_shared_rows_is_refolded_by_a_new_generation(
    tmp_path: Path, log: ScriptedLog
) -> None:
    notes = by_key()

    def switched(to: int) -> Any:
        return lambda status: status.generation == to and is_running(status)

    async with running(tmp_path, log, notes.projection, **QUICKLY) as projector:
        await log.append(
            Noted(key="a", text="poison"), Tagged(key="a", tags=["r"]), Tagged(key="b", tags=["r"]), by_key=True
        )
        await projector.applied(3)
        assert read(tmp_path) == folded(log, 1, 2)
        because = "Event 3 of note/b, which was folded since, touched row r of view notes_tags, as what is parked does."
        notes.poison = "-"
        answer = await retry(projector, "a")
        assert (answer.mode, answer.events, answer.reason) == (states.RETRY_MODE_NEW_GENERATION, 0, because)
        status = await projector.until(switched(2))
        assert (status.parked_streams, status.left_out_events) == (0, 0)
        assert await parked(projector) == []
        assert read(tmp_path, 2) == folded(log)

        # A new generation parks for itself.
        notes.poison = "poison"
        async with asyncio.timeout(60):
            async for _ in projector.projections.Rebuild(states.RebuildRequest(projection="notes")):
                pass
        status = await projector.until(switched(3))
        assert (status.parked_streams, status.left_out_events) == (1, 2)
        (stream,) = await parked(projector)
        assert (stream.first_position, stream.events) == (1, 2)
        assert read(tmp_path, 3) == folded(log, 1, 2)


async def test_a_paused_projection_is_retried_and_stays_paused(tmp_path: Path, log: ScriptedLog) -> None:
    notes = by_key()
    async with running(tmp_path, log, notes.projection, **QUICKLY) as projector:
        await log.append(Noted(key="a", text="poison"), by_key=True)
        await projector.until(lambda status: status.parked_streams == 1)
        await projector.pause()
        await log.append(Noted(key="a", text="later"), by_key=True)
        notes.poison = "-"
        answer = await retry(projector, "a")
        assert (answer.events, is_paused(answer.status)) == (1, True)
        await projector.resume()
        await projector.applied(2)
    assert rows(tmp_path)["a"][2] == Note(text="later", edits=2).SerializeToString()


async def test_retrying_while_events_come_loses_none(tmp_path: Path, log: ScriptedLog) -> None:
    notes = by_key()
    async with running(tmp_path, log, notes.projection, batch_events_max=7, **QUICKLY) as projector:
        await log.append(*(Noted(key=f"k{n}", text="poison") for n in range(8)), by_key=True)
        await projector.until(lambda status: status.parked_streams == 8)
        notes.poison = "-"

        async def write() -> None:
            for n in range(300):
                await log.append(Noted(key=f"k{n % 11}", text=str(n)), by_key=True)
                await asyncio.sleep(0)

        writing = asyncio.create_task(write())
        for n in range(8):
            await retry(projector, f"k{n}")
        await writing
        status = await projector.applied(308)
        assert (status.parked_streams, status.left_out_events) == (0, 0)
    assert read(tmp_path) == folded(log)


async def test_a_discarded_stream_goes_on_with_its_next_event(tmp_path: Path, log: ScriptedLog) -> None:
    async with running(tmp_path, log, by_key().projection, **QUICKLY) as projector:
        await log.append(Noted(key="a", text="poison"), Noted(key="a", text="x"), by_key=True)
        await projector.until(lambda status: status.left_out_events == 2)
        request = states.DiscardParkedRequest(projection="notes", aggregate=note("a"))
        answer = await projector.projections.DiscardParked(request)
        assert (answer.events, answer.status.parked_streams, answer.status.left_out_events) == (2, 0, 2)
        await log.append(Noted(key="a", text="y"), by_key=True)
        await projector.applied(3)
        assert await parked(projector) == []
        (stream,) = await parked(projector, discarded=True)
        assert (stream.first_position, stream.events, stream.HasField("discard_time")) == (1, 2, True)
        refused = await refusal(projector.projections.DiscardParked(request))
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "PARKED_NOT_FOUND")
        assert refused.metadata == {"projection": "notes", "aggregate": "note/a"}
    assert read(tmp_path) == folded(log, 1, 2)


async def test_a_refold_is_refused_without_effect_while_the_log_is_unreachable(
    tmp_path: Path, log: ScriptedLog
) -> None:
    notes = by_key()
    async with running(tmp_path, log, notes.projection, **QUICKLY) as projector:
        await log.append(Noted(key="a", text="poison"), Noted(key="b", text="x"), by_key=True)
        await projector.applied(2)
        notes.poison = "-"
        await log.stop()
        refused = await refusal(retry(projector, "a"))
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "LOG_UNAVAILABLE")
        await log.start()
        await log.append(Noted(key="b", text="y"), by_key=True)
        await projector.applied(3)  # It is reached again.
        assert (await retry(projector, "a")).events == 1
    assert read(tmp_path) == folded(log)


async def test_list_parked_refuses_wrong_pages_and_names(tmp_path: Path, log: ScriptedLog) -> None:
    async with running(tmp_path, log, by_key().projection) as projector:
        calls = [
            (states.ListParkedRequest(projection="nobody"), "PROJECTION_NOT_FOUND"),
            (states.ListParkedRequest(projection="notes", page_size=-1), "INVALID_REQUEST"),
            (states.ListParkedRequest(projection="notes", page_token="no token"), "PAGE_TOKEN_INVALID"),
        ]
        for request, reason in calls:
            assert (await refusal(projector.projections.ListParked(request))).reason == reason
        no_aggregate = states.RetryParkedRequest(projection="notes")
        assert (await refusal(projector.projections.RetryParked(no_aggregate))).reason == "INVALID_REQUEST"
        assert (await refusal(retry(projector, "a"))).reason == "PARKED_NOT_FOUND"
