"""The writer when it is told to give up, and what it does not decide."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from command_server.dispatch import Caller, Dispatcher
from command_server.sqlite_store import SqliteEventStore
from command_server.submission import Submission
from command_server.writer import Writer
from diptych.domain import load
from diptych.settings import CommandServerSettings
from shop.v1.user_commands_pb2 import RegisterUserRequest


class Commands:
    """Commands of the shop on their way through a writer."""

    def __init__(self) -> None:
        self.domain = load("shop")
        self._dispatcher = Dispatcher(self.domain)
        self._method = self.domain.commands["shop.v1.RegisterUserRequest"]
        self.told: list[str] = []
        """The ids of the users whose commands have an outcome."""

    def register(self, user_id: str) -> Submission:
        command = RegisterUserRequest(user_id=user_id, email=f"{user_id}@example.com")
        made = self._dispatcher.submission(self._method, command, Caller(request_id=user_id))
        made.done = lambda: self.told.append(user_id)
        return made


async def test_giving_up_tells_everybody_at_once_and_nobody_twice(tmp_path: Path) -> None:
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
    assert commands.told == ["queued", "taken"]
    assert taken.lost is not None
    assert (taken.lost.reason, queued.refusal and queued.refusal.reason) == ("OUTCOME_UNKNOWN", "LOG_UNAVAILABLE")
    await running
    assert (commands.told, store.head) == (["queued", "taken"], 1)

    writer = Writer(commands.domain, store, CommandServerSettings.model_validate({}), lambda *_: None)
    gone.abandoned = True
    late.deadline = asyncio.get_running_loop().time()
    for one in (gone, late):
        writer.submit(one)
    writer.close()
    await writer.run()
    assert store.head == 1, "nothing was decided for nobody"
    assert late.refusal is not None
    assert late.refusal.reason == "COMMAND_NOT_IN_TIME"
    await store.close()
