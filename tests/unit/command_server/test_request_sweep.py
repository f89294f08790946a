"""The sweep of request ids: retention, bounded steps, and logs that verify finds clean."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Collection
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from command_server.dispatch import Caller, Dispatcher
from command_server.maintenance.log_check import LogCheck
from command_server.request_sweep import RequestSweep
from command_server.store.event_store import StoreUnavailable
from command_server.store.records import Decided, Reads, Request
from command_server.store.sqlite_store import SqliteEventStore
from command_server.submission import Accepted, engine_request_key, is_client_key, request_key
from command_server.writer import Writer
from diptych.server.settings import CommandServerSettings
from diptych.storage.findings import Findings
from tests.support.batch_desk import NOW, SHOP, Desk, deactivate, login, register

DAYS = timedelta(days=30)
MICROSECOND = timedelta(microseconds=1)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with Desk(tmp_path) as opened:
        yield opened


async def no_wait() -> None:
    """Return at once: the queue has room."""


async def sweep(store: SqliteEventStore, now: datetime) -> int:
    return await RequestSweep(store, 30, no_wait).sweep(now)


async def outcome(desk: Desk, command: object) -> Accepted:
    [one] = await desk.batch(command)  # type: ignore[arg-type]
    assert isinstance(one, Accepted), one
    return one


async def remember(store: SqliteEventStore, keys: Collection[str], accepted_at: int = 0) -> None:
    requests = dict.fromkeys(keys, Request(b"d", "user/ada", 0, 0))
    await store.commit(Reads({}, {}, ()), lambda _: Decided(requests=requests, accepted_at=accepted_at))


def findings(log: Path) -> list[str]:
    """Return the kinds of what verify finds in a log."""
    found = Findings()
    scratch = log.with_name("scratch.db")
    scratch.unlink(missing_ok=True)
    with LogCheck(log, scratch, SHOP, found) as check:
        check.check(lambda done, total: None)
    return sorted(found.counts)


async def test_bug_request_ids_were_remembered_for_ever(desk: Desk) -> None:
    await desk.batch(register("ada"))
    first = await outcome(desk, login("ada", request_id="r"))
    accepted_at = NOW + timedelta(seconds=2)
    assert await sweep(desk.store, accepted_at + DAYS) == 0
    assert await outcome(desk, login("ada", request_id="r")) == first._replace(duplicate=True)
    assert await sweep(desk.store, accepted_at + DAYS + MICROSECOND) == 1
    again = await outcome(desk, login("ada", request_id="r"))
    assert (again.version, again.duplicate) == (first.version + 1, False)


async def test_the_id_of_a_late_command_without_events_is_as_young_as_its_acceptance(desk: Desk) -> None:
    await desk.batch(register("ada"), deactivate("ada"))
    first = await outcome(desk, deactivate("ada", request_id="late"))  # It records nothing: its position is old.
    assert first.position == 2
    assert await sweep(desk.store, NOW + timedelta(seconds=1) + DAYS + MICROSECOND) == 0
    assert await outcome(desk, deactivate("ada", request_id="late")) == first._replace(duplicate=True)


async def test_request_ids_of_processes_stay(desk: Desk) -> None:
    engine = [engine_request_key("process/order", "e/0"), engine_request_key("step\nprocess/order", "e")]
    client = [request_key("", "r"), request_key("somebody", "r")]
    assert [is_client_key(key) for key in engine + client] == [False, False, True, True]
    await remember(desk.store, engine + client)
    assert await sweep(desk.store, NOW) == 2
    assert sorted(key for key, _ in await desk.store.request_times("", 10)) == sorted(engine)


async def test_a_step_of_a_sweep_is_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    await remember(desk.store, [f"\n{number}" for number in range(1203)])
    steps: list[int] = []
    forget = desk.store.forget_requests

    async def counted(keys: Collection[str], accepted_before: int) -> int:
        steps.append(len(keys))
        return await forget(keys, accepted_before)

    monkeypatch.setattr(desk.store, "forget_requests", counted)
    assert await sweep(desk.store, NOW) == 1203
    assert steps == [500, 500, 203]
    assert await desk.store.request_times("", 10) == []


async def test_a_sweep_waits_while_the_queue_of_the_writer_is_full(tmp_path: Path) -> None:
    store = SqliteEventStore(tmp_path / "log.db")
    await store.open()
    await remember(store, ["\nold"])
    settings = CommandServerSettings.model_validate({"queue_commands_max": 2})
    writer = Writer(SHOP, store, settings, lambda *_: None)
    dispatcher = Dispatcher(SHOP)
    for name in ("ada", "ben"):
        command = register(name)
        method = SHOP.commands[command.DESCRIPTOR.full_name]
        writer.submit(dispatcher.submission(method, command, Caller()))
    sweeping = asyncio.create_task(RequestSweep(store, 30, writer.wait_for_room).sweep(NOW))
    for _ in range(5):
        await store.head()
    assert [key for key, _ in await store.request_times("", 10)] == ["\nold"]
    assert not sweeping.done()
    writer.close()
    await writer.run()
    assert await sweeping == 1
    await store.close()


async def test_a_sweep_that_is_switched_off_forgets_nothing(desk: Desk) -> None:
    await remember(desk.store, ["\nold"])
    await RequestSweep(desk.store, 0, no_wait).run()
    assert len(await desk.store.request_times("", 10)) == 1


async def test_a_sweep_of_a_store_that_fails_is_tried_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("command_server.request_sweep._STEP_PAUSE_SECONDS", 0)
    monkeypatch.setattr("command_server.request_sweep._SWEEP_PAUSE_SECONDS", 0)
    await remember(desk.store, ["\nold"])
    calls: list[int] = []
    done = asyncio.Event()
    forget = desk.store.forget_requests

    async def failing(keys: Collection[str], accepted_before: int) -> int:
        calls.append(1)
        if len(calls) == 1:
            raise StoreUnavailable("planted")
        count = await forget(keys, accepted_before)
        done.set()
        return count

    monkeypatch.setattr(desk.store, "forget_requests", failing)
    running = asyncio.create_task(RequestSweep(desk.store, 30, no_wait).run())
    await asyncio.wait_for(done.wait(), 60)
    running.cancel()
    await asyncio.wait((running,))
    assert await desk.store.request_times("", 10) == []


async def test_verify_is_clean_after_a_sweep_and_finds_a_younger_id_that_is_missing(tmp_path: Path) -> None:
    log = tmp_path / "log.db"
    async with Desk(tmp_path) as desk:
        await desk.batch(register("ada", request_id="r-1"))
        await desk.batch(register("ben", request_id="r-2"))
        await desk.batch(register("eve", request_id="r-3"))
        assert findings(log) == []
        assert await sweep(desk.store, NOW + timedelta(seconds=3) + DAYS) == 2
        assert findings(log) == []
        # The id of a later event now stands for an earlier position.
        await desk.batch(deactivate("ada"))
        await desk.batch(deactivate("ada", request_id="r-2"))
        assert findings(log) == []
    with closing(sqlite3.connect(log)) as connection, connection:
        connection.execute("DELETE FROM requests WHERE key LIKE '%r-3'")
    assert findings(log) == ["REQUEST_FORGOTTEN"]


async def test_request_ids_of_a_log_of_version_2_count_from_the_upgrade(tmp_path: Path) -> None:
    log = tmp_path / "log.db"
    async with Desk(tmp_path) as desk:
        await desk.batch(register("ada"))
        first = await outcome(desk, login("ada", request_id="r"))
    with closing(sqlite3.connect(log, isolation_level=None)) as old:
        old.execute("ALTER TABLE requests DROP COLUMN accepted_at")
        old.execute("DROP TABLE request_sweeps")
        old.execute("UPDATE log SET schema_version = 2")
    assert findings(log) == [], "verify reads a log before its upgrade"
    before = time.time_ns() // 1000
    async with Desk(tmp_path) as desk:
        [(_, accepted_at)] = await desk.store.request_times("", 10)
        assert accepted_at >= before
        assert accepted_at >= (NOW + timedelta(seconds=2)).timestamp() * 1e6, "never before the last event"
        upgraded = datetime.fromtimestamp(accepted_at / 1e6, NOW.tzinfo)
        assert await sweep(desk.store, upgraded + DAYS - timedelta(seconds=1)) == 0
        assert await outcome(desk, login("ada", request_id="r")) == first._replace(duplicate=True)
        await desk.batch(login("ada", request_id="new"))
    async with Desk(tmp_path) as desk:  # The second opening upgrades nothing.
        assert dict(await desk.store.request_times("", 10))["\nr"] == accepted_at
        assert dict(await desk.store.request_times("", 10))["\nnew"] == int(NOW.timestamp() + 2) * 1_000_000
        assert await sweep(desk.store, upgraded + DAYS + timedelta(seconds=1)) == 2
    assert findings(log) == []


KILLED = """
import asyncio, os, signal, sys
from datetime import timedelta
from pathlib import Path
from command_server.request_sweep import RequestSweep
from command_server.store import sqlite_database
from command_server.store.sqlite_store import SqliteEventStore
from tests.support.batch_desk import NOW

commit, calls = sqlite_database._commit, []

def killing(connection):
    calls.append(1)
    if len(calls) == 2 and sys.argv[2] == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    commit(connection)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

async def no_wait():
    pass

async def main():
    store = SqliteEventStore(Path(sys.argv[1]))
    await store.open()
    sqlite_database._commit = killing
    await RequestSweep(store, 30, no_wait).sweep(NOW + timedelta(days=40))

asyncio.run(main())
"""


@pytest.mark.parametrize(("when", "left"), [("before", 701), ("after", 201)])
async def test_a_kill_during_a_sweep_leaves_whole_steps(tmp_path: Path, when: str, left: int) -> None:
    log = tmp_path / "log.db"
    async with Desk(tmp_path) as desk:
        await desk.batch(register("ada", request_id="r"))
        await remember(desk.store, [f"\n{number:04}" for number in range(1200)])
    killed = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, str(log), when)
    assert await asyncio.wait_for(killed.wait(), 120) == -signal.SIGKILL
    async with Desk(tmp_path) as desk:
        assert len(await desk.store.request_times("", 2000)) == left
        assert await desk.store.forgotten_before() == int((NOW + timedelta(days=10)).timestamp()) * 1_000_000
        assert await sweep(desk.store, NOW + timedelta(days=40)) == left
    assert findings(log) == []
