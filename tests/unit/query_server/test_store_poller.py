"""Store poller: polls that reads share, checkpoints that they need, and health."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from query_server import store_poller
from query_server.freshness.tracker import FreshnessTracker
from query_server.rows.row_source import StoredGeneration
from query_server.store_poller import StorePoller
from tests.support.freshness import LOG, FreshnessStage
from tests.support.polling import eventually


class Store:
    """A store whose checkpoint the test sets."""

    def __init__(self) -> None:
        self.store_changes = 0
        self.checkpoint = 0
        self.polls = 0

    async def generations(self) -> list[StoredGeneration]:
        self.polls += 1
        return [StoredGeneration("p", 1, 1, self.checkpoint, LOG)]


class Upstreams:
    """Notes the requests to other servers."""

    def __init__(self) -> None:
        self.checkpoints: list[str] = []
        self.reconnects = 0

    def request_checkpoint(self, projection: str) -> None:
        self.checkpoints.append(projection)

    def reconnect_feed(self) -> None:
        self.reconnects += 1


class Health:
    """Notes the health that is set."""

    def __init__(self) -> None:
        self.serving: dict[str, bool] = {}

    async def set(self, service: str, serving: bool) -> None:
        self.serving[service] = serving


def poller_of(tracker: FreshnessTracker, store: Store, upstreams: Upstreams, health: Health) -> StorePoller:
    return StorePoller(cast("Any", store), tracker, cast("Any", upstreams), cast("Any", health), ["s"])


async def test_reads_that_wait_for_the_store_share_prompt_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_poller, "POLL_SECONDS", 1000)  # So that only waits start polls.
    stage, store, upstreams = FreshnessStage(shows_commits=False), Store(), Upstreams()
    polling = asyncio.create_task(poller_of(stage.tracker, store, upstreams, Health()).run())
    await eventually(lambda: store.polls == 1)
    stage.feed(9, 9)
    waits = [asyncio.ensure_future(stage.tracker.wait_shown(stage.projection, 9, stage.until())) for _ in range(100)]
    await eventually(lambda: store.polls >= 4, every=0.001)
    assert not any(wait.done() for wait in waits)
    assert upstreams.checkpoints
    store.checkpoint = 9
    await asyncio.gather(*waits)
    assert store.polls < 100
    polls = store.polls
    await asyncio.sleep(0.05)
    assert store.polls <= polls + 1, "nobody waits any more"
    polling.cancel()


async def test_a_replaced_store_voids_progress_and_reconnects_the_feed() -> None:
    stage, store, upstreams = FreshnessStage(), Store(), Upstreams()
    poller = poller_of(stage.tracker, store, upstreams, Health())
    store.checkpoint = 9
    await poller.poll()
    assert stage.projection.progress.applied == 9
    store.store_changes, store.checkpoint = 1, 2
    await poller.poll()
    assert stage.projection.progress.applied == 2
    assert upstreams.reconnects == 1


async def test_health_is_set_when_it_changes() -> None:
    stage, health = FreshnessStage(), Health()
    poller = poller_of(stage.tracker, Store(), Upstreams(), health)
    await poller.poll()
    assert health.serving == {"": True, "s": True, "diptych.projection.p": False}
    stage.feed(1, 1)
    health.serving.clear()
    await poller.poll()
    assert health.serving == {"diptych.projection.p": True}
