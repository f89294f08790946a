"""Reads with `max_staleness`."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration

from diptych.v1.consistency_pb2 import Consistency
from tests.support.local_query_server import QueryServer, Refused
from tests.support.query_server_calls import (
    ADA,
    get_ada,
)


async def test_max_staleness_accepts_a_recent_head(server: QueryServer) -> None:
    for _ in range(3):
        answer = await get_ada(server, consistency=Consistency(max_staleness=Duration(seconds=60)))
        assert answer.response == ADA
    assert server.upstreams.heads_asked == 1


async def test_max_staleness_of_zero_requests_the_head(server: QueryServer) -> None:
    await get_ada(server, consistency=Consistency(max_staleness=Duration()))
    assert server.upstreams.heads_asked == 1

    server.upstreams.head_told = 10
    server.upstreams.head = 11
    with pytest.raises(Refused) as refused:
        await get_ada(server, consistency=Consistency(max_staleness=Duration()), seconds=3)
    assert refused.value.reason == "READ_MODEL_BEHIND"
    assert refused.value.info.metadata["wanted_position"] == "11"


async def test_max_staleness_cannot_be_shown_without_the_command_server(server: QueryServer) -> None:
    await server.upstreams.stop()
    with pytest.raises(Refused) as refused:
        await get_ada(server, consistency=Consistency(max_staleness=Duration(nanos=1)), seconds=3)

    assert refused.value.reason == "READ_MODEL_BEHIND"


async def test_a_negative_staleness_is_invalid(server: QueryServer) -> None:
    with pytest.raises(Refused) as refused:
        await get_ada(server, consistency=Consistency(max_staleness=Duration(seconds=-1)))

    assert refused.value.reason == "INVALID_REQUEST"
    assert refused.value.fields == ["consistency.max_staleness"]
