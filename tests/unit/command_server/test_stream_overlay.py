"""The stream overlay: states from events, snapshots and the state cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from command_server.batch import Batch
from command_server.state_cache import NOT_CACHED, StateCache
from command_server.store.records import Decided, Reads, Snapshot
from shop.refusals import UserDeactivated
from shop.v1.user_commands_pb2 import (
    UpdateUserProfileRequest,
)
from tests.support.batch_desk import (
    NOW,
    Desk,
    accepted,
    deactivate,
    login,
    register,
)

# Snapshots and the state cache.


async def cold_state(desk: Desk, stream: str, *, snapshots: bool) -> Any:
    """Return an aggregate's state as a batch without a state cache loads it."""
    submission = desk.submission(login(stream.partition("/")[2]))
    batch = Batch([submission], desk.catalogue, StateCache(10), NOW)
    reads = batch.reads()
    if not snapshots:
        reads = reads._replace(shapes={"user": b"another"})
    states: list[Any] = []

    class Enough(Exception):
        pass

    def decide(loaded: Any) -> Decided:
        assert bool(loaded.histories[stream].snapshot) == snapshots
        if snapshots:
            assert len(loaded.histories[stream].frames) < desk.catalogue.snapshot_events
        batch.decide(loaded)
        states.append(batch._overlay.streams[stream].state)
        raise Enough

    with pytest.raises(Enough):
        await desk.store.commit(reads, decide)
    return states[0]


async def test_a_state_from_a_snapshot_equals_the_state_from_all_events(tmp_path: Path) -> None:
    async with Desk(tmp_path, snapshot_events=10) as desk:
        await desk.batch(register("ada", first_name="Ada", username="ada"))
        for number in range(35):
            change = UpdateUserProfileRequest(user_id="ada", bio=f"é {number}", preferences={"n": str(number)})
            await desk.batch(change, login("ada"))
        assert await cold_state(desk, "user/ada", snapshots=True) == await cold_state(desk, "user/ada", snapshots=False)
        desk.forget()
        assert accepted((await desk.batch(login("ada", expected=71)))[0]).version == 72


async def test_a_snapshot_is_written_when_one_batch_passes_several_intervals(tmp_path: Path) -> None:
    async with Desk(tmp_path, snapshot_events=3) as desk:
        await desk.batch(register("ada"), *[login("ada")] * 10)
        desk.forget()
        assert accepted((await desk.batch(login("ada")))[0]).version == 12
        assert (await cold_state(desk, "user/ada", snapshots=True)).email == "ada@example.com"


async def test_a_snapshot_of_another_shape_is_ignored(tmp_path: Path) -> None:
    async with Desk(tmp_path, snapshot_events=3) as desk:
        await desk.batch(register("ada"), *[login("ada")] * 4)
        wrong = Snapshot(5, b"another", b"not even JSON")
        await desk.store.commit(Reads({}, {}, ()), lambda loaded: Decided(snapshots={"user/ada": wrong}))
        desk.forget()
        assert accepted((await desk.batch(login("ada")))[0]).version == 6


@pytest.mark.parametrize("entries", [0, 1, 2])
async def test_states_that_the_cache_dropped_are_read_again(desk: Desk, entries: int) -> None:
    desk.cache = StateCache(entries)
    await desk.batch(*(register(f"u{number}") for number in range(5)))
    for number in range(5):
        outcomes = await desk.batch(login(f"u{number}", expected=1), deactivate(f"u{number}"))
        assert [accepted(one).version for one in outcomes] == [2, 3]
    assert sum(desk.cache.get(f"user/u{number}") is not NOT_CACHED for number in range(5)) == entries


async def test_a_cached_state_is_read_again_when_its_stream_has_newer_events(desk: Desk) -> None:
    await desk.batch(register("ada"))
    stale = desk.cache.get("user/ada")
    assert stale is not NOT_CACHED
    await desk.batch(deactivate("ada"))
    desk.cache.put("user/ada", stale)
    assert await desk.batch(login("ada")) == [UserDeactivated(user_id="ada")]
