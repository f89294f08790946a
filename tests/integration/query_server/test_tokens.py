"""Tokens of callers: malformed, of another log, of an older epoch, and ahead of the known head."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from diptych.contract.token import Epoch, LogIdentity
from diptych.v1.consistency_pb2 import Consistency, MinimizeLatency
from library.lending import members
from library.v1.query_service_pb2 import (
    GetMemberRequest,
)
from library.v1.resources_pb2 import Member
from tests.support.local_query_server import QueryServer, Refused, started_query_server
from tests.support.polling import eventually
from tests.support.query_server_calls import (
    ADA,
    fresh,
    get_ada,
    still_waits,
    upstreams_read,
)
from tests.support.read_store_file import StoreFile
from tests.support.scripted_upstreams import ScriptedUpstreams


@pytest.mark.parametrize("token", ["", "x", "A" * 31, "a" * 32, "W" * 32, "=" * 32])
async def test_a_malformed_token_is_refused(server: QueryServer, token: str) -> None:
    with pytest.raises(Refused) as refused:
        await get_ada(server, consistency=fresh(token))

    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.reason == "TOKEN_MALFORMED"
    assert refused.value.token == server.identity.token(10)


async def test_a_token_of_another_log_is_refused_even_beside_a_good_one(server: QueryServer) -> None:
    foreign = LogIdentity(bytes(8), (Epoch(1, 1),)).token(1)
    for tokens in ((foreign,), (foreign, server.identity.token(3))):
        with pytest.raises(Refused) as refused:
            await get_ada(server, tokens=tokens)
        assert refused.value.reason == "TOKEN_OF_ANOTHER_LOG"
        assert refused.value.info.metadata["token_log_id"] == "00" * 8


async def test_tokens_of_an_older_epoch_are_refused_beyond_its_end(
    store: StoreFile, upstreams: ScriptedUpstreams
) -> None:
    before = upstreams.identity
    upstreams.identity = LogIdentity(before.log_id, (Epoch(1, 1), Epoch(2, 6)))
    store.write(members, {"ada": ADA}, 8)
    await upstreams.at(8)
    await upstreams.feed("lending", 8, 8)
    await upstreams.feed("activity", 8, 8)
    async with started_query_server(store.path, upstreams) as server:
        await upstreams_read(server, 8)
        answer = await get_ada(server, tokens=(before.token(5),))
        assert answer.token == upstreams.identity.token(8) > before.token(8)
        with pytest.raises(Refused) as refused:
            await get_ada(server, tokens=(before.token(6),))
        assert refused.value.reason == "TOKEN_OF_OLDER_EPOCH"
        assert refused.value.info.metadata["first_position"] == "6"


async def test_a_token_ahead_of_the_log_is_refused_after_one_request_for_the_head(server: QueryServer) -> None:
    with pytest.raises(Refused) as refused:
        await get_ada(server, tokens=(server.identity.token(99),))

    assert refused.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert refused.value.reason == "TOKEN_AHEAD_OF_LOG"
    assert dict(refused.value.info.metadata) == {"position": "99", "head_position": "10"}
    assert server.upstreams.heads_asked == 1


async def test_a_token_ahead_of_the_known_head_waits_when_the_command_server_confirms_it(
    server: QueryServer, store: StoreFile
) -> None:
    server.upstreams.head_told = 10
    server.upstreams.head = 12
    reading = asyncio.ensure_future(get_ada(server, tokens=(server.identity.token(12),)))
    await eventually(lambda: server.upstreams.heads_asked == 1)
    assert await still_waits(server, reading)
    store.write(members, {"ada": ADA}, 12)
    await server.upstreams.feed("lending", 12, 12)

    assert (await reading).token == server.identity.token(12)


async def test_a_token_ahead_of_the_known_head_waits_when_no_command_server_answers(
    server: QueryServer, store: StoreFile
) -> None:
    await server.upstreams.stop()
    reading = asyncio.ensure_future(get_ada(server, tokens=(server.identity.token(12),)))
    assert await still_waits(server, reading)
    changed = Member(member_id="ada", email="countess@example.com")
    store.write(members, {"ada": changed}, 12)  # By a projector that cannot be reached.

    assert (await reading).response == changed, "an answer that had not waited would have the old row"


async def test_the_field_wins_over_the_metadata_entirely(server: QueryServer) -> None:
    foreign = LogIdentity(bytes(8), (Epoch(1, 1),)).token(1)
    ahead = server.identity.token(99)
    for consistency in (Consistency(minimize_latency=MinimizeLatency()), fresh(server.identity.token(4))):
        answer = await get_ada(server, consistency=consistency, tokens=(foreign, ahead, "nonsense"))
        assert answer.token == server.identity.token(10)

    with pytest.raises(Refused) as refused:
        await get_ada(server, consistency=Consistency(), tokens=(ahead,))
    assert refused.value.reason == "TOKEN_AHEAD_OF_LOG"


async def test_a_repeated_query_is_checked_against_each_callers_token(server: QueryServer, store: StoreFile) -> None:
    assert (await get_ada(server)).response == ADA
    for tokens, reason in ((("nonsense",), "TOKEN_MALFORMED"), ((server.identity.token(99),), "TOKEN_AHEAD_OF_LOG")):
        with pytest.raises(Refused) as refused:
            await get_ada(server, tokens=tokens)
        assert refused.value.reason == reason
    assert (await get_ada(server, tokens=(server.identity.token(10),))).response == ADA

    told = []
    for _ in range(2):
        with pytest.raises(Refused) as refused:
            await server.ask(server.library.GetMember, GetMemberRequest(member_id="nobody"))
        told.append((refused.value.reason, dict(refused.value.info.metadata)))
    assert told[0] == told[1], "a missing row is told as well the second time"
