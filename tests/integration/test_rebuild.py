"""Rebuild of a projection under load, with real processes: no read is lost, and none is stale."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from diptych.client import CallRefused, Connection, open_channel
from diptych.contract.token import Token
from diptych.storage.read_store_schema import generations
from diptych.v1 import projections_pb2 as states
from diptych.v1 import projections_pb2_grpc, read_model_pb2
from diptych.v1.read_model_pb2 import ResetReason, WaitOutcome
from library.v1.command_service_pb2 import RegisterMemberRequest
from library.v1.query_service_pb2 import GetLoanDayRequest, GetMemberRequest, ListMembersRequest
from shop.v1.user_commands_pb2 import RecordLoginRequest, RegisterUserRequest
from shop.v1.user_queries_pb2 import GetUserRequest, ListUsersRequest
from tests.history.run import Plan, run, seeds
from tests.support.pair import Pair, started_pair
from tests.support.polling import eventually
from tests.support.programs import ROOT, Server

SECONDS = 60.0
"""Limit in seconds on anything here, on the slowest machine."""


HISTORY_SECONDS = float(os.environ.get("DIPTYCH_TEST_SECONDS", "5"))
"""Seconds of a run with random rebuilds and kills."""


class Operator:
    """Operator's client of the projector and the query server."""

    def __init__(self, projector: grpc.aio.Channel) -> None:
        self.projections = projections_pb2_grpc.ProjectionServiceStub(projector)

    def rebuild(self, name: str) -> Any:
        """Open the stream of a rebuild."""
        return self.projections.Rebuild(states.RebuildRequest(projection=name), timeout=SECONDS, wait_for_ready=True)

    async def rebuilt(self, name: str) -> list[states.RebuildResponse]:
        """Return all frames of a rebuild, to its end."""
        return [frame async for frame in self.rebuild(name)]

    async def cancel(self, name: str) -> states.ProjectionStatus:
        answer = await self.projections.CancelRebuild(states.CancelRebuildRequest(projection=name), timeout=SECONDS)
        status: states.ProjectionStatus = answer.status
        return status

    async def switch(self, name: str, generation: int) -> states.ProjectionStatus:
        request = states.SwitchGenerationRequest(projection=name, generation=generation)
        status: states.ProjectionStatus = (await self.projections.SwitchGeneration(request, timeout=SECONDS)).status
        return status

    async def listed(self, name: str) -> states.ProjectionStatus:
        answer = await self.projections.ListProjections(states.ListProjectionsRequest(), wait_for_ready=True)
        found: states.ProjectionStatus
        (found,) = [projection for projection in answer.projections if projection.name == name]
        return found

    async def generations(self, name: str) -> dict[int, str]:
        """Return the projection's generations and their states."""
        return {
            one.generation: states.GenerationState.Name(one.state).removeprefix("GENERATION_STATE_")
            for one in (await self.listed(name)).generations
        }


@asynccontextmanager
async def operator_at(projector: Server) -> AsyncIterator[Operator]:
    async with open_channel(projector.address) as channel:
        yield Operator(channel)


@pytest.fixture
async def operator(pair: Pair) -> AsyncIterator[Operator]:
    async with operator_at(pair.projector) as operator:
        yield operator


async def _to_the_end(call: Any) -> None:
    async with asyncio.timeout(SECONDS):
        while await call.read() is not grpc.aio.EOF:
            pass


def reason_of(error: BaseException) -> str:
    assert isinstance(error, grpc.aio.AioRpcError)
    return CallRefused.of(error).reason


async def registered(shop: Connection, count: int, *, first: int = 0) -> list[str]:
    """Register users through one stream."""
    names = [f"user-{number}" for number in range(first, first + count)]
    async with shop.command_stream() as stream:
        for begin in range(0, count, 500):
            await stream.submit(
                [RegisterUserRequest(user_id=n, email=f"{n}@example.com") for n in names[begin : begin + 500]]
            )
    return names


def kept_tables(path: Path) -> set[str]:
    """Return the generations that have a table of the projection `users` in the read store."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    finally:
        connection.close()
    views = ("users", "user_summaries", "role_statistics")
    return {name.rpartition("_")[2] for name in names if name.rpartition("_")[0] in views}


def rows(path: Path, table: str) -> list[Any]:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return connection.execute(f"SELECT * FROM {table} ORDER BY key").fetchall()
    finally:
        connection.close()


class Watcher:
    """Watch a view and record the frames."""

    def __init__(self, shop: Connection, view: str, *, resume_token: str = "") -> None:
        self.held: dict[str, bytes] = {}
        self.resets: list[ResetReason] = []
        self.position = 0
        self.tokens: list[str] = []
        self._frames = shop.watch(view, resume_token=resume_token)

    async def run(self) -> None:
        async with aclosing(self._frames) as frames:  # type: ignore[type-var]
            async for frame in frames:
                if frame.HasField("reset"):
                    self.resets.append(frame.reset.reason)
                    self.held.clear()
                for row in frame.rows.rows:
                    if row.HasField("deleted"):
                        self.held.pop(row.key, None)
                    else:
                        self.held[row.key] = row.row.value
                for mark in (frame.caught_up, frame.progress):
                    if mark.token:
                        self.position = Token.parse(mark.token).position
                if frame.resume_token:
                    self.tokens.append(frame.resume_token)


@asynccontextmanager
async def watching(shop: Connection, view: str, *, resume_token: str = "") -> AsyncIterator[Watcher]:
    watcher = Watcher(shop, view, resume_token=resume_token)
    task = asyncio.create_task(watcher.run())
    try:
        yield watcher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_rebuild_under_load_makes_no_read_stale_or_refused(
    pair: Pair, shop: Connection, operator: Operator
) -> None:
    """Readers read what writers just wrote, and a client watches: no read is stale or refused."""
    names = await registered(shop, 1500)
    await shop.wait_for()
    logins = dict.fromkeys(names[:20], 0)
    going = True
    old: list[str] = []
    reads = 0

    async def write_and_read(name: str) -> None:
        nonlocal reads
        async with pair.connect() as mine:
            while going:
                await mine.execute(RecordLoginRequest(user_id=name))
                logins[name] += 1
                read = await mine.query(GetUserRequest(user_id=name), token=mine.token)
                plain = await mine.query(GetUserRequest(user_id=name))
                reads += 2
                old.extend(
                    f"{name}: {answer.login_count} logins of {logins[name]}"
                    for answer in (read, plain)
                    if answer.login_count != logins[name]
                )

    async with watching(shop, "users") as watcher:
        # The rows come before the frame that says so, and has a token.
        await eventually(lambda: len(watcher.held) == 1500 and bool(watcher.tokens), seconds=SECONDS)
        bookmark = watcher.tokens[-1]
        working = [asyncio.create_task(write_and_read(name)) for name in logins]
        try:
            frames = await operator.rebuilt("users")
            before = reads
            await eventually(lambda: reads > before + 100, seconds=SECONDS)  # Some after the switch, too.
        finally:
            going = False
            await asyncio.gather(*working)
        assert old == []
        assert [one.switched for one in frames[-2:]][-1]
        assert {one.generation for one in frames} == {2}
        assert frames[-1].position >= 1500
        final = await shop.wait_for()
        head = final.progress.head_position
        await eventually(lambda: watcher.position >= head, seconds=SECONDS)
        assert watcher.resets == [ResetReason.RESET_REASON_GENERATION]
        stored = {key: row for key, position, row, *_ in rows(pair.data / "read.db", "users_g2")}
        assert watcher.held == stored
    async with watching(shop, "users", resume_token=bookmark) as resumed:
        await eventually(lambda: len(resumed.held) == 1500, seconds=SECONDS)
        assert resumed.resets == [ResetReason.RESET_REASON_GENERATION]
    # What is kept is as it was, and comes to the same when it is caught up.
    assert await operator.generations("users") == {1: "KEPT", 2: "ACTIVE"}
    back = await operator.switch("users", 1)
    assert (back.generation, back.state) == (1, states.PROJECTION_STATE_RUNNING)
    store = pair.data / "read.db"
    for view in ("users", "user_summaries", "role_statistics"):
        assert rows(store, f"{view}_g1") == rows(store, f"{view}_g2")
    assert (await shop.query(GetUserRequest(user_id=names[0]))).login_count == logins[names[0]]


async def test_one_retired_generation_is_kept_and_the_others_are_dropped(
    pair: Pair, shop: Connection, operator: Operator
) -> None:
    await registered(shop, 1200)
    await operator.rebuilt("users")
    page = await shop.query(ListUsersRequest(page_size=10))
    assert (await operator.rebuilt("users"))[-1].generation == 3
    assert await operator.generations("users") == {2: "KEPT", 3: "ACTIVE"}
    store = pair.data / "read.db"
    await eventually(lambda: kept_tables(store) == {"g2", "g3"}, seconds=SECONDS)
    # Page tokens outlive generations.
    following = await shop.query(ListUsersRequest(page_size=10, page_token=page.next_page_token))
    assert len(following.users) == 10
    assert not {user.user_id for user in page.users} & {user.user_id for user in following.users}
    await operator.switch("users", 2)
    await operator.switch("users", 3)
    assert await operator.generations("users") == {2: "KEPT", 3: "ACTIVE"}
    assert (await operator.switch("users", 3)).generation == 3, "it answers already"
    for generation in (1, 9):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await operator.switch("users", generation)
        assert reason_of(refused.value) == "GENERATION_NOT_FOUND"
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_cancelled_rebuild_leaves_nothing_behind(pair: Pair, shop: Connection, operator: Operator) -> None:
    await registered(shop, 10)
    pair.command.freeze()  # So it cannot be done before it is cancelled.
    call = operator.rebuild("users")
    assert (await call.read()).generation == 2
    assert (await operator.listed("users")).state == states.PROJECTION_STATE_REBUILDING
    assert await operator.generations("users") == {1: "ACTIVE", 2: "FILLING"}
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await operator.switch("users", 1 + 2)
    assert reason_of(refused.value) == "REBUILD_UNDER_WAY"
    status = await operator.cancel("users")
    assert (status.generation, len(status.generations)) == (1, 1)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _to_the_end(call)
    assert reason_of(refused.value) == "REBUILD_CANCELLED"
    await eventually(lambda: kept_tables(pair.data / "read.db") == {"g1"}, seconds=SECONDS)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await operator.cancel("users")
    assert reason_of(refused.value) == "REBUILD_NOT_RUNNING"
    pair.command.thaw()
    await shop.execute(RecordLoginRequest(user_id="user-1"))
    assert (await shop.query(GetUserRequest(user_id="user-1"), token=shop.token)).login_count == 1


async def test_a_rebuild_goes_on_without_its_caller_and_after_a_crash(
    pair: Pair, shop: Connection, operator: Operator
) -> None:
    await registered(shop, 6000)
    call = operator.rebuild("users")
    async with asyncio.timeout(SECONDS):
        while not (first := await call.read()).position:
            assert first.generation == 2
    call.cancel()
    pair.projector.kill()
    await pair.projector.restart()
    # A further call joins the rebuild under way, or the one after it.
    frames = await operator.rebuilt("users")
    assert frames[-1].switched
    assert frames[0].generation in (2, 3)

    assert (await operator.listed("users")).generation == frames[-1].generation
    assert len(rows(pair.data / "read.db", f"users_g{frames[-1].generation}")) == 6000
    assert (await shop.query(GetUserRequest(user_id="user-5999"), token=shop.token)).user_id == "user-5999"


async def test_a_projector_that_stops_ends_rebuild_calls_with_a_reason(pair: Pair, operator: Operator) -> None:
    pair.command.freeze()  # So the rebuild cannot end by itself.
    call = operator.rebuild("users")
    await call.read()
    stopping = asyncio.create_task(asyncio.to_thread(pair.projector.stop))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _to_the_end(call)
    assert reason_of(refused.value) == "READ_STORE_UNAVAILABLE"
    assert await stopping == 0


async def test_a_rebuild_ends_on_an_empty_log_and_without_matching_events(
    pair: Pair, shop: Connection, operator: Operator
) -> None:
    assert (await operator.rebuilt("orders"))[-1].switched
    await registered(shop, 50)  # None of these is for orders.
    frames = await operator.rebuilt("orders")
    assert (frames[-1].generation, frames[-1].position, frames[-1].switched) == (3, 50, True)
    waited = await shop.wait_for(view="orders")
    assert waited.outcome == WaitOutcome.WAIT_OUTCOME_REACHED


async def test_a_paused_projection_is_not_rebuilt(shop: Connection, operator: Operator) -> None:
    await operator.projections.Pause(states.PauseRequest(projection="users"))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await operator.rebuilt("users")
    assert reason_of(refused.value) == "PROJECTION_PAUSED"
    await operator.projections.Resume(states.ResumeRequest(projection="users"))
    assert (await operator.rebuilt("users"))[-1].switched
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await operator.rebuilt("nobody")
    assert reason_of(refused.value) == "PROJECTION_NOT_FOUND"


async def test_the_command_line_rebuilds(pair: Pair, shop: Connection, operator: Operator) -> None:
    await registered(shop, 20)

    async def diptych(*arguments: str) -> tuple[int, str, str]:
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "diptych.cli", "rebuild", *arguments, f"--projector={pair.projector.address}"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=SECONDS,
        )
        return done.returncode, done.stdout, done.stderr

    status, out, err = await diptych("users")
    assert (status, err) == (0, "")
    assert out.endswith("generation 2 of projection users answers, at position 20\n")
    assert await diptych("users", "--switch", "1") == (
        0,
        "projection users, generation 1, is RUNNING at position 20 (up to date)\n",
        "",
    )
    version = (await operator.listed("users")).version
    lines = [
        f"users: generation {generation} of version {version} is {state} at position 20\n"
        for generation, state in ((1, "active"), (2, "kept"))
    ]
    assert await diptych("users", "--list") == (0, "".join(lines), "")
    status, _, err = await diptych("users", "--switch", "9")
    assert (status, "`diptych rebuild users --list` shows its generations." in err) == (1, True)
    status, out, err = await diptych("--all")
    assert (status, err) == (0, "")
    listed = await operator.projections.ListProjections(states.ListProjectionsRequest())
    names = [status.name for status in listed.projections]
    assert [line.split()[4] for line in out.splitlines() if " answers, at position " in line] == names
    status, _, err = await diptych("users", "--all")
    assert (status, "--all takes no projection" in err) == (2, True)
    status, out, err = await diptych("users", "--cancel")
    assert (status, out) == (1, "")
    assert "Projection users is not being rebuilt." in err


@pytest.mark.parametrize("seed", seeds("11"))
@pytest.mark.timeout(HISTORY_SECONDS * 8 + 90)
async def test_the_promises_hold_while_everything_is_rebuilt(tmp_path: Path, seed: int) -> None:
    """Clients write, read and watch while projections are rebuilt, switched back, and all servers killed."""
    outcome = await run(tmp_path / "data", Plan(seed=seed, seconds=HISTORY_SECONDS, rebuilds=True, reads_min=31))
    print(f"seed {seed}: {outcome.summary()}")
    assert not outcome.findings, f"seed {seed}: {outcome.report()}"
    assert outcome.switches >= 4, outcome.summary()
    assert sum(read.refused is None for read in outcome.history.reads) > 30, outcome.summary()


# A newer version beside the old one.


def changed_library(folder: Path, *changes: tuple[str, str]) -> Path:
    """Return a copy of the library with a changed read model."""
    shutil.copytree(ROOT / "tests" / "library_domain", folder)
    source = folder / "library" / "lending.py"
    text = source.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    source.write_text(text)
    return folder


VERSION_2 = ('Projection("lending", version=1)', 'Projection("lending", version=2)')
OTHER_FOLD = ("email=event.email, name=event.name,", "email=event.email, name=event.name.upper(),")
OTHER_SHAPE = ('members.column("name", lambda row: row.name)', 'members.column("full_name", lambda row: row.name)')


class Deployed:
    """Servers of another version of the library, beside a pair."""

    def __init__(self, pair: Pair, code: Path, label: str) -> None:
        env = {"PYTHONPATH": f"{ROOT}:{code}"}
        store = f"--read-store=sqlite:///{pair.data / 'read.db'}"
        commands = f"--commands={pair.command.address}"

        def server(name: str, *more: str) -> Server:
            return Server(
                name, "--domain=library", commands, store, *more, log=pair.data / f"{name}-{label}.log", env=env
            )

        self.projector = server("projector")
        self.query = server("query-server", f"--projector={self.projector.address}")

        self._started: list[Server] = []

    def start(self, *servers: Server, ready: bool = True) -> None:
        """Start servers, all at once."""
        self._started += servers
        for server in servers:
            server.spawn()
        for server in servers if ready else ():
            server.wait_ready()

    def close(self) -> None:
        for server in self._started:
            server.close()


@asynccontextmanager
async def library(tmp_path: Path, *changes: tuple[str, str]) -> AsyncIterator[tuple[Pair, Deployed]]:
    """A pair of the library, and servers with changed code that are not started yet."""
    with started_pair(tmp_path / "data", "library") as pair:
        deployed = Deployed(pair, changed_library(tmp_path / "changed", *changes), "2")
        try:
            yield pair, deployed
        finally:
            deployed.close()


async def members(client: Connection, numbers: Sequence[int]) -> str:
    for number in numbers:
        await client.execute(
            RegisterMemberRequest(member_id=f"m{number}", email=f"m{number}@example.com", name=f"member {number}")
        )
    return client.token


def active(path: Path) -> set[tuple[str, int, int]]:
    """Return the active generations of a store: projection, version, generation."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return set(
            connection.execute(
                f"SELECT projection, version, generation FROM {generations.name} WHERE active"
            ).fetchall()
        )
    finally:
        connection.close()


async def test_a_new_version_is_deployed_beside_the_old_one(tmp_path: Path) -> None:
    """Both versions answer. An unchanged projection is folded by one of them, and taken over when that one ends."""
    async with library(tmp_path, VERSION_2, OTHER_FOLD, OTHER_SHAPE) as (pair, new):
        store = pair.data / "read.db"
        async with pair.connect() as old_client, Connection(pair.command.address, new.query.address) as new_client:
            token = await members(old_client, range(50))
            await asyncio.to_thread(new.start, new.projector, new.query)
            await eventually(lambda: ("lending", 2, 2) in active(store), seconds=SECONDS)
            assert active(store) == {("lending", 1, 1), ("lending", 2, 2), ("activity", 1, 1)}
            seventh = await once_rebuilt(new_client, GetMemberRequest(member_id="m7"), token)
            assert seventh.name == "MEMBER 7"
            # The old one goes on.
            token = await members(old_client, range(50, 60))
            assert (await old_client.query(GetMemberRequest(member_id="m55"), token=token)).name == "member 55"
            assert (await new_client.query(GetMemberRequest(member_id="m55"), token=token)).name == "MEMBER 55"
            await new_client.query(GetLoanDayRequest(day="2026-01-01"), token=token)
            async with operator_at(new.projector) as operator:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await operator.rebuilt("activity")
                assert reason_of(refused.value) == "PROJECTION_LED_ELSEWHERE"

                async def runs() -> Any:
                    return (await operator.listed("activity")).state == states.PROJECTION_STATE_RUNNING

                await eventually(runs, seconds=SECONDS)
                # A third one of the same versions is refused, by name.
                third = Deployed(pair, tmp_path / "changed", "3")
                try:
                    third.start(third.projector, ready=False)
                    assert await asyncio.to_thread(third.projector.wait) == 1
                    assert f"address={pair.projector.address}" in third.projector.logged()
                finally:
                    third.close()
                # The old one goes: what it alone has folded, the new one goes on with.
                pair.projector.kill()
                token = await members(new_client, range(60, 70))
                await new_client.query(GetLoanDayRequest(day="2026-01-01"), token=token)
                assert (await new_client.query(GetMemberRequest(member_id="m66"), token=token)).name == "MEMBER 66"
                assert (await operator.rebuilt("activity"))[-1].switched
                await eventually(
                    lambda: f"address={new.projector.address}" in (pair.data / "read.db.lock").read_text(),
                    seconds=SECONDS,
                )


async def test_a_new_version_alone_rebuilds_beside_the_old_rows(tmp_path: Path) -> None:
    """Rows of the old version answer reads without a newer token; others are refused at once."""
    async with library(tmp_path, VERSION_2, OTHER_FOLD) as (pair, new):  # noqa: SIM117 - the second needs the first.
        async with pair.connect() as client, Connection(pair.command.address, new.query.address) as renewed:
            token = await members(client, range(20))
            await client.wait_for()
            pair.projector.stop()
            pair.query.stop()
            later = await members(client, range(20, 30))
            pair.command.freeze()  # So nothing can be filled yet.
            await asyncio.to_thread(new.start, new.projector, new.query)
            assert (await renewed.query(GetMemberRequest(member_id="m3"))).name == "member 3", "as it was"
            assert len((await renewed.query(ListMembersRequest(page_size=100), token=token)).members) == 20

            async def outcome() -> str:
                waited = await renewed.wait_for(later, "members", timeout_seconds=SECONDS)
                return WaitOutcome.Name(waited.outcome)

            async def rebuilding() -> Any:
                return await _state(new.query, "lending") == states.PROJECTION_STATE_REBUILDING

            await eventually(rebuilding, seconds=SECONDS)
            assert await outcome() == "WAIT_OUTCOME_REBUILDING"
            with pytest.raises(CallRefused) as refused:
                await renewed.query(GetMemberRequest(member_id="m25"), token=later, timeout_seconds=SECONDS)
            assert refused.value.reason == "READ_MODEL_REBUILDING"
            assert refused.value.code is grpc.StatusCode.FAILED_PRECONDITION
            pair.command.thaw()
            await eventually(lambda: ("lending", 2, 2) in active(pair.data / "read.db"), seconds=SECONDS)
            assert active(pair.data / "read.db") == {("lending", 2, 2), ("activity", 1, 1)}

            got = await once_rebuilt(renewed, GetMemberRequest(member_id="m25"), later)
            assert got.name == "MEMBER 25"


async def once_rebuilt(client: Connection, query: Any, token: str) -> Any:
    """Return the answer as soon as a rebuild does not cause a refusal any more."""

    async def answer() -> Any:
        try:
            return await client.query(query, token=token)
        except CallRefused as refusal:
            if refusal.reason != "READ_MODEL_REBUILDING":
                raise
            return None

    return await eventually(answer, seconds=SECONDS)


async def _state(query: Server, name: str) -> states.ProjectionState:
    """Return a projection's state at a query server."""
    async with open_channel(query.address) as channel:
        get_status: Any = channel.unary_unary("/diptych.v1.ReadModelService/GetStatus")
        status = read_model_pb2.GetStatusResponse.FromString(await get_status(b"", timeout=SECONDS))
    (found,) = [one for one in status.projections if one.name == name]
    return found.state
