"""Rows, stores and projections that are missing, and invalid queries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from diptych.contract.token import LogIdentity
from diptych.v1.read_model_pb2 import (
    WaitOutcome,
)
from library.lending import activity, members
from library.v1.query_service_pb2 import (
    GetLoanDayRequest,
    GetMemberRequest,
    GetOpenLoanRequest,
)
from library.v1.resources_pb2 import LoanDay
from tests.support.local_query_server import QueryServer, Refused, library_store, started_query_server
from tests.support.polling import eventually
from tests.support.query_server_calls import (
    ADA,
    applied,
    get_ada,
    not_serving,
    upstreams_read,
    wait_for,
)
from tests.support.read_store_file import StoreFile
from tests.support.scripted_upstreams import ScriptedUpstreams


async def test_a_missing_row_is_refused_with_the_read_models_token(server: QueryServer) -> None:
    with pytest.raises(Refused) as refused:
        await server.ask(server.library.GetMember, GetMemberRequest(member_id="bob"))
    assert refused.value.code is grpc.StatusCode.NOT_FOUND
    assert refused.value.reason == "MEMBER_NOT_FOUND"
    assert refused.value.info.domain == "library.v1"
    assert dict(refused.value.info.metadata) == {
        "member_id": "bob",
        "applied_position": "10",
        "head_position": "10",
    }
    assert refused.value.retry.retry_delay.ToMilliseconds() == 0
    assert refused.value.token == server.identity.token(10)

    await server.upstreams.at(15)
    await upstreams_read(server, 15)
    with pytest.raises(Refused) as refused:
        await server.ask(server.library.GetOpenLoan, GetOpenLoanRequest(loan_id="c.1"))
    assert refused.value.reason == "ROW_NOT_FOUND"
    assert refused.value.info.domain == "diptych.v1"
    assert refused.value.info.metadata["head_position"] == "15"
    assert refused.value.retry.retry_delay.ToMilliseconds() > 0


async def test_a_query_may_answer_for_a_missing_row(server: QueryServer) -> None:
    answer = await server.ask(server.library.GetLoanDay, GetLoanDayRequest(day="2026-01-01"))

    assert answer.response == LoanDay(day="2026-01-01")


async def test_a_deleted_row_is_not_found(server: QueryServer, store: StoreFile) -> None:
    store.write(members, {"ada": None}, 11)

    with pytest.raises(Refused) as refused:
        await get_ada(server)

    assert refused.value.reason == "MEMBER_NOT_FOUND"


async def test_a_query_is_refused_when_it_breaks_the_contract(server: QueryServer) -> None:
    with pytest.raises(Refused) as refused:
        await server.ask(server.library.GetMember, GetMemberRequest())
    assert refused.value.reason == "INVALID_REQUEST"
    assert refused.value.fields == ["member_id"]
    assert refused.value.token == server.identity.token(10)


async def test_a_query_is_refused_when_its_bytes_are_no_message(server: QueryServer) -> None:
    get_member: Any = server.channel.unary_unary("/library.v1.QueryService/GetMember")
    with pytest.raises(Refused) as refused:
        await server.ask(get_member, b"\xff\xff")
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.reason == "MALFORMED_MESSAGE"
    assert refused.value.info.metadata["type"] == "library.v1.GetMemberRequest"
    assert refused.value.token == server.identity.token(10)


async def test_the_server_waits_for_its_store_and_reopens_a_replaced_one(
    tmp_path: Path, identity: LogIdentity, upstreams: ScriptedUpstreams
) -> None:
    path = tmp_path / "read.db"
    await upstreams.feed("lending", 9, 0)
    async with started_query_server(path, upstreams) as server:
        assert not await server.serving("")
        assert not await server.serving("library.v1.QueryService")
        with pytest.raises(Refused) as refused:
            await get_ada(server)
        assert refused.value.code is grpc.StatusCode.UNAVAILABLE
        assert refused.value.reason == "READ_MODEL_NOT_READY"

        store = library_store(path, identity)
        store.write(members, {"ada": ADA}, 3)
        await eventually(lambda: server.serving("library.v1.QueryService"))
        assert (await get_ada(server)).token == identity.token(3)
        store.close()

        remove_files(tmp_path)
        await eventually(lambda: not_serving(server))
        with pytest.raises(Refused):
            await get_ada(server)

        store = library_store(path, identity)
        await eventually(lambda: server.serving(""))
        with pytest.raises(Refused) as refused:
            await get_ada(server)
        assert refused.value.reason == "MEMBER_NOT_FOUND"
        await eventually(lambda: applied(server, "lending", 9))  # The feed was opened again, as its progress was void.
        assert upstreams.feeds >= 2
        store.close()


def remove_files(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


async def test_a_projection_without_a_generation_is_not_ready_and_affects_no_other(
    tmp_path: Path, identity: LogIdentity, upstreams: ScriptedUpstreams
) -> None:
    store = StoreFile(tmp_path / "read.db", (activity,), identity)
    store.close()
    async with started_query_server(store.path, upstreams) as server:
        with pytest.raises(Refused) as refused:
            await get_ada(server)
        assert refused.value.reason == "READ_MODEL_NOT_READY"
        assert refused.value.info.metadata["projection"] == "lending"
        await server.ask(server.library.GetLoanDay, GetLoanDayRequest(day="d"))
        with pytest.raises(Refused) as refused:
            await wait_for(server, 0)
        assert refused.value.reason == "READ_MODEL_NOT_READY"
        assert (await wait_for(server, 0, view="loan_days")).outcome == WaitOutcome.WAIT_OUTCOME_REACHED
