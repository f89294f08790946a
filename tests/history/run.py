"""One run: clients write and read while servers are killed and connections cut; then the judge checks the history."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from diptych.domain.loading import load
from diptych.v1.read_model_pb2 import WaitOutcome
from tests.history.clients import RecordingClient, sleep, whole_log
from tests.history.judge import Case, Finding, judge
from tests.history.rebuilding import Rebuilder
from tests.history.records import History
from tests.history.shop import ShopEffects
from tests.history.shopping import Board, Importer, Shopper, open_shop
from tests.history.stage import TROUBLES, Stage, stored
from tests.support.polling import eventually

_ROUNDS_MAX = 8
"""Rounds of a run, of `Plan.seconds` each, until it has its minimum of reads and writes."""

_RESETS = frozenset({"RESET_REASON_GENERATION"})
"""Reasons for which a watch may be reset in runs with rebuilds."""

_EXPLAINED = {
    # A read store that cannot grow stalls, and goes on by itself.
    "fill": ("READ_MODEL_STALLED", WaitOutcome.WAIT_OUTCOME_STALLED),
    "pause": ("READ_MODEL_PAUSED", WaitOutcome.WAIT_OUTCOME_PAUSED),
}
"""Reasons of refused reads and outcomes of waits that a trouble explains, by trouble."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Contents of a run. The same plan makes the same faults and requests; their timing depends on the machine."""

    seed: int
    seconds: float = 6.0
    clients: int = 5
    faults: bool = True
    plants: Mapping[str, str] = field(default_factory=dict)
    """Plants by program, as `programs.py` takes them."""
    troubles: Mapping[str, int] = field(default_factory=lambda: dict(TROUBLES))
    """Faults and their weights."""
    trouble: Callable[[Stage], Awaitable[None]] | None = None
    """Function that makes the faults instead. The run ends when it returns, and at the latest after `seconds`."""
    sleepers: int = 0
    """Number of clients that open streams to every server and read nothing."""
    settings: Mapping[str, list[str]] = field(default_factory=dict)
    watches: bool = True
    rebuilds: bool = False
    """True if projections are rebuilt, switched and switched back all the time."""
    reads_min: int = 0
    writes_min: int = 0
    """Answered reads and acknowledged writes that a run must have. On a slow machine it takes more rounds."""
    end_seconds: float = 20.0
    """Limit in seconds on settling after the faults."""
    slow: Mapping[str, float] = field(default_factory=dict)
    """Delay in seconds of all data on a link, such as `projector>command-server`."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of a run."""

    history: History
    findings: list[Finding]
    deaths: int
    switches: int = 0

    @property
    def checks(self) -> set[str]:
        """Names of the checks with findings."""
        return {finding.check for finding in self.findings}

    def summary(self) -> str:
        """Return the run's contents in one line."""
        history = self.history
        answered = sum(read.refused is None for read in history.reads)
        return (
            f"{len(history.log)} events, {len(history.writes)} writes, {answered} of {len(history.reads)} reads, "
            f"{len(history.waits)} waits, "
            f"{sum(len(one.frames) for one in history.watched)} frames watched, "
            f"{len(history.faults)} faults, {self.deaths} deaths, {self.switches} switches, "
            f"{len(history.stored)} looks"
        )

    def report(self) -> str:
        """Return the findings, the first five of each check."""
        lines = [self.summary()]
        for check in sorted(self.checks):
            texts = [finding.text for finding in self.findings if finding.check == check]
            lines += [f"{check} ({len(texts)}):", *(f"    {text}" for text in texts[:5])]
        return "\n".join(lines)


async def run(data: Path, plan: Plan) -> Outcome:
    """Run a plan and judge its history."""
    history, board = History(), Board()
    rng = random.Random(plan.seed)
    domain = load("shop").domain
    stage = Stage(
        data,
        domain,
        history,
        random.Random(rng.random()),
        plants=plan.plants,
        settings=plan.settings,
        troubles=plan.troubles,
    )
    stage.rebuilds = plan.rebuilds
    async with stage:
        rebuilder = Rebuilder(
            stage.actors["projector"].server.address, sorted(domain.projections), random.Random(plan.seed)
        )
        clients = [
            RecordingClient(f"c{number}", history, stage.commands, stage.queries) for number in range(plan.clients + 4)
        ]
        try:
            await _play(plan, stage, board, clients, rebuilder, rng)
        finally:
            for client in clients:
                await client.close()
        deaths = sum(actor.deaths for actor in stage.actors.values())
        await stage.end()
        projector = stage.actors["projector"].server
        status = await asyncio.to_thread(projector.stop)
        history.stored += stored(stage.read_store, domain)
    for last in history.stored[-len(domain.projections) :]:
        history.final[last.projection] = last.position
    explained = [_EXPLAINED[trouble] for trouble in plan.troubles if trouble in _EXPLAINED]
    case = Case(
        history,
        domain,
        ShopEffects(),
        refusals=frozenset(reason for reason, _ in explained),
        outcomes=frozenset(outcome for _, outcome in explained),
        resets=_RESETS if plan.rebuilds else frozenset(),
    )
    findings = await asyncio.to_thread(judge, case)
    findings += [Finding("rebuilds_are_what_they_say", text) for text in rebuilder.wrong]
    findings += [Finding("no_server_ends_by_itself", text) for text in stage.unexpected]
    if status:
        findings.append(Finding("no_server_ends_by_itself", f"the projector ended with {status} when told to"))
    return Outcome(history=history, findings=findings, deaths=deaths, switches=rebuilder.switched)


async def _play(
    plan: Plan,
    stage: Stage,
    board: Board,
    clients: list[RecordingClient],
    rebuilder: Rebuilder,
    rng: random.Random,
) -> None:
    follower, importing, watcher, key_watcher, *others = clients
    for link, seconds in plan.slow.items():
        stage.links[link].delay_seconds = seconds
    await open_shop(follower, board)
    following = [
        asyncio.create_task(follower.follow()),
        asyncio.create_task(follower.follow(frozenset({"shop.v1.LoginRecorded", "shop.v1.OrderImported"}))),
        asyncio.create_task(follower.follow(by_token=False)),
    ]
    if plan.watches:
        keys = frozenset({"first-0", "first-1", "u-c5-1", "nobody"})
        following += [
            asyncio.create_task(watcher.watch("user_summaries", None, random.Random(rng.random()))),
            asyncio.create_task(key_watcher.watch("users", keys, random.Random(rng.random()))),
        ]
    for _ in range(plan.sleepers):
        following += [asyncio.create_task(sleep(stage.commands, address)) for address in stage.queries.values()]
    shoppers = [Shopper(client, board, random.Random(rng.random())) for client in others]
    importer = Importer(importing, board, random.Random(rng.random()), stage.commands)

    def work() -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(shopper.shop(plan.seconds)) for shopper in shoppers]
        tasks.append(asyncio.create_task(importer.send(plan.seconds)))
        tasks.append(asyncio.create_task(_look(stage, plan.seconds, board, random.Random(rng.random()))))
        if plan.trouble is not None:
            tasks.append(asyncio.create_task(_befall(plan.trouble, stage, board)))
        elif plan.faults:
            tasks.append(asyncio.create_task(stage.torment(plan.seconds)))
        if plan.rebuilds:
            tasks.append(asyncio.create_task(rebuilder.work(plan.seconds, lambda: board.over)))
        return tasks

    working: list[asyncio.Task[None]] = []
    try:
        for _ in range(_ROUNDS_MAX):
            working = work()
            await asyncio.gather(*working)
            if board.over or stage.history.has(plan.reads_min, plan.writes_min):
                break
        await stage.calm()
        if plan.rebuilds:
            await rebuilder.settle(plan.end_seconds)
        await asyncio.gather(*(shopper.settle(plan.end_seconds) for shopper in shoppers))
        stage.history.log = await whole_log(stage.commands)
        await _end(stage, board, shoppers, plan.end_seconds)
        if plan.watches:
            await _watched_to_the_end(stage, [watcher, key_watcher], plan.end_seconds)
    finally:
        for task in (*working, *following):
            task.cancel()
        await asyncio.gather(*working, *following, return_exceptions=True)


async def _end(stage: Stage, board: Board, shoppers: list[Shopper], seconds: float) -> None:
    """Wait until both query servers have applied all events, and read everything once more from both."""
    board.token = max(shopper.client.token for shopper in shoppers)
    client = shoppers[0].client
    waits = [client.wait(server, "", token=board.token, timeout=seconds) for server in client.servers]
    for wait in await asyncio.gather(*waits):
        if wait.outcome == WaitOutcome.WAIT_OUTCOME_REACHED:
            for user_id in board.users[-30:]:
                await shoppers[0].get_user(user_id, server=wait.server, token="", timeout=seconds)


async def _watched_to_the_end(stage: Stage, watchers: list[RecordingClient], seconds: float) -> None:
    """Wait until watchers have all changes, up to a limit. The judge checks their rows."""
    with suppress(AssertionError):
        await eventually(lambda: all(one.watched_to >= len(stage.history.log) for one in watchers), seconds=seconds)


async def _befall(trouble: Callable[[Stage], Awaitable[None]], stage: Stage, board: Board) -> None:
    try:
        await trouble(stage)
    finally:
        board.over = True


async def _look(stage: Stage, seconds: float, board: Board, rng: random.Random) -> None:
    until = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < until and not board.over:
        await asyncio.sleep(rng.uniform(0.02, 0.3))
        await stage.look()


def seeds(default: str) -> list[int]:
    """Return the seeds of DIPTYCH_TEST_SEEDS (`1,2,3`), or the default ones."""
    return [int(seed) for seed in os.environ.get("DIPTYCH_TEST_SEEDS", default).split(",")]
