"""Reads across a switch of generation."""

from __future__ import annotations

import asyncio

from library.lending import lending, members
from library.v1.resources_pb2 import Member
from tests.support.local_query_server import QueryServer
from tests.support.polling import eventually
from tests.support.query_server_calls import (
    get_ada,
    get_status,
)
from tests.support.read_store_file import StoreFile


async def test_a_switch_of_generation_loses_no_read(server: QueryServer, store: StoreFile) -> None:
    stop = asyncio.Event()
    seen: set[str] = set()

    async def read() -> None:
        while not stop.is_set():
            seen.add((await get_ada(server)).response.name)

    reading = [asyncio.ensure_future(read()) for _ in range(4)]
    new = Member(member_id="ada", name="Augusta Ada King")
    store.begin(lending, 2, active=False)
    store.write(members, {"ada": new}, 10, generation=2)
    store.switch(lending, 2, drop=1)
    await eventually(lambda: "Augusta Ada King" in seen)
    stop.set()
    await asyncio.gather(*reading)

    assert (await get_ada(server)).response == new
    status = {p.name: p for p in (await get_status(server)).projections}
    await eventually(lambda: generation_is(server, 2))
    assert status["lending"].version == 1


async def generation_is(server: QueryServer, generation: int) -> bool:
    status = {p.name: p for p in (await get_status(server)).projections}
    return status["lending"].generation == generation
