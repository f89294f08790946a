"""LogService on a log with another writer."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.rpc import code_pb2

from command_server.store.event_store import StoreUnavailable
from command_server.store.records import LogHead
from tests.support.batch_desk import register
from tests.support.two_servers import two_servers


async def test_get_head_includes_events_of_another_server(tmp_path: Path) -> None:
    async with two_servers(tmp_path) as server:
        await server.other.batch(register("ada"), register("ben"))
        assert server.tail.head == 0
        assert (await server.head())[1] == 2


async def test_get_head_is_refused_when_the_store_is_not_available(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unavailable() -> LogHead:
        raise StoreUnavailable("planted")

    async with two_servers(tmp_path) as server:
        monkeypatch.setattr(server.desk.store, "head", unavailable)
        assert (await server.head())[0].code == code_pb2.UNAVAILABLE
