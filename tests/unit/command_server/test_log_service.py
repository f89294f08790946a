"""LogService on a log with another writer."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.rpc import code_pb2

from command_server.store.event_store import StoreUnavailable
from command_server.store.records import LogHead
from tests.support.batch_desk import register
from tests.support.polling import eventually
from tests.support.two_servers import Call, two_servers


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


@pytest.mark.parametrize("method", ["Follow", "WatchHead"])
async def test_bug_streams_of_the_log_service_had_no_limit(tmp_path: Path, method: str) -> None:
    path = f"/diptych.internal.v1.LogService/{method}"
    async with two_servers(tmp_path, followers_max=2, head_watches_max=2) as server:
        streams = [server.stream(path, Call()) for _ in range(2)]
        for stream in streams:
            assert await anext(stream)
        refused = Call()
        assert [one async for one in server.stream(path, refused)] == []
        assert refused.code == code_pb2.RESOURCE_EXHAUSTED
        await streams.pop().aclose()  # type: ignore[attr-defined]

        async def served() -> bytes:
            return await anext(server.stream(path, Call()), b"")

        assert await eventually(served)
