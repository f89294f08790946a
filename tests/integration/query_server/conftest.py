"""Fixtures: a query server of the library with scripted upstreams."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from diptych.contract.token import LogIdentity
from library.lending import days, members
from tests.support.local_query_server import QueryServer, library_store, started_query_server
from tests.support.query_server_calls import (
    ADA,
    upstreams_read,
)
from tests.support.read_store_file import StoreFile
from tests.support.scripted_upstreams import ScriptedUpstreams


@pytest.fixture
def identity() -> LogIdentity:
    return LogIdentity.new()


@pytest.fixture
async def upstreams(identity: LogIdentity) -> AsyncIterator[ScriptedUpstreams]:
    async with ScriptedUpstreams(identity) as scripted:
        yield scripted


@pytest.fixture
def store(tmp_path: Path, identity: LogIdentity) -> Iterator[StoreFile]:
    made = library_store(tmp_path / "read.db", identity)
    yield made
    made.close()


@pytest.fixture
async def server(store: StoreFile, upstreams: ScriptedUpstreams) -> AsyncIterator[QueryServer]:
    """A server that has applied 10 of 10 events: `ada` was the last row to change, at 7."""
    store.write(members, {"ada": ADA}, 7)
    store.write(days, {}, 10)
    await upstreams.at(10)
    await upstreams.feed("lending", 10, 7)
    await upstreams.feed("activity", 10, 0)
    async with started_query_server(store.path, upstreams, wait_seconds=5) as started:
        await upstreams_read(started, 10)
        yield started
