"""The promises of watches, attacked: any order of events, folds, slow clients, reconnects, restarts and refills.

What a frame must satisfy, `Client` checks of each one: ordered, unique, and at every cut equal to the view at that
position. Here, at the end, every watch has received every change, resumed watches too.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from diptych.contract.reasons import QueryServerStopping, ResumeTokenExpired
from tests.support.notes import Archived, Erased, Noted, Tagged
from tests.support.watch_stage import Client, Cut, Server, Stage, quiet

T = TypeVar("T")

KEYS = ["a", "b", "c", "d", "e", "f", "g"]
VIEWS = ("notes", "notes_tags")
CLIENTS_MAX = 6

keys = st.sampled_from(KEYS)
texts = st.sampled_from(["x", "y", "z"])
events = st.one_of(
    st.builds(lambda key, text: Noted(key=key, text=text), keys, texts),
    st.builds(lambda key, text: Noted(key=key, text=text), keys, texts),
    st.builds(lambda key: Erased(key=key), keys),
    st.builds(lambda key, tags: Tagged(key=key, tags=tags), keys, st.lists(keys, max_size=7)),
    st.builds(lambda key: Archived(key=key), keys),
)


class Watching(RuleBasedStateMachine):
    """Two query servers on one store, and clients that watch.

    What is going on when a rule runs depends on threads. So no rule depends on it, or Hypothesis could not repeat it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp())
        self.stage: Stage
        self.servers: list[Server] = []
        self.clients: list[Client] = []
        self.saved: list[tuple[Client, Cut]] = []

    def run_async(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @initialize()
    def begin(self) -> None:
        async def work() -> None:
            self.stage = await Stage(self.folder / "read.db").open()
            # A buffer of three rows and pages of one: everything that can be too much or cut in two is.
            self.servers = [Server(self.stage, rows_max=rows_max) for rows_max in (3, 8)]

        self.run_async(work())

    # What happens.

    @rule(some=st.lists(events, min_size=1, max_size=6))
    def record(self, some: list[Any]) -> None:
        self.stage.record(*some)

    @rule(count=st.integers(1, 10))
    def fold(self, count: int) -> None:
        self.run_async(self.stage.fold(count))

    @rule(some=st.lists(events, min_size=1, max_size=6), server=st.integers(0, 1))
    def put(self, some: list[Any], server: int) -> None:
        async def work() -> None:
            await self.stage.put(*some)
            self.servers[server].hear()

        self.run_async(work())

    @rule()
    def write_checkpoint(self) -> None:
        self.run_async(self.stage.write_checkpoint())

    @rule(server=st.integers(0, 1), poll=st.booleans())
    def hear(self, server: int, poll: bool) -> None:
        async def work() -> None:
            self.servers[server].poll() if poll else self.servers[server].hear()

        self.run_async(work())

    @rule(seconds=st.sampled_from([0, 0, 0.001, 0.005]))
    def pass_time(self, seconds: float) -> None:
        """Lets things get as far as they get, which may be in the middle of anything."""
        self.run_async(asyncio.sleep(seconds))

    @rule(server=st.integers(0, 1), live=st.booleans(), catch_up=st.booleans())
    def hold(self, server: int, live: bool, catch_up: bool) -> None:
        """Hold back later reads, which may return old rows."""
        self.servers[server].hold(live=live, catch_up=catch_up)

    @rule(server=st.integers(0, 1), live=st.integers(0, 1), catch_up=st.integers(0, 2))
    def let(self, server: int, live: int, catch_up: int) -> None:
        """Some of it comes."""

        async def work() -> None:
            self.servers[server].let(live=live, catch_up=catch_up)
            await asyncio.sleep(0.002)

        self.run_async(work())

    @rule()
    def settle(self) -> None:
        for server in self.servers:
            server.hold()
        self.run_async(quiet(self.clients))

    @rule()
    def purge(self) -> None:
        async def work() -> None:
            await self.stage.tombstones.purge()
            self.stage.time += 4000
            await self.stage.tombstones.purge()

        self.run_async(work())

    @rule(share=st.floats(0, 1))
    def refill(self, share: float) -> None:
        """A new generation answers, and may be behind the one before."""
        self.run_async(self.stage.refill(int(share * self.stage.folded)))

    # What clients do.

    @rule(
        server=st.integers(0, 1),
        view=st.sampled_from(VIEWS),
        chosen=st.none() | st.sets(keys, min_size=1),
        eager=st.booleans(),
    )
    def watch(self, server: int, view: str, chosen: set[str] | None, eager: bool) -> None:
        self._start(server, view, chosen and sorted(chosen), None, eager)

    @rule(server=st.integers(0, 1), which=st.integers(0, 1000), eager=st.booleans())
    def resume(self, server: int, which: int, eager: bool) -> None:
        """With any token that anybody ever got."""
        saved = self.saved + [(client, cut) for client in self.clients for cut in client.cuts]
        if saved:
            client, cut = saved[which % len(saved)]
            self._start(server, client.view, client.keys, cut, eager)

    def _start(self, server: int, view: str, chosen: Any, cut: Cut | None, eager: bool) -> None:
        async def work() -> None:
            client = Client(self.servers[server], view, chosen, cut)
            self.clients.append(client)
            if eager:
                client.take()

        if len(self.clients) < CLIENTS_MAX:
            self.run_async(work())

    @rule(which=st.integers(0, 1000), frames=st.integers(1, 5))
    def take(self, which: int, frames: int) -> None:
        if self.clients:
            self.clients[which % len(self.clients)].take(frames)

    @rule(which=st.integers(0, 1000))
    def leave(self, which: int) -> None:
        if self.clients:
            client = self.clients.pop(which % len(self.clients))
            self.run_async(client.leave())
            self._keep(client)

    @rule(server=st.integers(0, 1))
    def restart(self, server: int) -> None:
        async def work() -> None:
            before = self.servers[server]
            before.hold()
            await before.watches.drain()
            for client in [client for client in self.clients if client.server is before]:
                client.take()
                await client.task
                assert isinstance(client.ended, QueryServerStopping | ResumeTokenExpired)
                self.clients.remove(client)
                self._keep(client)
            await before.stop()
            self.servers[server] = Server(self.stage, rows_max=(3, 8)[server])

        self.run_async(work())

    def _keep(self, client: Client) -> None:
        self.saved += [(client, cut) for cut in client.cuts]

    @invariant()
    def nobody_has_failed(self) -> None:
        for client in list(self.clients):
            if client.task.done():
                client.task.result()
                assert isinstance(client.ended, ResumeTokenExpired), client.ended
                self.clients.remove(client)
                self._keep(client)

    def teardown(self) -> None:
        async def work() -> None:
            await self.stage.fold()
            for client in self.clients:
                client.take()
            await asyncio.sleep(0)
            for server in self.servers:
                server.hold()
                server.hear()
            head = len(self.stage.events)
            async with asyncio.timeout(20):
                while not all(self._knows(client, head) for client in self.clients):
                    await asyncio.sleep(0.005)
            for server in self.servers:
                await server.watches.drain()
            await asyncio.gather(*(client.task for client in self.clients))
            for server in self.servers:
                assert server.watches.open == 0
                await server.stop()
            await self.stage.close()

        try:
            if self.servers:
                self.run_async(work())
        finally:
            self.loop.close()
            shutil.rmtree(self.folder)

    def _knows(self, client: Client, head: int) -> bool:
        """Return True if a client got every change, or the refusal of an expired token."""
        if client.task.done():
            client.task.result()
            return isinstance(client.ended, ResumeTokenExpired)
        return client.caught_up and client.state == client.view_at(head)


TestWatching = Watching.TestCase
TestWatching.settings = settings(
    max_examples=50,
    stateful_step_count=60,
    deadline=None,
    # What fails depends on threads as well, so that there is little to be learned from trying it again and again.
    phases=[Phase.explicit, Phase.generate],
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
