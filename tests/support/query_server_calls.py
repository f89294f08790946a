"""Calls of the library's query server, and barriers for calls that wait."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from diptych.v1.consistency_pb2 import Consistency
from diptych.v1.projections_pb2 import ProjectionState
from diptych.v1.read_model_pb2 import (
    GetStatusRequest,
    GetStatusResponse,
    WaitForVersionRequest,
    WaitForVersionResponse,
)
from library.v1.query_service_pb2 import (
    GetMemberRequest,
)
from library.v1.resources_pb2 import Member
from tests.support.local_query_server import QueryServer, Refused
from tests.support.polling import eventually

STALLED = ProjectionState.PROJECTION_STATE_STALLED
ADA = Member(member_id="ada", email="ada@example.com", name="Ada Lovelace")


async def upstreams_read(server: QueryServer, head: int) -> None:
    """Wait until the server has read head and feed."""

    async def is_read() -> bool:
        status = await get_status(server)
        return status.head_position == head and all(p.state for p in status.projections)

    await eventually(is_read)


async def get_status(server: QueryServer) -> GetStatusResponse:
    answer = await server.ask(server.read_model.GetStatus, GetStatusRequest())
    assert isinstance(answer.response, GetStatusResponse)
    return answer.response


def fresh(token: str) -> Consistency:
    return Consistency(at_least_as_fresh=token)


def get_ada(server: QueryServer, **options: Any) -> Any:
    consistency = options.pop("consistency", None)
    return server.ask(server.library.GetMember, GetMemberRequest(member_id="ada", consistency=consistency), **options)


async def still_waits(server: QueryServer, *calls: asyncio.Future[Any]) -> bool:
    """Return True if calls have no answer, though a read that was sent after them has one.

    The later read is a barrier: its key is in no cache, so it goes through the store, as a call that did not wait
    would have done before it.
    """
    _barriers.append(f"barrier-{len(_barriers)}")
    with pytest.raises(Refused, match="MEMBER_NOT_FOUND"):
        await server.ask(server.library.GetMember, GetMemberRequest(member_id=_barriers[-1]))
    return not any(call.done() for call in calls)


_barriers: list[str] = []
"""Keys that barriers have read: each one is read once."""


async def wait_for(server: QueryServer, position: int, view: str = "", seconds: float = 10) -> WaitForVersionResponse:
    request = WaitForVersionRequest(view=view, token=server.identity.token(position))
    answer = await server.ask(server.read_model.WaitForVersion, request, seconds=seconds)
    assert isinstance(answer.response, WaitForVersionResponse)
    return answer.response


async def applied(server: QueryServer, projection: str, position: int) -> bool:
    status = await get_status(server)
    return any(p.name == projection and p.progress.applied_position == position for p in status.projections)


async def not_serving(server: QueryServer, service: str = "") -> bool:
    return not await server.serving(service)
