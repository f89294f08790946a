"""Lists: filters, orders, pages and combined rows."""

from __future__ import annotations

import base64
import json
from typing import Any

import grpc
import pytest

from library.lending import days, members, open_loans
from library.v1.query_service_pb2 import (
    GetLoanStatisticsRequest,
    GetMemberRequest,
    ListMembersRequest,
    ListMembersResponse,
    ListOverdueLoansRequest,
    LoanStatistics,
)
from library.v1.resources_pb2 import LoanDay, Member, OpenLoan
from tests.support.local_query_server import QueryServer, Refused, started_query_server
from tests.support.query_server_calls import (
    fresh,
)
from tests.support.read_store_file import StoreFile
from tests.support.scripted_upstreams import ScriptedUpstreams


def people(count: int) -> dict[str, Member]:
    return {
        f"m{number:02}": Member(
            member_id=f"m{number:02}",
            email=f"{'ABab'[number % 4]}{number:02}@example.com",
            name=f"Name {number} 100%_\\",
            open_loans=number % 3,
        )
        for number in range(count)
    }


async def list_members(server: QueryServer, **request: Any) -> ListMembersResponse:
    answer = await server.ask(server.library.ListMembers, ListMembersRequest(**request))
    assert isinstance(answer.response, ListMembersResponse)
    assert answer.token >= server.identity.token(10)
    return answer.response


async def all_pages(server: QueryServer, **request: Any) -> list[Member]:
    found: list[Member] = []
    token = ""
    while True:
        page = await list_members(server, page_token=token, **request)
        found += page.members
        token = page.next_page_token
        if not token:
            return found


async def test_lists_come_in_pages_and_in_order(server: QueryServer, store: StoreFile) -> None:
    rows = people(60)
    store.write(members, {**rows, "ada": None}, 12)

    expected = sorted(rows.values(), key=lambda m: m.email)
    first = await list_members(server, include_total=True)
    assert list(first.members) == expected[:50]
    assert first.total_size == 60
    assert await all_pages(server, page_size=7) == expected
    assert await all_pages(server, page_size=5000) == expected
    assert await all_pages(server, page_size=7, order_by="open_loans desc, email") == sorted(
        expected, key=lambda m: -m.open_loans
    )
    latest_first = sorted(rows.values(), key=lambda m: m.email, reverse=True)
    assert await all_pages(server, page_size=7, order_by=" open_loans ,  email   desc ") == sorted(
        latest_first, key=lambda m: m.open_loans
    )
    assert not (await list_members(server)).HasField("total_size")


async def test_lists_are_filtered(server: QueryServer, store: StoreFile) -> None:
    rows = people(20)
    store.write(members, {**rows, "ada": None}, 12)

    def named(response: ListMembersResponse) -> set[str]:
        return {member.member_id for member in response.members}

    assert named(await list_members(server, name="NAME 1 ")) == {"m01"}
    assert len(named(await list_members(server, name="100%_\\"))) == 20
    assert named(await list_members(server, name="1%0")) == set()
    assert named(await list_members(server, email_prefix="a")) == {"m02", "m06", "m10", "m14", "m18"}
    assert named(await list_members(server, emails=["A00@example.com", "nobody", "'\"\\"])) == {"m00"}
    empty = await list_members(server, name="nothing", include_total=True)
    assert (named(empty), empty.HasField("total_size"), empty.total_size) == (set(), True, 0)


@pytest.mark.parametrize("order", ["age", "email asc", "email desc desc", "email,", ",", "email, email desc", "key"])
async def test_an_unsupported_order_is_refused(server: QueryServer, order: str) -> None:
    with pytest.raises(Refused) as refused:
        await list_members(server, order_by=order)

    assert refused.value.reason == "INVALID_REQUEST"
    assert refused.value.fields == ["order_by"]


async def test_a_negative_page_size_is_refused(server: QueryServer) -> None:
    with pytest.raises(Refused) as refused:
        await list_members(server, page_size=-1)

    assert refused.value.reason == "INVALID_REQUEST"
    assert refused.value.fields == ["page_size"]


async def test_a_page_token_belongs_to_its_query(server: QueryServer, store: StoreFile) -> None:
    store.write(members, people(10), 12)
    await server.upstreams.at(12)
    token = (await list_members(server, page_size=3)).next_page_token

    kept = await list_members(server, page_size=5, page_token=token, consistency=fresh(server.identity.token(12)))
    assert len(kept.members) == 5
    for request in (
        {"order_by": "email desc"},
        {"order_by": "open_loans"},
        {"name": "Name"},
        {"include_total": True},
    ):
        with pytest.raises(Refused) as refused:
            await list_members(server, page_token=token, **request)
        assert refused.value.reason == "PAGE_TOKEN_INVALID"
    for broken in ("x", token[:-4], token + "AAAA", "é", "A" * 40, token.replace(token[:3], "AAA")):
        with pytest.raises(Refused) as refused:
            await list_members(server, page_token=broken)
        assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
        assert refused.value.reason == "PAGE_TOKEN_INVALID"


@pytest.mark.parametrize("order", ["", "email desc", "open_loans"])
async def test_bug_a_page_token_with_changed_values_was_an_internal_error(
    server: QueryServer, store: StoreFile, order: str
) -> None:
    store.write(members, people(3), 12)
    token = (await list_members(server, page_size=1, order_by=order)).next_page_token
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    digest, values = raw[:12], json.loads(raw[12:])
    changes: list[Any] = [
        [1 << 100 if isinstance(value, int) else f"{value}x" for value in values],
        [*values[:-1], "\ud800"],
        [*values[:-1], None],
        [float("nan"), *values[1:]],
        [*values, 1],
        {},
    ]
    for changed in changes:
        text = base64.urlsafe_b64encode(digest + json.dumps(changed).encode()).rstrip(b"=").decode()
        with pytest.raises(Refused) as refused:
            await list_members(server, page_token=text, order_by=order)
        assert refused.value.reason == "PAGE_TOKEN_INVALID"


async def test_a_list_without_pages_returns_all_rows_or_is_refused(server: QueryServer, store: StoreFile) -> None:
    loans = {f"l{number:04}": OpenLoan(loan_id=f"l{number:04}") for number in range(1001)}
    store.write(open_loans, dict(list(loans.items())[:1000]), 12)
    answer = await server.ask(server.library.ListOverdueLoans, ListOverdueLoansRequest())
    assert len(answer.response.loans) == 1000

    store.write(open_loans, loans, 13)
    with pytest.raises(Refused) as refused:
        await server.ask(server.library.ListOverdueLoans, ListOverdueLoansRequest())
    assert refused.value.reason == "OVERLOADED"


async def test_combined_rows_are_read_at_one_position(server: QueryServer, store: StoreFile) -> None:
    store.write(days, {f"d{n}": LoanDay(day=f"d{n}", borrowed=n) for n in range(5)}, 12)

    answer = await server.ask(server.library.GetLoanStatistics, GetLoanStatisticsRequest(first_day="d2"))

    assert answer.response == LoanStatistics(days=3, borrowed=9)
    assert answer.token == server.identity.token(12)


async def test_combined_rows_have_a_limit(store: StoreFile, upstreams: ScriptedUpstreams) -> None:
    store.write(days, {f"d{n}": LoanDay(day=f"d{n}") for n in range(5)}, 12)
    async with started_query_server(store.path, upstreams, combined_rows_max=4) as server:
        with pytest.raises(Refused) as refused:
            await server.ask(server.library.GetLoanStatistics, GetLoanStatisticsRequest())
        assert refused.value.reason == "OVERLOADED"
        await server.ask(server.library.GetLoanStatistics, GetLoanStatisticsRequest(first_day="d1"))


async def test_list_is_cut_to_a_mebibyte_and_names_a_row_that_no_message_takes(
    server: QueryServer, store: StoreFile
) -> None:
    rows = {f"m{n}": Member(member_id=f"m{n}", email=f"{n}@example.com", name="x" * 400_000) for n in range(8)}
    store.write(members, {**rows, "ada": None}, 12)
    assert len((await list_members(server, page_size=8)).members) == 2
    assert await all_pages(server, page_size=8) == list(rows.values())

    store.write(members, {"m9": Member(member_id="m9", email="9@example.com", name="x" * (4 << 20))}, 13)
    for call, request in (
        (server.library.ListMembers, ListMembersRequest(order_by="email desc")),
        (server.library.GetMember, GetMemberRequest(member_id="m9")),
    ):
        with pytest.raises(Refused) as refused:
            await server.ask(call, request)
        assert refused.value.reason == "ROW_TOO_LARGE"
        assert dict(refused.value.info.metadata)["key"] == "m9"


@pytest.mark.parametrize("seconds", [2.0, None])
async def test_bug_slow_list_was_not_ended_by_its_deadline_nor_without_one(
    store: StoreFile, upstreams: ScriptedUpstreams, seconds: float | None
) -> None:
    text = "a" * 20_000
    store.write(members, {f"m{n}": Member(member_id=f"m{n}", email=f"{n}", name=text) for n in range(300)}, 12)
    limit = 2.0 if seconds is None else 30.0
    async with started_query_server(store.path, upstreams, wait_seconds=limit, readers=1) as server:
        search = ListMembersRequest(name="a" * 4000 + "b")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await server.library.ListMembers(search, timeout=seconds)
        refused = Refused(raised.value)
        assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert refused.info.metadata["what"] == "milliseconds for one read of the store"
        assert 1500 < int(refused.info.metadata["limit"]) <= 2000
        assert len((await list_members(server, page_size=10)).members) == 10
