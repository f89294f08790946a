"""Health, reflection, start and stop of the command server."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from diptych.internal.v1.log_pb2 import (
    FollowRequest,
    WatchHeadRequest,
)
from diptych.v1.events_pb2 import (
    GetPositionRequest,
    SubscribeRequest,
)
from tests.support.command_calls import (
    Answer,
    Client,
    command_server,
    connected,
    envelopes,
    next_outcomes,
)
from tests.support.programs import ROOT, Server
from tests.support.shop_commands import (
    ENGINE,
    FOLLOW,
    GET_POSITION,
    SUBSCRIBE,
    WATCH_HEAD,
    caught_up,
    ended,
    login,
    register,
    user,
)


async def test_health_covers_the_process_and_every_service(client: Client) -> None:
    for service in (
        "",
        "shop.v1.CommandService",
        "diptych.v1.CommandStreamService",
        "diptych.v1.EventService",
        "diptych.internal.v1.LogService",
    ):
        answer = await client.call("grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest(service=service))
        found = health_pb2.HealthCheckResponse.FromString(answer.response)
        assert found.status == health_pb2.HealthCheckResponse.SERVING
    unknown = await client.call("grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest(service="x"))
    assert unknown.code is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_the_services_and_their_contracts(client: Client) -> None:
    call: Any = client.channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")()

    async def ask(**request: Any) -> reflection_pb2.ServerReflectionResponse:
        await call.write(reflection_pb2.ServerReflectionRequest(**request).SerializeToString())
        return reflection_pb2.ServerReflectionResponse.FromString(await call.read())

    services = {one.name for one in (await ask(list_services="")).list_services_response.service}
    assert {"shop.v1.CommandService", "diptych.v1.CommandStreamService", "diptych.v1.EventService"} <= services
    found = await ask(file_containing_symbol="shop.v1.RegisterUserRequest")
    assert found.file_descriptor_response.file_descriptor_proto
    call.cancel()


async def test_sigterm_ends_open_streams_and_exits_with_0(tmp_path: Path) -> None:
    with command_server(tmp_path / "data") as server:
        async with connected(server) as client:
            waiting = asyncio.create_task(
                client.call(GET_POSITION, GetPositionRequest(aggregate=user("ada"), version=99))
            )
            await client.command(register("ada"))
            subscription = client.stream(SUBSCRIBE, SubscribeRequest())
            await caught_up(subscription)
            follower = client.stream(FOLLOW, FollowRequest())
            await follower.read()
            head = client.stream(WATCH_HEAD, WatchHeadRequest())
            await head.read()
            execute = client.execute()
            await execute.write(envelopes(login("ada")).SerializeToString())
            await next_outcomes(execute)
            server.signal(signal.SIGTERM)
            for call in (subscription, follower, head, execute):
                answer = await Answer.of(await ended(call))
                assert answer.reason == ("UNAVAILABLE", ENGINE, "LOG_UNAVAILABLE")
            assert (await waiting).code is grpc.StatusCode.UNAVAILABLE
            assert await asyncio.to_thread(server.wait, 5) == 0


def run_program(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "command_server", "--domain=shop", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


async def test_a_second_server_on_one_log_is_refused_with_the_holder(tmp_path: Path) -> None:
    with command_server(tmp_path / "data") as server:
        second = await asyncio.to_thread(
            run_program, "--address=127.0.0.1:0", f"--log=sqlite:///{tmp_path / 'data' / 'log.db'}"
        )
        assert second.returncode == 1
        assert f"pid={server.pid}" in second.stderr
        assert f"address={server.address}" in second.stderr
        assert "Traceback" not in second.stderr
        async with connected(server) as client:
            assert (await client.command(register("ada"))).result.version == 1


def test_a_port_that_is_taken_is_named(server: Server, tmp_path: Path) -> None:
    second = run_program(f"--address={server.address}", f"--log=sqlite:///{tmp_path / 'log.db'}")
    assert second.returncode == 1
    assert server.address in second.stderr
    assert "Traceback" not in second.stderr


def test_an_address_beyond_loopback_is_refused(tmp_path: Path) -> None:
    refused = run_program("--address=0.0.0.0:0", f"--log=sqlite:///{tmp_path / 'log.db'}")
    assert refused.returncode == 1
    assert "--insecure" in refused.stderr
    assert not (tmp_path / "log.db").exists()


def test_a_file_that_is_no_log_is_refused_and_unchanged(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE precious (id)")
    other.close()
    (tmp_path / "text.db").write_text("not a database, but long enough to look at\n" * 100)
    (tmp_path / "folder.db").mkdir()
    for name in ("other.db", "text.db", "folder.db", "text.db/log.db"):
        refused = run_program("--address=127.0.0.1:0", f"--log=sqlite:///{tmp_path / name}")
        assert refused.returncode == 1, name
        assert "Traceback" not in refused.stderr
        assert name in refused.stderr
    other = sqlite3.connect(tmp_path / "other.db")
    assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("precious",)]
    other.close()


async def test_bug_a_follower_at_a_negative_position_was_answered_with_internal(client: Client) -> None:
    """With event types, the store was asked for the frame at a negative position. Found by `test_fuzz.py`."""
    call = client.stream(FOLLOW, FollowRequest(position=-(1 << 63), event_types=["shop.v1.UserRegistered"]))
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (await Answer.of(call)).reason == ("INVALID_ARGUMENT", ENGINE, "INVALID_REQUEST")
