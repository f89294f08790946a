"""Watches with real processes: restarts, kills, slow clients and clients that vanish."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from diptych.cli.ports import Reservation
from diptych.client import CallRefused, Connection, open_channel
from diptych.contract.token import Token
from diptych.v1 import read_model_pb2, read_model_pb2_grpc
from diptych.v1.read_model_pb2 import AllRows, ResetReason, WaitOutcome, WatchRequest, WatchResponse
from library.v1.command_service_pb2 import (
    AddCopyRequest,
    BorrowCopyRequest,
    RegisterMemberRequest,
    ReturnCopyRequest,
)
from library.v1.resources_pb2 import Member, OpenLoan
from tests.support.pair import Pair, started_pair
from tests.support.polling import eventually
from tests.support.programs import Program, Server

SECONDS = 20.0
BUFFER_ROWS = 50


@pytest.fixture(scope="module")
def metrics() -> Iterator[Reservation]:
    """Address of the query server's metrics."""
    reservation = Reservation("127.0.0.1:0")
    yield reservation
    reservation.close()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, metrics: Reservation) -> Iterator[Pair]:
    """A library for all tests of the module, which use ids of their own."""
    settings = {
        "query-server": {
            "watches_max": 40,
            "watch_buffer_rows_max": BUFFER_ROWS,
            "metrics_address": metrics.address,
        }
    }
    with started_pair(tmp_path_factory.mktemp("watch") / "data", "library", settings) as pair:
        asyncio.run(readable(pair))
        yield pair


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Pair]:
    """A library for one test, which may break it."""
    with started_pair(tmp_path / "data", "library") as pair:
        asyncio.run(readable(pair))
        yield pair


async def readable(pair: Pair) -> None:
    """Wait until the query server has opened the read store."""
    async with open_channel(pair.query.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)

        async def serving() -> bool:
            answer = await health.Check(health_pb2.HealthCheckRequest(service=""))
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

        found: bool = await eventually(serving, seconds=SECONDS)
        assert found


class Watched:
    """Frames of a watch so far."""

    def __init__(self, frames: AsyncIterator[WatchResponse]) -> None:
        self.rows: dict[str, Any] = {}
        self.row_changes: list[tuple[str, int]] = []
        self.frames: list[WatchResponse] = []
        self.resets: list[ResetReason] = []
        self.caught_up = False
        self.resume_token = ""
        self.error: CallRefused | None = None
        self._frames = frames
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            async for frame in self._frames:
                self._take(frame)
        except CallRefused as refused:
            self.error = refused
        except grpc.aio.AioRpcError as error:
            self.error = CallRefused.of(error)

    def _take(self, frame: WatchResponse) -> None:
        self.frames.append(frame)
        if frame.HasField("reset"):
            self.resets.append(frame.reset.reason)
            self.rows.clear()
            self.row_changes.clear()
            self.caught_up = False
        for row in frame.rows.rows:
            self.row_changes.append((row.key, row.position))
            if row.HasField("deleted"):
                self.rows.pop(row.key, None)
            else:
                kinds: dict[str, Any] = {"library.v1.Member": Member, "library.v1.OpenLoan": OpenLoan}
                self.rows[row.key] = kinds[row.row.TypeName()].FromString(row.row.value)
        self.caught_up = self.caught_up or frame.HasField("caught_up")
        self.resume_token = frame.resume_token or self.resume_token

    async def until(self, condition: Any) -> None:
        """Wait until a condition on the frames is true."""

        def holds() -> bool:
            assert self.error is None, self.error
            return bool(condition())

        await eventually(holds, seconds=SECONDS, every=0.005)

    def unique(self) -> bool:
        return len(set(self.row_changes)) == len(self.row_changes)


@asynccontextmanager
async def watching(
    connection: Connection, view: str, keys: list[str] | None = None, **more: Any
) -> AsyncIterator[Watched]:
    """Watch by the client's own iterator."""
    watched = Watched(connection.watch(view, keys, **more))
    try:
        yield watched
    finally:
        await watched.stop()


@asynccontextmanager
async def plain(server: Server, view: str, resume_token: str = "") -> AsyncIterator[Watched]:
    """Watch until the connection ends."""
    async with open_channel(server.address) as channel:
        stub = read_model_pb2_grpc.ReadModelServiceStub(channel)
        watched = Watched(stub.Watch(WatchRequest(view=view, all=AllRows(), resume_token=resume_token)))
        try:
            yield watched
        finally:
            await watched.stop()


async def read_on(call: Any) -> AsyncIterator[Any]:
    """Yield the rest of a call that was read from already: gRPC allows only one of its two ways to read a call."""
    while (answer := await call.read()) is not grpc.aio.EOF:
        yield answer


async def member(library: Connection, member_id: str) -> str:
    answer = await library.execute(
        RegisterMemberRequest(member_id=member_id, email=f"{member_id}@example.com", name=f"Member {member_id}")
    )
    return str(answer.result.token)


async def lend(library: Connection, copy_id: str, member_id: str) -> None:
    await library.execute(AddCopyRequest(copy_id=copy_id, title="T"))
    await library.execute(BorrowCopyRequest(copy_id=copy_id, member_id=member_id))


async def members(library: Connection, prefix: str, count: int) -> str:
    """Register many members through one stream; return the last token."""
    async with library.command_stream() as stream:
        commands = [
            RegisterMemberRequest(member_id=f"{prefix}{n}", email=f"{prefix}{n}@example.com", name="n" * 200)
            for n in range(count)
        ]
        answers = [await stream.submit(commands[n : n + 100]) for n in range(0, count, 100)]
        outcomes = [outcome for answer in answers for outcome in await answer]
    assert not [outcome for outcome in outcomes if isinstance(outcome, CallRefused)]
    return library.token


def gauge(metrics: Reservation, name: str) -> float:
    with urllib.request.urlopen(f"http://{metrics.address}/metrics", timeout=5) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
    raise AssertionError(f"there is no {name}")


async def test_a_watch_sends_rows_changes_and_deletes(library: Pair) -> None:
    async with library.connect() as client:
        await member(client, "ada")
        await lend(client, "ada-1", "ada")
        await client.wait_for()
        async with watching(client, "open_loans") as loans, watching(client, "members", ["ada", "ada2"]) as people:
            await loans.until(lambda: loans.caught_up and "ada-1.1" in loans.rows)
            await people.until(lambda: people.caught_up)
            assert people.rows["ada"].open_loans == 1
            await client.execute(ReturnCopyRequest(copy_id="ada-1"))
            await loans.until(lambda: "ada-1.1" not in loans.rows)
            await people.until(lambda: people.rows["ada"].open_loans == 0)
            await member(client, "ada2")
            await member(client, "ada3")
            await people.until(lambda: people.rows.keys() == {"ada", "ada2"})
            assert loans.unique()
            assert people.unique()


async def test_a_cut_can_be_compared_with_a_commands_token(library: Pair) -> None:
    async with library.connect() as client, watching(client, "members", ["bob"]) as watched:
        await watched.until(lambda: watched.caught_up)
        token = await member(client, "bob-is-another")  # Nothing that is watched changes.
        await watched.until(lambda: watched.frames[-1].progress.token >= token)
        assert watched.rows == {}


async def test_invalid_watch_requests_are_refused(library: Pair) -> None:
    async with library.connect() as client, watching(client, "members") as good:
        await good.until(lambda: good.resume_token)
        stub = read_model_pb2_grpc.ReadModelServiceStub(client.queries)
        for request, code, reason in (
            (WatchRequest(view="none", all=AllRows()), "INVALID_ARGUMENT", "UNKNOWN_VIEW"),
            (WatchRequest(view="members"), "INVALID_ARGUMENT", "INVALID_REQUEST"),
            (
                WatchRequest(view="members", all=AllRows(), resume_token="nonsense"),
                "INVALID_ARGUMENT",
                "RESUME_TOKEN_MALFORMED",
            ),
            (
                WatchRequest(view="open_loans", all=AllRows(), resume_token=good.resume_token),
                "INVALID_ARGUMENT",
                "RESUME_TOKEN_MALFORMED",
            ),
        ):
            watched = Watched(stub.Watch(request))
            await eventually(lambda watched=watched: watched.error)  # type: ignore[misc]
            assert watched.error is not None
            assert (watched.error.code.name, watched.error.reason) == (code, reason)
            assert watched.error.token, "a refusal carries a token, too"


async def test_watches_are_limited_and_vanished_clients_are_not_counted(library: Pair, metrics: Reservation) -> None:
    await eventually(lambda: gauge(metrics, "diptych_watches") == 0)
    async with library.connect() as client:
        await member(client, "crowd")
        channel = open_channel(library.query.address)
        stub = read_model_pb2_grpc.ReadModelServiceStub(channel)
        crowd = [Watched(stub.Watch(WatchRequest(view="members", all=AllRows()))) for _ in range(40)]
        for watched in crowd:
            await watched.until(lambda watched=watched: watched.caught_up)
        assert gauge(metrics, "diptych_watches") == 40
        async with plain(library.query, "members") as refused:
            await eventually(lambda: refused.error)
            assert refused.error is not None
            assert (refused.error.code, refused.error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
            assert refused.error.retry_seconds == 1
        await crowd[0].stop()
        await channel.close()
        await eventually(lambda: gauge(metrics, "diptych_watches") == 0)
        async with watching(client, "members") as watched:
            await watched.until(lambda: watched.caught_up)


async def test_a_client_that_reads_nothing_delays_no_other_and_gets_all_rows_later(
    library: Pair, metrics: Reservation
) -> None:
    # A window of HTTP/2 that does not grow, so that what is sent stays on the server.
    options = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1 << 16))
    overflows = gauge(metrics, "diptych_watch_overflows_total")
    async with library.connect() as client, watching(client, "members") as quick:
        await quick.until(lambda: quick.caught_up)
        async with grpc.aio.insecure_channel(library.query.address, options=options) as channel:
            stub = read_model_pb2_grpc.ReadModelServiceStub(channel)
            call = stub.Watch(WatchRequest(view="members", all=AllRows()))
            async with asyncio.timeout(SECONDS):
                while not (await call.read()).HasField("caught_up"):
                    pass
            for part in range(20):
                await members(client, f"slow{part}.", 100)
                await client.wait_for()
            await quick.until(lambda: sum(key.startswith("slow") for key in quick.rows) == 2000)
            await eventually(lambda: gauge(metrics, "diptych_watch_overflows_total") > overflows)
            slow = Watched(read_on(call))
            await slow.until(lambda: sum(key.startswith("slow") for key in slow.rows) == 2000)
            assert ResetReason.RESET_REASON_OVERFLOW in slow.resets
            await slow.until(lambda: slow.caught_up)
            assert slow.rows == quick.rows
            await slow.stop()
        assert not quick.resets
        assert quick.unique()


async def test_a_watch_resumes_after_a_restart_of_the_query_server(fresh: Pair) -> None:
    async with fresh.connect() as client:
        await member(client, "m1")
        await client.wait_for()
        async with watching(client, "members") as watched:
            await watched.until(lambda: watched.caught_up)
            for number, restart in enumerate((fresh.query.stop, fresh.query.kill), 2):
                restart()
                await member(client, f"m{number}")
                await fresh.query.restart()
                await watched.until(lambda number=number: f"m{number}" in watched.rows)
            assert not watched.resets
            assert watched.unique()
            assert len(watched.row_changes) == 3


async def test_a_watch_resumes_at_another_server_when_its_own_stops(fresh: Pair) -> None:
    async with fresh.connect() as client:
        await member(client, "m1")
        await lend(client, "c1", "m1")
        await lend(client, "c2", "m1")
        await client.wait_for()
        async with plain(fresh.query, "open_loans") as first:
            await first.until(lambda: first.caught_up and len(first.rows) == 2)
            fresh.query.signal(signal.SIGTERM)
            await eventually(lambda: first.error)
            assert first.error is not None
            assert first.error.code is grpc.StatusCode.UNAVAILABLE
            assert first.error.reason == "READ_MODEL_NOT_READY"
            assert fresh.query.wait() == 0
        await client.execute(ReturnCopyRequest(copy_id="c1"))
        other = await asyncio.to_thread(fresh.another_query_server)
        async with plain(other, "open_loans", first.resume_token) as second:
            await second.until(lambda: second.caught_up and second.row_changes)
            assert [key for key, _ in second.row_changes] == ["c1.1"], "the deleted row is sent, and no snapshot"
            assert second.rows == {}


async def test_a_watch_stays_open_while_the_projector_is_down(fresh: Pair) -> None:
    async with fresh.connect() as client:
        await member(client, "m1")
        await client.wait_for()
        async with plain(fresh.query, "members") as watched:
            await watched.until(lambda: watched.caught_up)
            for number in range(2, 5):
                fresh.projector.kill()
                await member(client, f"m{number}")
                await fresh.projector.restart()
                await watched.until(lambda number=number: f"m{number}" in watched.rows)
            assert watched.unique()
            assert len(watched.row_changes) == 4


async def test_a_frozen_client_does_not_delay_the_stop(fresh: Pair) -> None:
    async with fresh.connect() as client:
        await members(client, "many", 3000)
        await client.wait_for()
        async with open_channel(fresh.query.address) as channel:
            stub = read_model_pb2_grpc.ReadModelServiceStub(channel)
            call = stub.Watch(WatchRequest(view="members", all=AllRows()))
            await call.read()
            fresh.query.signal(signal.SIGTERM)
            assert await asyncio.to_thread(fresh.query.wait, 6.0) == 0
            call.cancel()


async def test_a_resume_token_expires_with_the_tombstones(tmp_path: Path) -> None:
    settings = {"projector": {"tombstone_hours": 0.0005}}
    with started_pair(tmp_path / "data", "library", settings) as pair:
        await readable(pair)
        async with pair.connect() as client:
            await member(client, "m1")
            await lend(client, "c1", "m1")
            await client.wait_for()
            async with plain(pair.query, "open_loans") as first:
                await first.until(lambda: first.rows and first.caught_up)
                token = first.resume_token
            await client.execute(ReturnCopyRequest(copy_id="c1"))
            await client.wait_for()
            async with plain(pair.query, "open_loans", token) as second:
                await second.until(lambda: second.row_changes)

            async def expired() -> CallRefused | None:
                async with plain(pair.query, "open_loans", token) as third:
                    await eventually(lambda: third.error or third.caught_up)
                    return third.error

            error: CallRefused | None = await eventually(expired, every=0.2)
            assert error is not None
            assert (error.code, error.reason) == (grpc.StatusCode.OUT_OF_RANGE, "RESUME_TOKEN_EXPIRED")
            assert int(error.metadata["oldest_position"]) > int(error.metadata["position"]) > 0


async def progress_before(call: Any, required: int) -> list[Any]:
    """Return the frames of a WatchVersion call up to the first one whose head is not below `required`."""
    frames = [await call.read()]
    async with asyncio.timeout(SECONDS):
        while frames[-1].progress.head_position < required:  # The query server learns the head a moment later.
            frames.append(await call.read())
    return frames


async def check_watched_until_applied(pair: Pair, call: Any, token: str) -> None:
    """Check a WatchVersion call of a projector that is frozen until the head has passed the version's token."""
    required = Token.parse(token).position
    waiting = await progress_before(call, required)
    assert waiting[-1].progress.applied_position < required, "the projector is frozen"
    pair.projector.thaw()
    *more, last = [answer async for answer in read_on(call)]
    waiting += more
    assert [answer.outcome for answer in waiting] == [WaitOutcome.WAIT_OUTCOME_UNSPECIFIED] * len(waiting)
    assert {answer.projection for answer in waiting} == {"lending"}
    assert last.outcome == WaitOutcome.WAIT_OUTCOME_REACHED
    assert last.progress.applied_position >= required
    assert Token.parse(last.progress.token).position >= required


async def test_watch_version_sends_progress_until_the_version_is_applied(fresh: Pair) -> None:
    async with fresh.connect() as client:
        await member(client, "m1")
        await client.wait_for()
        stub = read_model_pb2_grpc.ReadModelServiceStub(client.queries)

        fresh.projector.freeze()
        token = await member(client, "m2")
        by_token = read_model_pb2.WatchVersionRequest(view="members", token=token)
        await check_watched_until_applied(fresh, stub.WatchVersion(by_token, timeout=SECONDS), token)

        fresh.projector.freeze()
        call = stub.WatchVersion(version_of_member("m3", view="members"), timeout=SECONDS)
        first = await call.read()
        assert first.outcome == WaitOutcome.WAIT_OUTCOME_UNSPECIFIED
        await check_watched_until_applied(fresh, call, await member(client, "m3"))


async def test_watch_version_ends_at_once_when_applied_and_at_its_deadline_when_absent(library: Pair) -> None:
    async with library.connect() as client:
        token = await member(client, "version-1")
        await client.wait_for()
        stub = read_model_pb2_grpc.ReadModelServiceStub(client.queries)
        call = stub.WatchVersion(read_model_pb2.WatchVersionRequest(token=token), timeout=SECONDS)
        assert [answer.outcome async for answer in call] == [WaitOutcome.WAIT_OUTCOME_REACHED]
        call = stub.WatchVersion(version_of_member("none"), timeout=3)
        assert [answer.outcome async for answer in call][-1] == WaitOutcome.WAIT_OUTCOME_TIMED_OUT
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.WatchVersion(read_model_pb2.WatchVersionRequest(token="nonsense")).read()
        assert CallRefused.of(refused.value).reason == "TOKEN_MALFORMED"


def version_of_member(member_id: str, *, view: str = "") -> read_model_pb2.WatchVersionRequest:
    """Return a request for version 1 of a member."""
    version = read_model_pb2.AggregateVersion(aggregate={"type": "member", "id": member_id}, version=1)
    return read_model_pb2.WatchVersionRequest(view=view, aggregate_version=version)


async def test_the_command_line_shows_a_view(library: Pair, tmp_path: Path) -> None:
    async with library.connect() as client:
        await member(client, "term")
        await client.wait_for()
        options = ["--query", library.query.address, "--domain", "library"]
        people = Program(["-m", "diptych.cli", "watch", "members", "term", *options], log=tmp_path / "people.log")
        frames = Program(["-m", "diptych.cli", "watch", "open_loans", "--json", *options], log=tmp_path / "frames.log")
        try:
            people.spawn()
            frames.spawn()
            await asyncio.to_thread(people.wait_for_line, lambda line: "term@example.com" in line)
            await asyncio.to_thread(people.wait_for_line, lambda line: line.startswith("--"))
            await asyncio.to_thread(frames.wait_for_line, lambda line: "caughtUp" in line)
            await lend(client, "term-1", "term")
            await asyncio.to_thread(people.wait_for_line, lambda line: '"openLoans": 1' in line)
            await client.execute(ReturnCopyRequest(copy_id="term-1"))
            line = await asyncio.to_thread(frames.wait_for_line, lambda line: '"deleted"' in line)
            (row,) = json.loads(line)["rows"]["rows"]
            assert row["key"] == "term-1.1"
            for program in (people, frames):
                program.signal(signal.SIGINT)
                assert await asyncio.to_thread(program.wait) == 0
            token = people.logged().partition("--resume ")[2].partition("`")[0]
            options += ["--resume", token]
            again = Program(["-m", "diptych.cli", "watch", "members", "term", *options], log=tmp_path / "again.log")
            again.spawn()
            await asyncio.to_thread(again.wait_for_line, lambda line: line.startswith("--"))
            assert len(again.lines) <= 2, "there is no snapshot"
            again.kill()
            wrong = Program(["-m", "diptych.cli", "watch", "nothing", *options[:2]], log=tmp_path / "wrong.log")
            wrong.spawn()
            assert await asyncio.to_thread(wrong.wait) == 1
            assert "No projection has a view 'nothing'" in wrong.logged()
        finally:
            for program in (people, frames):
                program.kill()


async def test_events_and_rows_are_printed_without_the_domain(fresh: Pair, tmp_path: Path) -> None:
    async with fresh.connect() as connection:
        await connection.execute(RegisterMemberRequest(member_id="m1", email="ada@example.com", name="Ada"))
    # The domain is not on the path of this program.
    env = {**os.environ, "PYTHONPATH": "", "DIPTYCH_DOMAIN": "library"}
    program = [sys.executable, "-m", "diptych.cli"]
    done = await asyncio.to_thread(
        subprocess.run,
        [*program, "events", "--commands", fresh.command.address],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    event = json.loads(done.stdout)["event"]
    assert (event["@type"], event["name"]) == ("type.googleapis.com/library.v1.MemberRegistered", "Ada")
    assert done.stderr == ""
