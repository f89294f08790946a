"""Processes in a real command server: killed at any moment, and shown to and repaired by operators."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from diptych.v1 import events_pb2, processes_pb2
from diptych.v1.commands_pb2 import AggregateRef, CommandContext
from library.v1.command_service_pb2 import (
    AddCopyRequest,
    PutCopyAsideRequest,
    RegisterMemberRequest,
    StartReservationRequest,
)
from tests.support.command_calls import Client, connected, envelopes, next_outcomes
from tests.support.polling import eventually
from tests.support.programs import ROOT, Server

LONG = 60.0
pytestmark = pytest.mark.timeout(240)


class MailProvider:
    """Mail provider that honours idempotency keys: a line of JSON in, one out. `failing` is a text that fails."""

    def __init__(self) -> None:
        self.sent: dict[str, tuple[str, str]] = {}
        """Email and text by key, also of calls whose answer was an error."""
        self.calls: list[dict[str, Any]] = []
        self.failing = ""
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        """Address as HOST:PORT."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[MailProvider]:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        async with self._server:
            yield self

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await reader.readline()
            if line:
                asked = json.loads(line)
                self.calls.append(asked)
                what = (asked["email"], asked["text"])
                assert self.sent.setdefault(asked["key"], what) == what, "a key stands for one notice"
                failed = self.failing and self.failing in asked["text"]
                answer = {"reason": "MAILBOX_FULL"} if failed else {"notice_id": f"notice of {asked['key']}"}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except ConnectionError:
            pass  # The caller was killed.
        finally:
            writer.close()


@contextmanager
def command_server(folder: Path, mail: MailProvider, **env: str) -> Iterator[Server]:
    """A command server of the library, not started yet."""
    server = Server(
        "command-server",
        "--domain=library",
        f"--log=sqlite:///{folder / 'log.db'}",
        log=folder / "server.log",
        env={"LIBRARY_MAIL": mail.address, **env},
    )
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
async def mail() -> AsyncIterator[MailProvider]:
    async with MailProvider().serve() as provider:
        yield provider


async def execute(client: Client, command: Message) -> None:
    """Send a command until it is accepted or refused, over restarts of the server."""
    name = command.DESCRIPTOR.name.removesuffix("Request")
    async with asyncio.timeout(LONG):
        while True:
            answer = await client.call(f"library.v1.CommandService/{name}", command)
            if answer.code is not grpc.StatusCode.UNAVAILABLE:
                assert answer.code is grpc.StatusCode.OK, answer.message
                return
            await asyncio.sleep(0.05)


async def fill(client: Client, *copies: str) -> None:
    await execute(client, RegisterMemberRequest(member_id="m1", email="m1@example.com", name="Ada"))
    for copy_id in copies:
        await execute(client, AddCopyRequest(copy_id=copy_id, title="Notes"))


def reserve(copy_id: str, seconds: float = 3600) -> StartReservationRequest:
    made = StartReservationRequest(copy_id=copy_id, member_id="m1", context=CommandContext(request_id=copy_id))
    made.pickup_time.FromNanoseconds(int(seconds * 1e9))
    return made


async def stream_of(client: Client, kind: str, id: str) -> list[str]:
    """Return the types of a stream's events, without their package."""
    request = events_pb2.ReadStreamRequest(aggregate=AggregateRef(type=kind, id=id), page_size=1000)
    answer = await client.call("diptych.v1.EventService/ReadStream", request)
    events = events_pb2.ReadStreamResponse.FromString(answer.response).events
    return [one.event.TypeName().rpartition(".")[2] for one in events]


async def status_of(client: Client) -> processes_pb2.ProcessStatus:
    """Return the status of reservations; -1 running instances while the server does not answer."""
    answer = await client.call("diptych.v1.ProcessService/ListProcesses", processes_pb2.ListProcessesRequest())
    found = processes_pb2.ListProcessesResponse.FromString(answer.response).processes
    return found[0] if found else processes_pb2.ProcessStatus(running_instances=-1)


async def diptych(*arguments: str) -> tuple[int, str]:
    """Run the command line to its end; return exit status and all output."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "diptych.cli", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


async def test_a_command_server_killed_at_any_moment_ends_every_reservation_once(
    tmp_path: Path, mail: MailProvider
) -> None:
    copies = [f"c{number}" for number in range(24)]
    chance = random.Random(6)
    with command_server(tmp_path, mail) as server:
        server.start()
        async with connected(server) as client:
            await fill(client, *copies)
            sending = asyncio.create_task(_send_slowly(client, copies))
            for _ in range(6):
                await asyncio.sleep(chance.uniform(0.05, 0.5))
                await server.restart()
            await sending

            async def all_over() -> bool:
                status = await status_of(client)
                return status.running_instances == 0 and status.parked_instances == 0

            for copy_id in copies:

                async def has_ended(copy_id: str = copy_id) -> bool:
                    return "ReservationEnded" in await stream_of(client, "reservation", copy_id)

                await eventually(has_ended, seconds=LONG * 2)
            await eventually(all_over)
            for copy_id in copies:
                expected = ["CopyAdded", "CopyPutAside", "CopyPutBack"]
                assert await stream_of(client, "copy", copy_id) == expected, "each command took effect once"
                assert Counter(await stream_of(client, "reservation", copy_id)) == {
                    "ProcessStepped": 3,
                    "ReservationStarted": 1,
                    "ReservationReady": 1,
                    "ReservationNotified": 2,
                    "ReservationEnded": 1,
                }
    texts = Counter(text for _, text in mail.sent.values())
    assert texts == {
        text: 1
        for copy_id in copies
        for text in (f"{copy_id} waits for you until 3 days from now.", f"{copy_id} waits no more.")
    }, "each notice has one key"


async def _send_slowly(client: Client, copies: list[str]) -> None:
    for copy_id in copies:
        await execute(client, reserve(copy_id, 0.5))
        await asyncio.sleep(0.05)


async def test_a_parked_instance_is_shown_and_retried_by_an_operator(tmp_path: Path, mail: MailProvider) -> None:
    poison, good = "100%", "c1"
    with command_server(tmp_path, mail) as server:
        server.start()
        async with connected(server) as client:
            await fill(client, poison, good)
            await execute(client, reserve(poison))
            await execute(client, reserve(good))

            async def parked() -> bool:
                return (await status_of(client)).parked_instances == 1

            async def notified() -> bool:
                return "ReservationNotified" in await stream_of(client, "reservation", good)

            await eventually(parked)
            await eventually(notified)
            (trouble,) = (await status_of(client)).troubles
            assert (trouble.process, trouble.id) == ("reservation", poison)
            assert trouble.kind == processes_pb2.PROCESS_TROUBLE_KIND_PARKED
            assert trouble.input_type == "library.v1.PutCopyAsideRequest"
            assert trouble.reason.startswith("ValueError: unsupported format character")
            status, said = await diptych("processes", f"--commands={server.address}")
            assert status == 0
            assert f"reservation {poison}: PARKED since" in said
            status, said = await diptych("processes", "retry", "reservation", poison, f"--commands={server.address}")
            assert status == 1
            assert "is parked again: ValueError" in said
    with command_server(tmp_path, mail, LIBRARY_FIXED="1") as server:
        server.start()
        async with connected(server) as client:
            assert await parked_again(client) == [(poison, 2)]
            status, said = await diptych("processes", "retry", "reservation", poison, f"--commands={server.address}")
            assert (status, said) == (0, f"reservation {poison} goes on\n")

            async def mended() -> bool:
                return "ReservationNotified" in await stream_of(client, "reservation", poison)

            await eventually(mended)
            assert (await status_of(client)).parked_instances == 0
            status, said = await diptych("processes", "retry", "reservation", poison, f"--commands={server.address}")
            assert status == 1
            assert "PROCESS_NOT_FOUND: " in said
            assert poison in said


async def parked_again(client: Client) -> list[tuple[str, int]]:
    return [(one.id, one.attempts) for one in (await status_of(client)).troubles]


async def test_a_stuck_compensation_is_shown_and_recovers(tmp_path: Path, mail: MailProvider) -> None:
    mail.failing = "waits no more"
    with command_server(tmp_path, mail) as server:
        server.start()
        async with connected(server) as client:
            await fill(client, "c1")
            await execute(client, reserve("c1", 0.01))

            async def stuck() -> bool:
                return (await status_of(client)).stuck_instances == 1

            await eventually(stuck)
            (trouble,) = (await status_of(client)).troubles
            assert (trouble.id, trouble.kind) == ("c1", processes_pb2.PROCESS_TROUBLE_KIND_STUCK)
            assert trouble.reason.startswith("MAILBOX_FULL: ")
            status, said = await diptych("processes", f"--commands={server.address}")
            assert status == 0
            assert "STUCK" in said
            await server.restart()
            await eventually(stuck)
            mail.failing = ""

            async def over() -> bool:
                return (await status_of(client)).running_instances == 0

            await eventually(over)
            keys = {asked["key"] for asked in mail.calls if asked["text"] == "c1 waits no more."}
            assert len(keys) == 1


async def test_a_command_that_only_processes_send_is_unknown_to_clients(tmp_path: Path, mail: MailProvider) -> None:
    with command_server(tmp_path, mail) as server:
        server.start()
        async with connected(server) as client:
            await fill(client, "c1")
            call = client.execute()
            await call.write(envelopes(PutCopyAsideRequest(copy_id="c1", member_id="m1")).SerializeToString())
            (outcome,) = await next_outcomes(call)
            call.cancel()
            assert "COMMAND_UNKNOWN" in str(outcome)
            assert await stream_of(client, "copy", "c1") == ["CopyAdded"]
