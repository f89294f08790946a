"""Projector between a scripted log service and a real read store."""

from __future__ import annotations

import asyncio
import functools
import random
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import REGISTRY

from diptych.domain.memory_rows import MemoryRows
from diptych.domain.projection import Projection
from diptych.internal.v1 import feed_pb2, feed_pb2_grpc
from diptych.server.errors import StartError
from diptych.server.grpc_transport import GrpcHandlers
from diptych.server.health import Health
from diptych.server.settings import ProjectorSettings
from diptych.server.supervise import TaskSupervisor
from diptych.v1 import projections_pb2 as states
from diptych.v1 import projections_pb2_grpc
from projector.server import bootstrap
from tests.support.notes import Archived, Erased, Note, Noted, Notes, Tagged
from tests.support.polling import eventually
from tests.support.scripted_log import ScriptedLog

WAIT_SECONDS = 20.0
ROOT = Path(__file__).resolve().parents[2]


class Running:
    """A projector in this process, and a client of it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.feeds = feed_pb2_grpc.FeedServiceStub(channel)
        self.projections = projections_pb2_grpc.ProjectionServiceStub(channel)
        self._health: Any = health_pb2_grpc.HealthStub(channel)

    async def status(self, name: str = "notes") -> states.ProjectionStatus:
        answer = await self.projections.ListProjections(states.ListProjectionsRequest())
        found: states.ProjectionStatus
        (found,) = [projection for projection in answer.projections if projection.name == name]
        return found

    async def pause(self, name: str = "notes") -> states.ProjectionStatus:
        paused: states.ProjectionStatus = (await self.projections.Pause(states.PauseRequest(projection=name))).status
        return paused

    async def resume(self, name: str = "notes") -> states.ProjectionStatus:
        resumed: states.ProjectionStatus = (await self.projections.Resume(states.ResumeRequest(projection=name))).status
        return resumed

    async def until(
        self, condition: Callable[[states.ProjectionStatus], bool], name: str = "notes"
    ) -> states.ProjectionStatus:
        """Return the status as soon as it meets the condition."""

        async def met() -> Any:
            status = await self.status(name)
            return status if condition(status) else None

        found: states.ProjectionStatus = await eventually(met)
        return found

    async def applied(self, position: int, name: str = "notes") -> states.ProjectionStatus:
        return await self.until(lambda status: status.progress.applied_position >= position, name)

    async def serving(self, name: str) -> bool:
        answer = await self._health.Check(health_pb2.HealthCheckRequest(service=f"diptych.projection.{name}"))
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def until_not_serving(self, name: str) -> None:
        async def ill() -> Any:
            return not await self.serving(name)

        await eventually(ill)


@asynccontextmanager
async def running(
    path: Path,
    log: ScriptedLog,
    *projections: Projection,
    feeds_max: int = 10,
    batch_events_max: int = 1000,
    **more: object,
) -> AsyncIterator[Running]:
    settings = ProjectorSettings.model_validate(
        {
            "address": "127.0.0.1:0",
            "commands": log.address,
            "read_store": f"sqlite:///{path / 'read.db'}",
            "feeds_max": feeds_max,
            "batch_events_max": batch_events_max,
            **more,
        }
    )
    health = Health("127.0.0.1:0")
    server = grpc.aio.server()
    async with TaskSupervisor() as tasks:
        parts = await bootstrap(settings, "notes", projections or (Notes().projection,), health, tasks)
        health.bind(parts.router)
        server.add_generic_rpc_handlers((GrpcHandlers(parts.router),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield Running(channel)
        finally:
            await parts.drain()
            await server.stop(1)
            await parts.close()


@pytest.fixture
async def log() -> AsyncIterator[ScriptedLog]:
    log = ScriptedLog()
    await log.start()
    yield log
    await log.stop()


def rows(path: Path, view: str = "notes") -> Any:
    connection = sqlite3.connect(f"file:{path / 'read.db'}?mode=ro", uri=True)
    try:
        return {row[0]: row for row in connection.execute(f"SELECT * FROM {view}_g1")}
    finally:
        connection.close()


def checkpoint(path: Path, name: str = "notes") -> Any:
    connection = sqlite3.connect(f"file:{path / 'read.db'}?mode=ro", uri=True)
    try:
        query = "SELECT position, event_id FROM diptych_generations WHERE projection = ?"
        return connection.execute(query, (name,)).fetchone()
    finally:
        connection.close()


def is_stalled(status: states.ProjectionStatus) -> bool:
    return status.state == states.PROJECTION_STATE_STALLED


def is_paused(status: states.ProjectionStatus) -> bool:
    return status.state == states.PROJECTION_STATE_PAUSED


def is_running(status: states.ProjectionStatus) -> bool:
    return status.state == states.PROJECTION_STATE_RUNNING


@pytest.mark.parametrize("batch_events_max", [1, 7, 1000])
async def test_a_projector_catches_up_and_then_follows_live_events(
    tmp_path: Path, log: ScriptedLog, batch_events_max: int
) -> None:
    await log.append(*(Noted(key=f"k{n % 50}", text=str(n)) for n in range(350)))
    async with running(tmp_path, log, batch_events_max=batch_events_max) as projector:
        status = await projector.until(is_running)
        assert status.progress.applied_position == 350
        assert (status.progress.head_position, status.progress.lag_events) == (350, 0)
        assert not status.progress.lag_time.ToNanoseconds()
        assert status.progress.token
        assert [(view.name, view.row_type) for view in status.views] == [
            ("notes", "notes.v1.Note"),
            ("notes_tags", "notes.v1.Tag"),
        ]
        head = await log.append(Noted(key="live", text="x"), Tagged(key="live", tags=["r"]))
        await projector.applied(head)
        assert await projector.serving("notes")
        applied = REGISTRY.get_sample_value("diptych_projection_applied_position", {"projection": "notes"})
        state = REGISTRY.get_sample_value("diptych_projection_state", {"projection": "notes", "state": "RUNNING"})
        assert (applied, state) == (head, 1)
    memory = MemoryRows(Notes().projection)
    memory.apply(log.events)
    assert (rows(tmp_path), rows(tmp_path, "notes_tags")) == (memory.rows["notes"], memory.rows["notes_tags"])
    assert len(log.followed) == 1


async def test_ignored_events_advance_at_once_and_are_written_later(tmp_path: Path, log: ScriptedLog) -> None:
    async with running(tmp_path, log) as projector:
        await log.append(Noted(key="a", text="x"), *[Archived(key="a")] * 300)
        status = await projector.applied(301)
        assert status.state != states.PROJECTION_STATE_STALLED
        written = await projector.feeds.WriteCheckpoint(feed_pb2.WriteCheckpointRequest(projection="notes"))
        assert written.position == 301
        assert checkpoint(tmp_path) == (301, "a-301")
        await log.append(Archived(key="a"))
        await eventually(lambda: checkpoint(tmp_path) == (302, "a-302"))
        await log.append(Archived(key="a"))
        await projector.applied(303)
    assert checkpoint(tmp_path) == (303, "a-303"), "a clean stop writes what is in memory"
    assert rows(tmp_path)["a"][1] == 1


async def test_a_projector_subscribes_only_to_the_types_that_its_views_fold(tmp_path: Path, log: ScriptedLog) -> None:
    async with running(tmp_path, log) as projector:
        await projector.until(is_running)
    assert list(log.followed[0].event_types) == ["notes.v1.Erased", "notes.v1.Noted", "notes.v1.Tagged"]


async def test_a_stalled_projection_commits_earlier_events_and_stops_no_other(tmp_path: Path, log: ScriptedLog) -> None:
    good = Notes("healthy", poison="-")
    projections = Notes().projection, good.projection
    async with running(tmp_path, log, *projections, parked_streams_max=0, park_attempts=1) as projector:
        await log.append(
            Noted(key="a", text="x"), Archived(key="a"), Noted(key="a", text="poison"), Noted(key="b", text="y")
        )
        status = await projector.until(is_stalled)
        assert status.reason.startswith(
            "PARKED_TOO_MANY: 0 streams are parked, which looks like a defect of the code, so no more are. Event 3 "
            "(notes.v1.Noted of note/1) failed in view notes_tags, row all: ValueError: no such text (in tests/support/"
        )
        assert status.stalled_event == log.events[2]
        assert status.progress.applied_position == 2
        await projector.applied(4, "healthy")
        assert await projector.serving("healthy")
        await projector.until_not_serving("notes")
        await log.append(Noted(key="c", text="z"))
        await projector.applied(5, "healthy")
        status = await projector.until(lambda status: status.progress.head_position == 5)
        assert (status.progress.applied_position, status.progress.lag_events) == (2, 3)
        assert status.progress.lag_time.ToNanoseconds() > 0
        frame = await anext(aiter(projector.feeds.FollowFeed(feed_pb2.FollowFeedRequest())))
        (sent,) = [projection for projection in frame.projections if projection.name == "notes"]
        assert (sent.state, sent.reason, sent.stalled_event) == (
            status.state,
            status.reason,
            log.events[2],
        )
        assert len(log.followed) == 2, "a stalled projection does not ask again"
    assert set(rows(tmp_path)) == {"a"}
    assert set(rows(tmp_path, "healthy")) == {"a", "b", "c"}
    assert checkpoint(tmp_path) == (1, "a-1")


async def test_repaired_code_continues_at_the_event_that_stalled_it(tmp_path: Path, log: ScriptedLog) -> None:
    await log.append(Noted(key="a", text="x"), Noted(key="a", text="poison"), Noted(key="b", text="y"))
    async with running(tmp_path, log, parked_streams_max=0) as projector:
        await projector.until(is_stalled)
    async with running(tmp_path, log, Notes(poison="-").projection) as projector:
        await projector.applied(3)
    assert rows(tmp_path)["a"][2] == Note(text="poison", edits=2).SerializeToString()
    assert [request.position for request in log.followed] == [0, 1]


async def test_a_restart_continues_at_the_checkpoint(tmp_path: Path, log: ScriptedLog) -> None:
    await log.append(Noted(key="a", text="x"))
    async with running(tmp_path, log) as projector:
        await projector.applied(1)
    await log.append(Noted(key="a", text="y"))
    async with running(tmp_path, log) as projector:
        await projector.applied(2)
    assert [request.position for request in log.followed] == [0, 1]
    assert rows(tmp_path)["a"][2] == Note(text="y", edits=2).SerializeToString()


async def test_a_projector_serves_before_the_log_is_reachable(tmp_path: Path) -> None:
    log = ScriptedLog()
    await log.start()
    await log.stop()  # Its port is known now.
    async with running(tmp_path, log) as projector:
        status = await projector.status()
        assert (status.state, status.progress.token) == (states.PROJECTION_STATE_CATCHING_UP, "")
        assert await projector.serving("notes")
        frame = await anext(aiter(projector.feeds.FollowFeed(feed_pb2.FollowFeedRequest())))
        assert not frame.projections[0].HasField("identity")
        await log.append(Noted(key="a", text="x"))
        await log.start()
        await projector.applied(1)
        await projector.until(is_running)
        await log.stop()
        await projector.until(lambda status: not is_running(status))
        assert (await projector.status()).progress.lag_time.ToNanoseconds() > 0
        await log.append(Noted(key="b", text="y"))
        await log.start()
        await projector.applied(2)
        await projector.until(is_running)
        await log.stop()


async def test_a_refusing_log_is_reported_and_tried_again(tmp_path: Path, log: ScriptedLog) -> None:
    log.refusal = grpc.StatusCode.INVALID_ARGUMENT
    async with running(tmp_path, log) as projector:
        status = await projector.until(is_stalled)
        assert status.reason.startswith("LOG_REFUSED")
        log.refusal = None
        await log.append(Noted(key="a", text="x"))
        await projector.applied(1)
        status = await projector.until(is_running)
        assert status.reason == ""
        assert await projector.serving("notes")


async def test_a_stream_that_falls_silent_is_opened_anew(
    tmp_path: Path, log: ScriptedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("projector.generation.follower._SILENCE_SECONDS", 0.3)
    async with running(tmp_path, log) as projector:
        log.mute = True
        await log.append(Noted(key="a", text="x"))
        await eventually(lambda: len(log.followed) > 1)
        assert (await projector.status()).progress.lag_events == 1
        log.mute = False
        await projector.applied(1)


async def diverged(path: Path, log: ScriptedLog, sentence: str) -> None:
    before = rows(path)
    async with running(path, log) as projector:
        status = await projector.until(is_stalled)
        assert status.reason.startswith("LOG_DIVERGED: ")
        assert sentence in status.reason
        assert not status.HasField("stalled_event")
    assert rows(path) == before


async def test_another_log_is_not_followed(tmp_path: Path, log: ScriptedLog) -> None:
    await log.append(Noted(key="a", text="x"))
    async with running(tmp_path, log) as projector:
        await projector.applied(1)
    log.log_id = b"otherlog"
    await log.append(Noted(key="a", text="y"))
    await diverged(tmp_path, log, f"filled from log {b'scripted'.hex()}, and the command server has log")


async def test_another_event_at_the_checkpoint_stalls_the_projection(tmp_path: Path, log: ScriptedLog) -> None:
    await log.append(Noted(key="a", text="x"), Noted(key="a", text="y"))
    async with running(tmp_path, log) as projector:
        await projector.applied(2)
    log.events.clear()
    log.life, log.epochs = "b", [(1, 1), (2, 2)]
    await log.append(Noted(key="a", text="x"), Noted(key="a", text="other"), Noted(key="a", text="more"))
    await diverged(tmp_path, log, "at position 2 the read store has event a-2, and the log has event b-2")


async def test_a_log_shorter_than_the_checkpoint_stalls_the_projection(tmp_path: Path, log: ScriptedLog) -> None:
    await log.append(Noted(key="a", text="x"), Noted(key="a", text="y"))
    async with running(tmp_path, log) as projector:
        await projector.applied(2)
    del log.events[1:]
    await diverged(tmp_path, log, "and the log has no event")


async def test_a_log_that_diverged_while_unreachable_stalls_the_projection(tmp_path: Path, log: ScriptedLog) -> None:
    await log.append(Noted(key="a", text="x"), Archived(key="a"))
    async with running(tmp_path, log) as projector:
        await projector.applied(2)
        await log.stop()
        del log.events[1:]
        log.life = "b"
        await log.append(Noted(key="a", text="other"))
        await log.start()
        status = await projector.until(is_stalled)
        assert "the read store has event a-2, and the log has event b-2" in status.reason


async def test_a_new_epoch_after_the_checkpoint_is_accepted(tmp_path: Path, log: ScriptedLog) -> None:
    await log.append(Noted(key="a", text="x"))
    async with running(tmp_path, log) as projector:
        first = await projector.applied(1)
    log.epochs.append((2, 2))
    await log.append(Noted(key="a", text="y"))
    async with running(tmp_path, log) as projector:
        second = await projector.applied(2)
        frame = await anext(aiter(projector.feeds.FollowFeed(feed_pb2.FollowFeedRequest())))
        assert [epoch.epoch for epoch in frame.projections[0].identity.epochs] == [1, 2]
    assert second.progress.token > first.progress.token


async def test_a_feed_sends_every_projection_first_and_then_changes(tmp_path: Path, log: ScriptedLog) -> None:
    async with running(tmp_path, log, Notes().projection, Notes("second").projection) as projector:
        await projector.until(is_running)
        await projector.until(is_running, "second")
        frames = aiter(projector.feeds.FollowFeed(feed_pb2.FollowFeedRequest()))
        async with asyncio.timeout(WAIT_SECONDS):
            first = await anext(frames)
            assert {projection.name for projection in first.projections} == {"notes", "second"}
            await log.append(Noted(key="a", text="x"), Archived(key="a"))
            latest: dict[str, Any] = {}
            idle = False
            while not idle or {feed.applied_position for feed in latest.values()} != {2}:
                frame = await anext(frames)
                idle = not frame.projections
                latest.update({projection.name: projection for projection in frame.projections})
        assert set(latest) == {"notes", "second"}
        sent = latest["notes"]
        assert (sent.version, sent.generation, sent.changed_position) == (1, 1, 1)
        assert sent.identity.log_id == b"scripted"


async def test_feeds_have_a_limit_and_a_feed_that_ends_makes_room(tmp_path: Path, log: ScriptedLog) -> None:
    async with running(tmp_path, log, feeds_max=1) as projector:
        first = projector.feeds.FollowFeed(feed_pb2.FollowFeedRequest())
        await anext(aiter(first))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await anext(aiter(projector.feeds.FollowFeed(feed_pb2.FollowFeedRequest())))
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        first.cancel()

        async def has_changed() -> Any:
            try:
                await anext(aiter(projector.feeds.FollowFeed(feed_pb2.FollowFeedRequest())))
            except grpc.aio.AioRpcError:
                return False
            return True

        await eventually(has_changed)


async def test_a_checkpoint_of_no_projection_is_refused(tmp_path: Path, log: ScriptedLog) -> None:
    async with running(tmp_path, log) as projector:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await projector.feeds.WriteCheckpoint(feed_pb2.WriteCheckpointRequest(projection="nothing"))
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_projection_stalls_when_another_writer_moves_its_checkpoint(tmp_path: Path, log: ScriptedLog) -> None:
    async with running(tmp_path, log) as projector:
        await log.append(Noted(key="a", text="x"))
        await projector.applied(1)
        connection = sqlite3.connect(tmp_path / "read.db")
        connection.execute("UPDATE diptych_generations SET position = 7")
        connection.commit()
        connection.close()
        await log.append(Noted(key="a", text="y"))
        status = await projector.until(is_stalled)
        assert status.reason.startswith("LEASE_LOST: ")
    assert rows(tmp_path)["a"][1] == 1


async def test_a_failing_store_is_reported_and_tried_again(tmp_path: Path, log: ScriptedLog) -> None:
    async with running(tmp_path, log) as projector:
        await log.append(Noted(key="a", text="x"))
        await projector.applied(1)
        connection = sqlite3.connect(tmp_path / "read.db")
        connection.execute(
            "CREATE TRIGGER full BEFORE UPDATE ON diptych_generations BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
        )
        await log.append(Noted(key="a", text="y"))
        status = await projector.until(is_stalled)
        assert status.reason == "READ_STORE_UNAVAILABLE: disk is full; it is tried again."
        connection.execute("DROP TRIGGER full")
        connection.close()
        await projector.applied(2)
        await projector.until(is_running)
    assert rows(tmp_path)["a"][2] == Note(text="y", edits=2).SerializeToString()


@pytest.mark.parametrize("events", [0, 1])
async def test_bug_a_projector_folded_into_a_read_store_that_was_removed(
    tmp_path: Path, log: ScriptedLog, events: int
) -> None:
    async with running(tmp_path, log) as projector:
        await log.append(Noted(key="a", text="x"))
        await projector.applied(1)
        (tmp_path / "read.db").rename(tmp_path / "elsewhere")
        for number in range(events):
            await log.append(Noted(key=f"b{number}", text="y"))
        status = await projector.until(is_stalled)
        assert status.reason.startswith(f"READ_STORE_UNAVAILABLE: {tmp_path / 'read.db'} was removed while ")
        (tmp_path / "elsewhere").rename(tmp_path / "read.db")
        await projector.applied(1 + events)
        await projector.until(is_running)


async def test_bug_a_new_version_of_a_projection_could_not_be_rolled_back(tmp_path: Path, log: ScriptedLog) -> None:
    old, new = Notes().projection, Notes(version=2).projection
    async with running(tmp_path, log, old) as projector:
        await log.append(Noted(key="a", text="x"))
        await projector.applied(1)
    async with running(tmp_path, log, new) as projector:
        await projector.until(lambda status: status.generation == 2 and is_running(status))
        await log.append(Noted(key="b", text="y"))
        await projector.applied(2)
    with pytest.raises(StartError, match="--roll-back"):
        async with running(tmp_path, log, old):
            pass
    async with running(tmp_path, log, old, roll_back=True) as projector:
        status = await projector.until(lambda status: status.generation == 1 and is_running(status))
        assert (status.version, status.progress.applied_position) == (1, 2)
        await log.append(Noted(key="c", text="z"))
        await projector.applied(3)
    assert sorted(rows(tmp_path)) == ["a", "b", "c"]
    async with running(tmp_path, log, old) as projector:
        assert (await projector.applied(3)).generation == 1, "from now on without the flag"


async def test_a_paused_projection_follows_nothing_and_the_others_go_on(tmp_path: Path, log: ScriptedLog) -> None:
    projections = [Notes().projection, Notes("other").projection]
    async with running(tmp_path, log, *projections) as projector:
        await log.append(Noted(key="a", text="x"), *[Archived(key="a")] * 3)
        await projector.applied(4)
        await projector.applied(4, "other")
        paused = await projector.pause()
        assert (is_paused(paused), paused.progress.applied_position) == (True, 4)
        assert checkpoint(tmp_path) == (4, "a-4"), "what was applied in memory is on disk"
        followed = len(log.followed)
        await log.append(*(Noted(key=f"b{n}", text="y") for n in range(500)))
        await projector.applied(504, "other")
        status = await projector.until(lambda status: status.progress.head_position == 504)
        assert (is_paused(status), status.progress.applied_position, status.progress.lag_events) == (True, 4, 500)
        assert status.progress.lag_time.ToNanoseconds() > 0
        assert len(log.followed) == followed
        assert not await projector.serving("notes")
        assert await projector.serving("other")
        in_state = {"projection": "notes", "state": "PAUSED"}
        assert REGISTRY.get_sample_value("diptych_projection_state", in_state) == 1
        frame = await anext(aiter(projector.feeds.FollowFeed(feed_pb2.FollowFeedRequest())))
        sent = {projection.name: (projection.state, projection.applied_position) for projection in frame.projections}
        assert sent["notes"] == (states.PROJECTION_STATE_PAUSED, 4)
    followed = len(log.followed)
    async with running(tmp_path, log, *projections) as projector:
        assert is_paused(await projector.status())
        await projector.until(is_running, "other")
        assert len(log.followed) == followed + 1
        await projector.resume()
        await projector.applied(504)
        await projector.until(is_running)
        assert await projector.serving("notes")
    assert set(rows(tmp_path)) == set(rows(tmp_path, "other"))


async def test_a_stalled_projection_can_be_paused_and_tries_again_when_resumed(
    tmp_path: Path, log: ScriptedLog
) -> None:
    async with running(tmp_path, log, parked_streams_max=0) as projector:
        await log.append(Noted(key="a", text="x"), Noted(key="a", text="poison"))
        stalled = await projector.until(is_stalled)
        paused = await projector.pause()
        assert (is_paused(paused), paused.reason, paused.HasField("stalled_event")) == (True, "", False)
        for _ in range(2):  # It is paused, then stalled.
            followed = len(log.followed)
            assert (await projector.resume()).state == states.PROJECTION_STATE_CATCHING_UP
            again = await projector.until(is_stalled)
            assert (again.reason, again.stalled_event) == (stalled.reason, stalled.stalled_event)
            assert len(log.followed) == followed + 1
        await projector.until_not_serving("notes")


async def test_a_resumed_projection_continues_after_its_obstacle_is_removed(tmp_path: Path, log: ScriptedLog) -> None:
    await log.append(Noted(key="a", text="x"))
    async with running(tmp_path, log) as projector:
        await projector.applied(1)
    right, log.log_id = log.log_id, b"another!"
    async with running(tmp_path, log) as projector:
        assert (await projector.until(is_stalled)).reason.startswith("LOG_DIVERGED: ")
        log.log_id = right
        await log.append(Noted(key="a", text="y"))
        await projector.resume()
        await projector.applied(2)
        assert (await projector.until(is_running)).reason == ""
        assert await projector.serving("notes")


async def test_a_pause_is_refused_when_the_store_fails(tmp_path: Path, log: ScriptedLog) -> None:
    async def refused(call: Any) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE
        assert error.value.details() == (
            "The read store cannot be written now (disk is full); projection notes goes on as before."
        )

    def full(yes: bool) -> None:
        connection = sqlite3.connect(tmp_path / "read.db")
        connection.execute(
            "CREATE TRIGGER full BEFORE UPDATE ON diptych_generations BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
            if yes
            else "DROP TRIGGER full"
        )
        connection.close()

    async with running(tmp_path, log) as projector:
        await log.append(Noted(key="a", text="x"))
        await projector.applied(1)
        full(True)
        await refused(projector.pause())
        assert not is_paused(await projector.status())
        full(False)
        await log.append(Noted(key="a", text="y"))
        await projector.applied(2)
        await projector.pause()
        full(True)
        await refused(projector.resume())
        assert is_paused(await projector.status())
        full(False)
        await log.append(Noted(key="a", text="z"))
        await projector.resume()
        await projector.applied(3)


class Killable:
    """A projector in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, path: Path, log: ScriptedLog) -> Killable:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.support.notes_projector",
            log.address,
            str(path / "read.db"),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert process.stdout is not None
        async with asyncio.timeout(WAIT_SECONDS):
            line = (await process.stdout.readline()).decode()
        assert line.startswith("diptych projector ready address=127.0.0.1:"), line
        return cls(process)

    async def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        async with asyncio.timeout(WAIT_SECONDS):
            return await self.process.wait()


async def test_rows_are_those_of_the_log_after_kills_at_any_time(tmp_path: Path, log: ScriptedLog) -> None:
    choose = random.Random(5)
    projector = await Killable.start(tmp_path, log)
    for _ in range(3):
        for _ in range(30):
            await log.append(
                *(
                    choose.choice(
                        [
                            Noted(key=f"k{n % 9}", text=str(n)),
                            Erased(key=f"k{n % 7}"),
                            Tagged(key="k1", tags=["r", "s"]),
                        ]
                    )
                    for n in range(choose.randrange(60))
                )
            )
            await asyncio.sleep(0)
        before = checkpoint(tmp_path, "second")[0]
        moved = functools.partial(lambda before: checkpoint(tmp_path, "second")[0] > before, before)
        await eventually(moved, every=0.001)
        await projector.end(signal.SIGKILL)
        projector = await Killable.start(tmp_path, log)
    head = await log.append(Noted(key="last", text="last"), Archived(key="last"))
    await eventually(lambda: all("last" in rows(tmp_path, name) for name in ("first", "second")))
    assert await projector.end(signal.SIGTERM) == 0
    for name in ("first", "second"):
        memory = MemoryRows(Notes(name).projection)
        memory.apply(log.events)
        assert rows(tmp_path, name) == memory.rows[name]
        assert rows(tmp_path, f"{name}_tags") == memory.rows[f"{name}_tags"]
        assert checkpoint(tmp_path, name)[0] in (head, head - 1)
