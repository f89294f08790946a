"""The state cache: limits in states and in bytes."""

from __future__ import annotations

import sys
import tracemalloc
from pathlib import Path

from google.protobuf.timestamp_pb2 import Timestamp

from command_server.state_cache import NOT_CACHED, CachedState, StateCache
from command_server.submission import Accepted
from shop.v1.order_commands_pb2 import ImportedItem, ImportOrderRequest
from shop.v1.orders_pb2 import ORDER_STATUS_PENDING
from tests.support.batch_desk import PRICE, Desk, create, login, register


def state_of(size: int, version: int = 1) -> CachedState:
    return CachedState("state", version, size, 0)


def test_least_recently_used_states_are_dropped_beyond_either_limit() -> None:
    cache = StateCache(3, 100_000)
    for name in "abc":
        cache.put(name, state_of(100))
    assert cache.get("a").version == 1
    cache.put("d", state_of(100))
    assert [cache.get(name) is NOT_CACHED for name in "abcd"] == [False, True, False, False]
    many = StateCache(100_000, 100_000)
    for number in range(1000):
        many.put(str(number), state_of(1000))
        assert many.bytes <= 100_000
    assert many.get("999") is not NOT_CACHED
    assert many.get("0") is NOT_CACHED


def test_a_state_that_grew_too_large_leaves_the_cache_and_drops_no_other() -> None:
    cache = StateCache(10, 100_000)
    cache.put("small", state_of(10))
    before = cache.bytes
    cache.put("growing", state_of(10))
    cache.put("growing", state_of(5_000, 2))
    assert cache.get("growing") is NOT_CACHED
    assert (cache.get("small").version, cache.bytes) == (1, before)
    assert StateCache(0).get("any") is NOT_CACHED


async def test_bug_orders_of_many_lines_took_memory_without_a_limit(tmp_path: Path) -> None:
    async with Desk(tmp_path) as desk:
        desk.cache = StateCache(10_000, 1 << 20)
        for start in (0, 1000):
            await desk.batch(*[create(f"product-{start + n:06d}") for n in range(1000)])
        tracemalloc.start()
        try:
            for number in range(20):
                order = ImportOrderRequest(
                    order_id=f"o{number}",
                    order_time=Timestamp(seconds=1_700_000_000),
                    status=ORDER_STATUS_PENDING,
                    items=[
                        ImportedItem(product_id=f"product-{n:06d}", quantity=1, unit_price=PRICE) for n in range(500)
                    ],
                )
                assert isinstance((await desk.batch(order))[0], Accepted)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 2 << 20
        assert desk.cache.bytes <= 1 << 20


async def test_estimate_follows_the_state_and_not_the_number_of_its_events(tmp_path: Path) -> None:
    async with Desk(tmp_path) as desk:
        await desk.batch(register("ada"))
        for _ in range(20):
            await desk.batch(*[login("ada")] * 100)
        entry = desk.cache.get("user/ada")
        assert entry.version == 2001
        real = sys.getsizeof(entry.state) + len(desk.catalogue.codecs["user"].encode(entry.state))
        assert real / 4 < entry.memory < 20_000
        desk.forget()
        await desk.batch(login("ada"))
        assert desk.cache.get("user/ada").memory < 20_000
