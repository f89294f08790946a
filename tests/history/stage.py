"""Stage of a history run: servers in processes of their own that talk through proxies, and the faults."""

from __future__ import annotations

import asyncio
import random
import resource
import signal
import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
import grpc.aio

from diptych.domain.domain import Domain
from diptych.server.failpoints import NAMES, VARIABLE
from diptych.storage.read_store_schema import generations, view_table
from diptych.v1.projections_pb2 import PauseRequest, ResumeRequest
from diptych.v1.projections_pb2_grpc import ProjectionServiceStub
from tests.history.proxy import Proxy
from tests.history.records import Fault, History, Stored, StoredRow
from tests.support.polling import eventually
from tests.support.programs import Server

PROGRAMS = {
    "command-server": "command-server",
    "projector": "projector",
    "query-1": "query-server",
    "query-2": "query-server",
}
"""Program of each server, by the server's name."""

_OWNERS = {
    "commit": "command-server",
    "publish": "command-server",
    "fold": "projector",
    "feed.taken": "projector",
    "checkpoint": "projector",
    "feed.received": "query-server",
    "watch": "query-server",
    "switch": "projector",
}

TROUBLES = {"kill": 3, "freeze": 2, "cut": 1, "hold": 1, "slow": 1}
"""Faults of servers and links, with their weights."""


def failpoints_of(program: str) -> list[str]:
    """Return the failpoints that a server passes."""
    return [name for name in NAMES if program == (_OWNERS.get(name) or _OWNERS[name.partition(".")[0]])]


class Actor:
    """A named server, which is started again whenever it has ended."""

    def __init__(self, name: str, server: Server, plants: str, fate: float) -> None:
        self.name = name
        self.server = server
        if plants:
            module, program, *rest = server.arguments
            server.arguments = [module, "tests.history.programs", plants, program.replace("_", "-"), *rest]
        self.ends_by_itself = "lose" in plants
        self.up = asyncio.Event()
        self.fate = random.Random(fate)
        """Random numbers for its next processes. They do not depend on when other servers die."""
        self.killed = False
        """True if its last process was killed from outside."""
        self.died_at: list[str] = []
        """Failpoints that its processes died at."""
        self.script: list[str] | None = None
        """Failpoints of its next processes, and none after them; None: random ones."""
        self.deaths = 0

    def arm(self, failpoints: str) -> None:
        """Set the failpoints at which its next process dies; empty: none."""
        self.server.env[VARIABLE] = failpoints
        self.killed = False

    @property
    def armed(self) -> str:
        """Failpoints at which its process dies."""
        return self.server.env.get(VARIABLE, "")

    def bury(self) -> bool:
        """Record the end of a process; return True if it had a cause."""
        self.deaths += 1
        status = self.server.wait()
        if self.armed and status == -signal.SIGKILL and not self.killed:
            self.died_at.append(self.armed)
            return True
        return self.killed or self.ends_by_itself


class Stage:
    """Two query servers, one of each other server, and a proxy on every link."""

    def __init__(
        self,
        data: Path,
        domain: Domain,
        history: History,
        rng: random.Random,
        *,
        plants: Mapping[str, str] | None = None,
        settings: Mapping[str, list[str]] | None = None,
        troubles: Mapping[str, int] = TROUBLES,
    ) -> None:
        self.data = data
        self.domain = domain
        self.history = history
        self.rng = rng
        self.crashes = False
        """True while restarted servers may die at a failpoint."""
        self.rebuilds = False
        """True if projections are rebuilt, so that a projector can die at failpoints of a switch, too."""
        self.unexpected: list[str] = []
        """Servers that ended without a cause."""
        self._plants = plants or {}
        self._troubles = troubles
        self._settings = settings or {}
        self.links: dict[str, Proxy] = {}
        self.actors: dict[str, Actor] = {}
        self._looking = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._ending = False

    async def __aenter__(self) -> Self:
        try:
            await self._raise()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.end()
        await self._stack.aclose()

    @property
    def read_store(self) -> Path:
        """File of the read store."""
        return self.data / "read.db"

    @property
    def commands(self) -> str:
        """Address of the command server for clients."""
        return self.links["clients>command-server"].address

    @property
    def queries(self) -> dict[str, str]:
        """Addresses of the query servers for clients, by name."""
        return {name: self.links[f"clients>{name}"].address for name in ("query-1", "query-2")}

    async def end(self) -> None:
        """Stop restarting servers."""
        self._ending = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def calm(self) -> None:
        """End all faults, and wait until every server runs and every link is free."""
        self.crashes = False
        for link in self.links.values():
            link.heal()
        for actor in self.actors.values():
            if actor.armed:
                actor.script = []
                await self.kill(actor.name)
            else:
                await actor.up.wait()

    async def kill(self, name: str) -> None:
        """Kill a server and wait until it is up again."""
        await self._befall("kill", name, lambda: self._kill(self.actors[name]))

    async def freeze(self, name: str, seconds: float) -> None:
        """Suspend a server for a time."""

        async def stand_still() -> None:
            server = self.actors[name].server
            server.freeze()
            try:
                await asyncio.sleep(seconds)
            finally:
                server.thaw()

        await self._befall("freeze", name, stand_still)

    async def fill(self, name: str, seconds: float) -> None:
        """Limit a server's file to its size for a time, as a full disk would."""
        file = self.data / ("log.db-wal" if name == "command-server" else "read.db-wal")
        pid = self.actors[name].server.pid

        async def stay_full() -> None:
            with suppress(ProcessLookupError, FileNotFoundError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (file.stat().st_size, resource.RLIM_INFINITY))
                await asyncio.sleep(seconds)
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

        await self._befall("fill", name, stay_full)

    async def pause(self, projection: str, seconds: float) -> None:
        """Pause a projection for a time."""

        async def stand() -> None:
            if await self._operate(lambda stub: stub.Pause(PauseRequest(projection=projection), timeout=2)):
                await asyncio.sleep(seconds)
            # What was asked for may have been done, though nobody answered.
            await eventually(
                lambda: self._operate(lambda stub: stub.Resume(ResumeRequest(projection=projection), timeout=2)),
                what=f"{projection} resumes",
                seconds=60,
                every=0.1,
            )

        await self._befall("pause", projection, stand)

    async def _operate(self, call: Callable[[ProjectionServiceStub], Awaitable[object]]) -> bool:
        """Call the projector as an operator does; return True if it answered."""
        async with grpc.aio.insecure_channel(self.actors["projector"].server.address) as channel:
            try:
                await call(ProjectionServiceStub(channel))
            except grpc.aio.AioRpcError:
                return False
        return True

    async def die_at(self, name: str, failpoints: Sequence[str], seconds: float) -> list[str]:
        """Kill a server at one failpoint after the other; return those that it did not reach within the limit."""
        actor = self.actors[name]
        actor.script, missed = list(failpoints), []
        await self.kill(name)
        for one in failpoints:

            def is_back(one: str = one) -> bool:
                return one in actor.died_at and actor.up.is_set()

            try:
                await eventually(is_back, seconds=seconds)
            except AssertionError:
                missed.append(one)
                await self.kill(name)
        actor.script = None
        return missed

    async def cut(self, link: str, seconds: float = 0.0) -> None:
        """Break the connections of a link, and refuse new ones for a time."""

        async def break_it() -> None:
            proxy = self.links[link]
            proxy.refusing = seconds > 0
            proxy.cut()
            await asyncio.sleep(seconds)
            proxy.heal()

        await self._befall("cut", link, break_it)

    async def hold(self, link: str, seconds: float) -> None:
        """Hold all data of a link for a time."""

        async def keep() -> None:
            self.links[link].hold()
            await asyncio.sleep(seconds)
            self.links[link].heal()

        await self._befall("hold", link, keep)

    async def slow(self, link: str, seconds: float, delay: float) -> None:
        """Delay all data of a link for a time."""

        async def crawl() -> None:
            self.links[link].delay_seconds = delay
            await asyncio.sleep(seconds)
            self.links[link].heal()

        await self._befall("slow", link, crawl)

    async def torment(self, seconds: float) -> None:
        """Make random faults one after the other for a time. A killed server starts again during later faults."""
        until = time.monotonic() + seconds
        self.crashes = True
        under_way: set[asyncio.Task[None]] = set()
        rng = self.rng
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(rng.uniform(0.05, 0.6), left))
            name = rng.choice(("command-server", "command-server", "projector", "projector", "query-1", "query-2"))
            link = rng.choice(sorted(self.links))
            up = self.actors[name].up.is_set()
            match rng.choices(list(self._troubles), list(self._troubles.values()))[0]:
                case "kill" if up:
                    under_way.add(asyncio.create_task(self.kill(name)))
                case "freeze" if up:
                    await self.freeze(name, rng.uniform(0.05, 0.6))
                case "fill":
                    name = rng.choice(("command-server", "projector"))
                    under_way.add(asyncio.create_task(self.fill(name, rng.uniform(0.1, 1.0))))
                case "pause":
                    projection = rng.choice(sorted(self.domain.projections))
                    under_way.add(asyncio.create_task(self.pause(projection, rng.uniform(0.1, 1.0))))
                case "cut":
                    await self.cut(link, rng.choice((0.0, rng.uniform(0.0, 0.6))))
                case "hold":
                    await self.hold(link, rng.uniform(0.05, 0.8))
                case "slow":
                    await self.slow(link, rng.uniform(0.1, 0.8), rng.uniform(0.001, 0.08))
                case _:
                    pass
        self.crashes = False
        await asyncio.gather(*under_way)

    def _fate_of(self, actor: Actor) -> str:
        if actor.script is not None:
            return actor.script.pop(0) if actor.script else ""
        if not self.crashes or actor.fate.random() >= 0.6:
            return ""
        points = failpoints_of(PROGRAMS[actor.name])
        switching = [point for point in points if point.startswith("switch.")]
        if self.rebuilds and switching and actor.fate.random() < 0.5:
            return f"{actor.fate.choice(switching)}=kill"  # Rarer than all others.
        return f"{actor.fate.choice(points)}=kill@{actor.fate.randint(2, 40)}"

    async def look(self) -> None:
        """Record the read store's contents, each projection in one transaction."""
        async with self._looking:  # Of two looks at once, the one that is done first may have begun last.
            self.history.stored += await asyncio.to_thread(stored, self.read_store, self.domain)

    async def _raise(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        store = f"--read-store=sqlite:///{self.read_store}"
        command = self._add("command-server", "command-server", f"--log=sqlite:///{self.data / 'log.db'}")
        projector = self._add("projector", "projector", f"--commands={await self._link('projector', command)}", store)
        for name in ("query-1", "query-2"):
            commands, fed = await self._link(name, command), await self._link(name, projector)
            query = self._add(name, "query-server", f"--commands={commands}", f"--projector={fed}", store)
            await self._link("clients", query)
        await self._link("clients", command)
        for actor in self.actors.values():
            actor.arm("")
            actor.server.spawn()
        for actor in self.actors.values():
            await asyncio.to_thread(actor.server.wait_ready)
            actor.up.set()
        self._tasks = [asyncio.create_task(self._mind(actor)) for actor in self.actors.values()]

    def _add(self, name: str, program: str, *arguments: str) -> Actor:
        own = self._settings.get(program, [])
        server = Server(program, f"--domain={self.domain.name}", *arguments, *own, log=self.data / f"{name}.log")
        self._stack.callback(server.close)
        actor = self.actors[name] = Actor(name, server, self._plants.get(program, ""), self.rng.random())
        return actor

    async def _link(self, source: str, target: Actor) -> str:
        proxy = await self._stack.enter_async_context(Proxy(target.server.address))
        self.links[f"{source}>{target.name}"] = proxy
        return proxy.address

    async def _befall(self, kind: str, target: str, what: Callable[[], Awaitable[None]]) -> None:
        began = time.monotonic()
        try:
            await what()
        finally:
            self.history.faults.append(Fault(kind=kind, target=target, began=began, ended=time.monotonic()))

    async def _kill(self, actor: Actor) -> None:
        actor.killed = True
        actor.up.clear()
        actor.server.thaw()  # It may stand still; a process that does so dies all the same, but later.
        actor.server.kill()
        await actor.up.wait()

    async def _mind(self, actor: Actor) -> None:
        """Start a server again whenever it has ended."""
        while True:
            if actor.server.running:
                await asyncio.sleep(0.02)
                continue
            actor.up.clear()
            if not actor.bury():
                self.unexpected.append(f"{actor.name}: {actor.server.logged()[-2000:]}")
            began = time.monotonic()
            if actor.name == "projector":
                await self.look()  # As the dead left it.
            actor.arm(self._fate_of(actor))
            try:
                await actor.server.restart()
            except AssertionError:
                if not (actor.armed or actor.killed or actor.ends_by_itself):
                    raise
                continue
            self.history.faults.append(Fault(kind="end", target=actor.name, began=began, ended=time.monotonic()))
            # It may have been killed after its ready line and before this task went on. Whoever did waits for `up`,
            # which must stand for the next process.
            if not actor.killed:
                actor.up.set()


def stored(path: Path, domain: Domain) -> list[Stored]:
    """Return every active generation in a read store, each read in one transaction."""
    found = []
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
    connection.execute("PRAGMA busy_timeout = 5000")
    try:
        for projection in domain.projections.values():
            connection.execute("BEGIN")
            try:
                row = connection.execute(
                    f"SELECT generation, position, event_id FROM {generations.name} WHERE projection = ? AND active",
                    (projection.name,),
                ).fetchone()
                if row is None:
                    continue
                generation, position, event_id = row
                rows = {
                    view.name: {
                        key: StoredRow(position=at, content=content, columns=tuple(columns))
                        for key, at, content, *columns in connection.execute(
                            f"SELECT * FROM {view_table(view, generation).name}"
                        )
                    }
                    for view in projection.views
                }
            finally:
                connection.execute("COMMIT")
            found.append(
                Stored(
                    taken=time.monotonic(),
                    projection=projection.name,
                    generation=generation,
                    position=position,
                    event_id=event_id,
                    rows=rows,
                )
            )
    finally:
        connection.close()
    return found
