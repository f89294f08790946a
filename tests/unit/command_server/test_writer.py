"""The writer: batches, commands that it leaves out, and the end of a commit that hangs."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from command_server.dispatch import Caller, Dispatcher
from command_server.store.sqlite_store import SqliteEventStore
from command_server.submission import Submission
from command_server.writer import Writer
from diptych.domain.loading import load
from diptych.server.settings import CommandServerSettings
from diptych.storage import batch_window
from shop.v1.user_commands_pb2 import RegisterUserRequest


class Commands:
    """Commands of the shop on their way through a writer."""

    def __init__(self) -> None:
        self.domain = load("shop")
        self._dispatcher = Dispatcher(self.domain)
        self._method = self.domain.commands["shop.v1.RegisterUserRequest"]
        self.done_ids: list[str] = []
        """Ids of the users whose commands are done."""

    def register(self, user_id: str) -> Submission:
        command = RegisterUserRequest(user_id=user_id, email=f"{user_id}@example.com")
        made = self._dispatcher.submission(self._method, command, Caller(request_id=user_id))
        made.done = lambda: self.done_ids.append(user_id)
        return made


async def test_give_up_reports_to_every_caller_at_once_and_to_none_twice(tmp_path: Path) -> None:
    commands = Commands()
    store = SqliteEventStore(tmp_path / "log.db")
    await store.open()
    writer = Writer(commands.domain, store, CommandServerSettings.model_validate({}), lambda *_: None)
    with closing(sqlite3.connect(tmp_path / "log.db", isolation_level=None)) as hanging:
        hanging.execute("BEGIN IMMEDIATE")
        taken, queued, gone, late = map(commands.register, ("taken", "queued", "gone", "late"))
        writer.submit(taken)
        running = asyncio.create_task(writer.run())
        await asyncio.sleep(0)  # It takes the first, and waits for the log.
        writer.submit(queued)
        writer.give_up()
    assert commands.done_ids == ["queued", "taken"]
    assert taken.early_refusal is not None
    assert (taken.early_refusal.reason, queued.refusal and queued.refusal.reason) == (
        "OUTCOME_UNKNOWN",
        "LOG_UNAVAILABLE",
    )
    await running
    assert (commands.done_ids, (await store.head()).position) == (["queued", "taken"], 1)

    writer = Writer(commands.domain, store, CommandServerSettings.model_validate({}), lambda *_: None)
    gone.abandoned = True
    late.deadline = asyncio.get_running_loop().time()
    for one in (gone, late):
        writer.submit(one)
    writer.close()
    await writer.run()
    assert (await store.head()).position == 1, "an abandoned or late command is not decided"
    assert late.refusal is not None
    assert late.refusal.reason == "COMMAND_NOT_IN_TIME"
    await store.close()


async def test_a_batch_waits_for_as_many_callers_as_before_and_a_lone_caller_never_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_window, "_CALL_SECONDS", 1000)  # So that only commands end a wait, and no clock does.
    commands = Commands()
    batches: list[int] = []
    store = SqliteEventStore(tmp_path / "log.db")
    await store.open()
    writer = Writer(
        commands.domain,
        store,
        CommandServerSettings.model_validate({}),
        lambda committed, *_: batches.append(len(committed.frames)),
    )

    async def call(user_id: str) -> None:
        answered = asyncio.Event()
        command = commands.register(user_id)
        command.done = answered.set
        writer.submit(command)
        await answered.wait()

    running = asyncio.create_task(writer.run())
    for number in range(3):
        await call(f"alone-{number}")
    assert batches == [1, 1, 1]

    await asyncio.gather(*(call(f"first-{number}") for number in range(8)))
    again = []
    for number in range(8):
        again.append(asyncio.create_task(call(f"again-{number}")))
        await asyncio.sleep(0)
    await asyncio.gather(*again)
    assert batches[3:] == [8, 8]

    last = asyncio.create_task(call("last"))
    await asyncio.sleep(0)
    writer.close()  # Nobody else can come.
    await asyncio.gather(last, running)
    assert batches[5:] == [1]
    await store.close()


async def test_bug_callers_behind_a_report_that_failed_were_not_answered(tmp_path: Path) -> None:
    commands = Commands()
    store = SqliteEventStore(tmp_path / "log.db")
    await store.open()
    writer = Writer(commands.domain, store, CommandServerSettings.model_validate({}), lambda *_: None)
    failing, behind = commands.register("failing"), commands.register("behind")

    def fail() -> None:
        raise AssertionError("planted")

    failing.done = fail
    for submission in (failing, behind):
        writer.submit(submission)
    running = asyncio.create_task(writer.run())
    writer.close()
    await running
    assert commands.done_ids == ["behind"]
    failing, behind = commands.register("failing"), commands.register("behind")
    failing.done = fail
    writer = Writer(commands.domain, store, CommandServerSettings.model_validate({}), lambda *_: None)
    for submission in (failing, behind):
        writer.submit(submission)
    writer.give_up()
    assert commands.done_ids == ["behind", "behind"]
    await store.close()
