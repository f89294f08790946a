"""Command server that is killed, and one whose disk is full."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from diptych.contract.token import Token
from diptych.v1.commands_pb2 import AggregateRef, CommandContext
from diptych.v1.events_pb2 import (
    ReadStreamRequest,
    ReadStreamResponse,
    RecordedEvent,
    SubscribeRequest,
    SubscribeResponse,
)
from shop.v1.user_commands_pb2 import RecordLoginRequest, RegisterUserRequest, UpdateUserProfileRequest
from tests.support.command_calls import (
    Client,
    StreamEnded,
    command_server,
    connected,
    envelopes,
    next_outcomes,
)
from tests.support.polling import eventually
from tests.support.programs import Server

SUBSCRIBE = "diptych.v1.EventService/Subscribe"
READ_STREAM = "diptych.v1.EventService/ReadStream"


def register(user_id: str, request_id: str = "") -> RegisterUserRequest:
    context = CommandContext(request_id=request_id)
    return RegisterUserRequest(context=context, user_id=user_id, email=f"{user_id}@example.com")


def login(user_id: str, request_id: str = "") -> RecordLoginRequest:
    return RecordLoginRequest(context=CommandContext(request_id=request_id), user_id=user_id)


async def all_events(client: Client) -> list[RecordedEvent]:
    call = client.stream(SUBSCRIBE, SubscribeRequest())
    events: list[RecordedEvent] = []
    while True:
        frame = SubscribeResponse.FromString(await call.read())
        events += frame.batch.events
        if frame.HasField("caught_up"):
            call.cancel()
            return events


class Worker:
    """A client that sends one command after the other, and repeats each one until it is acknowledged."""

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.acknowledged: dict[str, tuple[int, str]] = {}
        """Version and token by request id."""
        self.stopping = False

    async def unary(self, client: Client) -> None:
        """Send commands by the unary rpcs."""
        number = 0
        while not self.stopping:
            request_id = f"{self.user_id}-{number}"
            command = login(self.user_id, request_id) if number else register(self.user_id, request_id)
            answer = await client.command(command)
            if answer.code is grpc.StatusCode.OK:
                self.acknowledged[request_id] = (answer.result.version, answer.result.token)
                number += 1
            else:
                assert answer.code is grpc.StatusCode.UNAVAILABLE, answer.message
                await asyncio.sleep(0.02)

    async def streaming(self, client: Client) -> None:
        """Send commands by `Execute`, several messages at a time; send those without an outcome again."""
        number = 0
        while not self.stopping:
            call = client.execute(seconds=None)
            sent: list[str] = []
            try:
                for _ in range(8):
                    ids = [f"{self.user_id}-{number + len(sent) + place}" for place in range(5)]
                    sent += ids
                    commands = [
                        register(self.user_id, id) if id.endswith("-0") else login(self.user_id, id) for id in ids
                    ]
                    await call.write(envelopes(*commands).SerializeToString())
                for start in range(0, len(sent), 5):
                    outcomes = await next_outcomes(call)
                    for request_id, outcome in zip(sent[start : start + 5], outcomes, strict=True):
                        assert outcome.HasField("result"), outcome
                        self.acknowledged[request_id] = (outcome.result.version, outcome.result.token)
                        number += 1
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, StreamEnded):
                await asyncio.sleep(0.02)
            finally:
                call.cancel()


@pytest.mark.parametrize("seed", range(4))
async def test_a_command_acknowledged_before_a_kill_is_in_the_log_once(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    with command_server(tmp_path / "data", "--snapshot-events=20", "--state-cache-entries=3") as server:
        async with connected(server) as client:
            workers = [Worker(f"w{number}") for number in range(8)]
            working = [
                asyncio.create_task(one.streaming(client) if index % 2 else one.unary(client))
                for index, one in enumerate(workers)
            ]
            for _ in range(3):
                goal = sum(len(one.acknowledged) for one in workers) + chance.randrange(20, 300)
                await eventually(lambda goal=goal: sum(len(one.acknowledged) for one in workers) >= goal, seconds=30)  # type: ignore[misc]
                await server.restart()
            goal = sum(len(one.acknowledged) for one in workers) + 50
            await eventually(lambda: sum(len(one.acknowledged) for one in workers) >= goal, seconds=30)
            for worker in workers:
                worker.stopping = True
            await asyncio.gather(*working)
            await check(client, workers)


async def check(client: Client, workers: list[Worker]) -> None:
    events = await all_events(client)
    assert [one.position for one in events] == list(range(1, len(events) + 1))
    assert len({one.event_id for one in events}) == len(events)
    by_request: dict[str, list[RecordedEvent]] = {}
    versions: dict[str, int] = {}
    for event in events:
        by_request.setdefault(event.metadata.request_id, []).append(event)
        assert event.version == versions.get(event.aggregate.id, 0) + 1
        versions[event.aggregate.id] = event.version
    assert all(len(found) == 1 for found in by_request.values()), "one effect of each request"
    for worker in workers:
        for request_id, (version, token) in worker.acknowledged.items():
            [event] = by_request[request_id]
            assert (event.version, event.position) == (version, Token.parse(token).position)
    for worker in workers:
        request_id, (version, token) = list(worker.acknowledged.items())[-1]
        command = register(worker.user_id, request_id) if version == 1 else login(worker.user_id, request_id)
        answer = await client.command(command)
        assert (answer.result.duplicate, answer.result.version, answer.result.token) == (True, version, token)


async def fill(client: Client, user_id: str) -> tuple[int, Any]:
    """Write until the disk is full; return the last acknowledged version and the refusal."""
    version = 1
    async with asyncio.timeout(60):
        while True:
            change = UpdateUserProfileRequest(user_id=user_id, bio=f"{version} " + "x" * 9000)
            answer = await client.command(change)
            if answer.code is not grpc.StatusCode.OK:
                return version, answer
            version = answer.result.version


async def check_full(client: Client, version: int, answer: Any) -> None:
    """Check the server on a full disk: refusals, reads, and the other commands."""
    assert answer.reason == ("UNAVAILABLE", "diptych.v1", "LOG_UNAVAILABLE")
    assert "SQLITE_" in answer.metadata["cause"]
    several = await asyncio.gather(*(client.command(register(f"more-{n}", f"more-{n}")) for n in range(20)))
    call = client.execute()
    bios = [UpdateUserProfileRequest(user_id="ada", bio=f"{n}" + "y" * 9000) for n in range(100)]
    await call.write(envelopes(*bios).SerializeToString())
    outcomes = await next_outcomes(call)
    call.cancel()
    assert {one.WhichOneof("outcome") for one in outcomes} == {"error"}
    events = await all_events(client)
    kept = {one.aggregate.id for one in events}
    for number, one in enumerate(several):
        assert (one.code is grpc.StatusCode.OK) == (f"more-{number}" in kept)
    page = await client.call(READ_STREAM, ReadStreamRequest(aggregate=AggregateRef(type="user", id="ada")))
    assert ReadStreamResponse.FromString(page.response).events, "reading goes on"
    assert sum(one.aggregate.id == "ada" for one in events) == version


async def check_recovered(client: Client, version: int) -> None:
    """Check that the server recovers by itself, lost and doubled nothing, and forgot refused commands."""
    async with asyncio.timeout(20):
        while True:
            answer = await client.command(register("more-0", "more-0"))
            if answer.code is grpc.StatusCode.OK:
                break
            await asyncio.sleep(0.02)
    answer = await client.command(UpdateUserProfileRequest(user_id="ada", bio="z"))
    assert answer.result.version == version + 1
    events = await all_events(client)
    assert [one.position for one in events] == list(range(1, len(events) + 1))
    assert [one.version for one in events if one.aggregate.id == "ada"] == list(range(1, version + 2))


async def test_a_file_that_cannot_grow_refuses_commands_until_it_can(tmp_path: Path) -> None:
    with command_server(tmp_path / "data") as server:
        async with connected(server) as client:
            await client.command(register("ada"))
            limit(server, 600_000)
            version, answer = await fill(client, "ada")
            await check_full(client, version, answer)
            limit(server, resource.RLIM_INFINITY)
            await check_recovered(client, version)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


async def test_a_full_disk_refuses_commands_until_there_is_room(small_disk: Path) -> None:
    """The server's own log lines go to the full disk, too."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 500_000)
    with command_server(small_disk / "data") as server:
        async with connected(server) as client:
            await client.command(register("ada"))
            version, answer = await fill(client, "ada")
            with (small_disk / "rest").open("wb", buffering=0) as rest:  # Not one page is left.
                try:
                    while rest.write(b"x" * 4096):
                        pass
                except OSError:
                    pass
            await check_full(client, version, answer)
            ballast.unlink()
            await check_recovered(client, version)
            assert server.running


async def test_a_restart_after_a_full_disk_has_every_acknowledged_command(tmp_path: Path) -> None:
    with command_server(tmp_path / "data") as server:
        async with connected(server) as client:
            await client.command(register("ada"))
            limit(server, 400_000)
            version, _ = await fill(client, "ada")
            await server.restart()
            await check_recovered(client, version)


def limit(server: Server, file_bytes: int) -> None:
    """Limit the size of the server's files."""
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (file_bytes, resource.RLIM_INFINITY))
