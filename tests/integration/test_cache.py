"""Cache of real query servers: its answers while clients write, and the cases in which it is bypassed."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from prometheus_client.parser import text_string_to_metric_families

from diptych.cli.ports import Reservation
from diptych.client import CallRefused, Connection
from diptych.contract.token import LogIdentity
from diptych.v1.consistency_pb2 import Consistency
from library.lending import days, members
from library.v1.query_service_pb2 import GetMemberRequest, ListMembersRequest, ListOverdueLoansRequest
from library.v1.resources_pb2 import Member
from shop.v1.user_commands_pb2 import RegisterUserRequest, UpdateUserProfileRequest
from shop.v1.user_queries_pb2 import GetUserRequest, ListUsersRequest
from tests.support.local_query_server import QueryServer, Refused, library_store, started_query_server
from tests.support.pair import Pair, started_pair
from tests.support.polling import eventually
from tests.support.read_store_file import StoreFile
from tests.support.scripted_upstreams import ScriptedUpstreams


class Metrics:
    """Metrics of the query server."""

    def __init__(self, address: str) -> None:
        self._url = f"http://{address}/metrics"

    async def read(self, name: str, **labels: str) -> float:
        def scrape() -> float:
            with urllib.request.urlopen(self._url, timeout=5) as answer:
                text: str = answer.read().decode()
            return sum(
                sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
                if sample.name == name and labels.items() <= sample.labels.items()
            )

        return await asyncio.to_thread(scrape)

    async def hits(self) -> float:
        return await self.read("diptych_cache_hits_total", view="users")

    async def bypasses(self) -> float:
        return await self.read("diptych_cache_bypasses_total", view="users")


@pytest.fixture
def metrics_address() -> Iterator[str]:
    reservation = Reservation("127.0.0.1:0")
    yield reservation.address
    reservation.close()


@pytest.fixture
def cached_pair(tmp_path: Path, metrics_address: str) -> Iterator[Pair]:
    with started_pair(tmp_path / "data", settings={"query-server": {"metrics_address": metrics_address}}) as pair:
        yield pair


@pytest.fixture
def metrics(cached_pair: Pair, metrics_address: str) -> Metrics:
    return Metrics(metrics_address)


@pytest.fixture
async def cached(cached_pair: Pair) -> AsyncIterator[Connection]:
    async with cached_pair.connect() as connection:
        yield connection


def register(user_id: str) -> RegisterUserRequest:
    return RegisterUserRequest(user_id=user_id, email=f"{user_id}@example.com", first_name="0")


def rename(user_id: str, name: str) -> UpdateUserProfileRequest:
    request = UpdateUserProfileRequest(user_id=user_id, first_name=name)
    request.update_mask.paths.append("first_name")
    return request


async def until_cached(shop: Connection, metrics: Metrics, user_id: str) -> None:
    """Query a user until the answer comes from the cache."""

    async def hit() -> Any:
        before = await metrics.hits()
        try:
            await shop.query(GetUserRequest(user_id=user_id))
        except CallRefused as refused:
            if refused.reason != "USER_NOT_FOUND":  # It need not be there yet.
                raise
            return False
        return await metrics.hits() > before

    await eventually(hit)


async def test_answers_come_from_memory_and_are_counted(cached: Connection, metrics: Metrics) -> None:
    token = (await cached.execute(register("ada"))).result.token
    await until_cached(cached, metrics, "ada")  # Before the first feed frame nothing is.
    hits, selects = await metrics.hits(), await metrics.read("diptych_selects_total")
    for _ in range(50):
        assert (await cached.query(GetUserRequest(user_id="ada"), token=token)).user_id == "ada"
    assert await metrics.hits() >= hits + 40
    assert 1 <= selects <= await metrics.read("diptych_selects_total") <= selects + 10
    assert await metrics.read("diptych_cache_entries", view="users") == 1
    assert await metrics.read("diptych_cache_bytes", view="users") > 0

    for _ in range(50):
        (found,) = (await cached.query(ListUsersRequest(), token=token)).users
        assert found.user_id == "ada"
    assert await metrics.read("diptych_cache_hits_total", view="user_summaries") >= 40

    later = (await cached.execute(register("bob"))).result.token
    assert len((await cached.query(ListUsersRequest(), token=later)).users) == 2
    assert len((await cached.query(ListUsersRequest())).users) == 2


async def test_an_absent_row_is_cached_until_it_is_created(cached: Connection, metrics: Metrics) -> None:
    await cached.execute(register("ada"))

    async def is_cached() -> bool:
        with pytest.raises(CallRefused, match="USER_NOT_FOUND"):
            await cached.query(GetUserRequest(user_id="bob"))
        return await metrics.hits() >= 1

    await eventually(is_cached, seconds=15, every=0)
    token = (await cached.execute(register("bob"))).result.token
    assert (await cached.query(GetUserRequest(user_id="bob"), token=token)).user_id == "bob"


async def test_cached_reads_include_own_writes_and_never_go_back(cached_pair: Pair, metrics: Metrics) -> None:
    users, rounds = 8, 40
    done = asyncio.Event()

    async def write(number: int) -> None:
        async with cached_pair.connect() as shop:
            await shop.execute(register(f"u{number}"))
            for n in range(1, rounds + 1):
                token = (await shop.execute(rename(f"u{number}", str(n)))).result.token
                for _ in range(2):
                    user = await shop.query(GetUserRequest(user_id=f"u{number}"), token=token)
                    assert user.first_name == str(n)
                    assert len((await shop.query(ListUsersRequest(), token=token)).users) >= 1

    async def read() -> int:
        """Present each answer's token with the next read, which must not return an earlier name."""
        reads = 0
        async with cached_pair.connect(read_your_writes=True) as shop:
            seen = dict.fromkeys(range(users), 0)
            while not done.is_set():
                for number in seen:
                    try:
                        user = await shop.query(GetUserRequest(user_id=f"u{number}"))
                    except CallRefused as refused:
                        if refused.reason == "USER_NOT_FOUND" and not seen[number]:
                            continue
                        raise
                    assert int(user.first_name) >= seen[number]
                    seen[number] = int(user.first_name)
                    reads += 1
        return reads

    reading = [asyncio.ensure_future(read()) for _ in range(3)]
    try:
        await asyncio.gather(*(write(number) for number in range(users)))
    finally:
        done.set()
    assert all(await asyncio.gather(*reading))
    assert await metrics.hits() > users * rounds


async def test_the_cache_is_bypassed_while_the_projector_is_frozen(
    cached_pair: Pair, cached: Connection, metrics: Metrics
) -> None:
    await cached.execute(register("ada"))
    await until_cached(cached, metrics, "ada")
    cached_pair.projector.freeze()
    frozen = time.monotonic()
    try:

        async def bypassed() -> Any:
            before = await metrics.bypasses()
            assert (await cached.query(GetUserRequest(user_id="ada"))).user_id == "ada"
            return await metrics.bypasses() > before

        await eventually(bypassed)
        assert time.monotonic() - frozen >= 0.6, "a sign of life comes every quarter of a second"
        hits = await metrics.hits()
        for _ in range(20):
            await cached.query(GetUserRequest(user_id="ada"))
        assert await metrics.hits() == hits
        token = (await cached.execute(rename("ada", "new"))).result.token
        with pytest.raises(CallRefused, match="READ_MODEL_BEHIND"):
            await cached.query(GetUserRequest(user_id="ada"), token=token, timeout_seconds=3)
    finally:
        cached_pair.projector.thaw()
    assert (await cached.query(GetUserRequest(user_id="ada"), token=token)).first_name == "new"
    await until_cached(cached, metrics, "ada")


async def test_the_cache_is_bypassed_while_the_projector_is_down(
    cached_pair: Pair, cached: Connection, metrics: Metrics
) -> None:
    await cached.execute(register("ada"))
    await until_cached(cached, metrics, "ada")
    cached_pair.projector.kill()

    async def forgotten() -> Any:
        return await metrics.read("diptych_cache_entries") == 0

    await eventually(forgotten)
    hits = await metrics.hits()
    for _ in range(20):
        assert (await cached.query(GetUserRequest(user_id="ada"))).first_name == "0"
    assert await metrics.hits() == hits
    token = (await cached.execute(rename("ada", "new"))).result.token
    await cached_pair.projector.restart()
    assert (await cached.query(GetUserRequest(user_id="ada"), token=token)).first_name == "new"
    await until_cached(cached, metrics, "ada")


# With a command server and a projector that say what the test wants.


@pytest.fixture
async def scripted(tmp_path: Path) -> AsyncIterator[tuple[QueryServer, StoreFile]]:
    """A query server of the library whose projections have applied 10 of 10 events."""
    identity = LogIdentity.new()
    store = library_store(tmp_path / "read.db", identity)
    store.write(members, {"ada": Member(member_id="ada", name="Ada")}, 10)
    store.write(days, {}, 10)
    async with ScriptedUpstreams(identity) as upstreams:
        await upstreams.at(10)
        await upstreams.feed("lending", 10, 10, gap=True)
        await upstreams.feed("activity", 10, 10, gap=True)
        async with started_query_server(store.path, upstreams, wait_seconds=5) as server:
            yield server, store
    store.close()


def cache_metric(server: QueryServer, name: str, view: str) -> float:
    return server.metric(f"diptych_cache_{name}", view=view)


def get_ada(server: QueryServer, **options: Any) -> Any:
    consistency = options.pop("consistency", None)
    return server.ask(server.library.GetMember, GetMemberRequest(member_id="ada", consistency=consistency), **options)


async def until_ada_is_cached(server: QueryServer) -> None:
    async def hit() -> bool:
        before = cache_metric(server, "hits_total", "members")
        await get_ada(server)
        return cache_metric(server, "hits_total", "members") > before

    await eventually(hit)


async def test_max_staleness_holds_for_cached_rows(scripted: tuple[QueryServer, StoreFile]) -> None:
    server, _ = scripted
    await until_ada_is_cached(server)
    within = Consistency(max_staleness=Duration(seconds=1))
    hits = cache_metric(server, "hits_total", "members")
    answer = await get_ada(server, consistency=within)
    assert (answer.token, cache_metric(server, "hits_total", "members")) == (server.identity.token(10), hits + 1)

    await server.upstreams.at(11)
    stale = Consistency(max_staleness=Duration(nanos=200_000_000))

    async def too_stale() -> bool:
        try:
            await get_ada(server, consistency=stale, seconds=3)
        except Refused as refused:
            return refused.reason == "READ_MODEL_BEHIND"
        return False  # The head was at 10 within the last 0.2 s.

    await eventually(too_stale)
    hits = cache_metric(server, "hits_total", "members")
    # The store stays at 10: were it at 11, the look at it could tell so before the feed, and the row would be read.
    await server.upstreams.feed("lending", 11, 10, changes_after=10)
    assert (await get_ada(server, consistency=stale)).token == server.identity.token(11)
    assert cache_metric(server, "hits_total", "members") == hits + 1, "nothing changed it"


async def test_the_cache_is_bypassed_when_feed_frames_lack_changed_rows(
    scripted: tuple[QueryServer, StoreFile],
) -> None:
    server, store = scripted
    await until_ada_is_cached(server)
    store.write(members, {"ada": Member(member_id="ada", name="Countess")}, 11)
    await server.upstreams.at(11)
    await server.upstreams.feed("lending", 11, 11, changes_after=10)
    answer = await get_ada(server, tokens=(server.identity.token(11),))
    assert answer.response.name == "Countess"


async def test_a_query_that_reads_the_clock_is_not_cached(scripted: tuple[QueryServer, StoreFile]) -> None:
    server, _ = scripted
    await until_ada_is_cached(server)
    for _ in range(3):
        await server.ask(server.library.ListOverdueLoans, ListOverdueLoansRequest())
        await server.ask(server.library.ListMembers, ListMembersRequest())
    assert cache_metric(server, "entries", "open_loans") == 0
    assert cache_metric(server, "entries", "members") == 2, "ada, and the list"
