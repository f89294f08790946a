"""Changed code over events of earlier code: the example of `docs/evolution.md`, also in real servers."""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from diptych.client import Connection, open_channel
from diptych.contract.generate import generate
from diptych.v1 import events_pb2, events_pb2_grpc
from diptych.v1.commands_pb2 import AggregateRef
from tests.support.programs import ROOT, Server

LONG = 60.0
BLOCK = re.compile(r"^```(?:proto|python) (parcels/\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def parcels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The example as files with generated code, in a folder that Python imports from."""
    folder = tmp_path_factory.mktemp("evolution")
    blocks = dict(BLOCK.findall((ROOT / "docs" / "evolution.md").read_text("utf-8")))
    assert set(blocks) == {
        "parcels/v1/parcels.proto",
        "parcels/before.py",
        "parcels/after.py",
        "parcels/test_after.py",
    }
    for name, text in blocks.items():
        path = folder / ("protos" if name.endswith(".proto") else "") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    generate(folder / "protos", folder)
    (folder / "parcels" / "__init__.py").write_text("")
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    yield folder
    sys.path.remove(str(folder))


def test_the_example_passes_its_own_tests(parcels: Path) -> None:
    example = importlib.import_module("parcels.test_after")
    tests = [name for name in dir(example) if name.startswith("test_")]
    assert len(tests) == 3
    for name in tests:
        getattr(example, name)()


class Servers:
    """The three servers of the example's domain, which can be started again with other code."""

    def __init__(self, folder: Path, data: Path, stack: ExitStack) -> None:
        self._folder = folder
        env = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
        log, read_store = f"--log=sqlite:///{data / 'log.db'}", f"--read-store=sqlite:///{data / 'read.db'}"

        def server(name: str, *arguments: str) -> Server:
            made = Server(name, "--domain=parcels", *arguments, log=data / f"{name}.log", env=env)
            stack.callback(made.close)
            return made

        self.command = server("command-server", log, "--snapshot-events=10")
        commands = f"--commands={self.command.address}"
        self.projector = server("projector", commands, read_store)
        self.query = server("query-server", commands, f"--projector={self.projector.address}", read_store)

    async def start(self, code: str) -> None:
        """Start all servers with one state of the code; end running ones first."""
        (self._folder / "parcels" / "__init__.py").write_text(f"from parcels.{code} import domain as domain\n")
        for server in (self.query, self.projector, self.command):
            if server.running:
                assert await asyncio.to_thread(server.stop) == 0
        for server in (self.command, self.projector, self.query):
            await asyncio.to_thread(server.start)


async def history(servers: Servers, id: str) -> list[str]:
    """Return the types of an aggregate's events, as `ReadStream` sends them."""
    async with open_channel(servers.command.address) as channel:
        stub = events_pb2_grpc.EventServiceStub(channel)
        request = events_pb2.ReadStreamRequest(aggregate=AggregateRef(type="parcel", id=id))
        events = (await stub.ReadStream(request, timeout=LONG)).events
        return [event.event.TypeName() for event in events]


async def subscribed(servers: Servers, *types: str) -> list[int]:
    """Return the positions of the events of some types, as `Subscribe` sends them."""
    positions: list[int] = []
    async with open_channel(servers.command.address) as channel:
        request = events_pb2.SubscribeRequest(event_types=types)
        async for frame in events_pb2_grpc.EventServiceStub(channel).Subscribe(request, timeout=LONG):
            positions += [event.position for event in frame.batch.events]
            if frame.HasField("caught_up"):
                break
    return positions


def snapshots(data: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(data / "log.db")) as log:
        return log.execute("SELECT stream, version FROM snapshots ORDER BY stream").fetchall()


async def test_events_of_earlier_code_are_read_by_later_code(parcels: Path, tmp_path: Path) -> None:
    messages: Any = importlib.import_module("parcels.v1.parcels_pb2")
    with ExitStack() as stack:
        servers = Servers(parcels, tmp_path, stack)
        await servers.start("before")
        async with Connection(servers.command.address, servers.query.address, read_your_writes=True) as before:
            for id in ("p1", "p2", "p3"):
                await before.execute(messages.SendParcelRequest(parcel_id=id, address=f"Street {id}"))
                for grams in range(11):  # Enough for a snapshot.
                    await before.execute(messages.WeighParcelRequest(parcel_id=id, grams=grams))
            await before.execute(messages.CloseParcelRequest(parcel_id="p1", reason="lost"))
            await before.execute(messages.CloseParcelRequest(parcel_id="p2", reason="handed over"))
            assert (await before.query(messages.GetParcelRequest(parcel_id="p1"))).status == "closed"
            token = before.token
        assert [version for _, version in snapshots(tmp_path)] == [10, 10, 10]

        await servers.start("after")
        async with Connection(servers.command.address, servers.query.address, read_your_writes=True) as after:
            # Decisions are made on what old events mean now. A snapshot of the old shape would give nonsense.
            for id in ("p1", "p2"):
                again = await after.execute(messages.CloseParcelRequest(parcel_id=id, reason="delivered"))
                assert again.result.version == 13, "it had ended, and nothing was recorded"
            sent = await after.execute(messages.SendParcelRequest(parcel_id="p3", address="another"))
            assert sent.result.version == 12
            ended = await after.execute(messages.CloseParcelRequest(parcel_id="p3", reason="delivered"))
            assert ended.result.version == 13
            await after.execute(messages.SendParcelRequest(parcel_id="p4", address="Street p4"))

            # Rows are folded from what they mean now, and old tokens are good.
            for id, status in (("p1", "lost"), ("p2", "delivered"), ("p3", "delivered"), ("p4", "shipped")):
                row = await after.query(messages.GetParcelRequest(parcel_id=id), token=max(token, after.token))
                assert (row.address, row.status) == (f"Street {id}", status)

        # A recorded event is returned as it was recorded.
        told = await history(servers, "p3")
        assert (told[0], told[-1]) == ("parcels.v1.ParcelSent", "parcels.v1.ParcelDelivered")
        assert await subscribed(servers, "parcels.v1.ParcelSent") == [1, 13, 25]
        assert await subscribed(servers, "parcels.v1.ParcelShipped") == [40]
        assert len(await subscribed(servers, "parcels.v1.ParcelClosed", "parcels.v1.ParcelWeighed")) == 35
