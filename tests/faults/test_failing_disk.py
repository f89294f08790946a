"""Disk that fails to sync: no server may send an answer that can turn out false."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest

from command_server.dispatch import Caller, Dispatcher
from command_server.event_tail import EventTail
from command_server.store.sqlite_store import SqliteEventStore
from command_server.submission import Submission
from command_server.writer import Writer
from diptych.contract.reasons import LogUnavailable, OutcomeUnknown
from diptych.domain import loading as domains
from diptych.domain.refusal import Refusal, StatusCode
from diptych.server.settings import CommandServerSettings
from diptych.v1.commands_pb2 import CommandContext
from shop.v1.user_commands_pb2 import RegisterUserRequest
from tests.support.command_calls import Client, command_server, connected

pytestmark = pytest.mark.timeout(180)


def register(user_id: str) -> RegisterUserRequest:
    context = CommandContext(request_id=f"r-{user_id}")
    return RegisterUserRequest(context=context, user_id=user_id, email=f"{user_id}@example.com")


class Failing:
    """A connection whose next COMMIT fails with a disk error."""

    def __init__(self, connection: sqlite3.Connection, error: str) -> None:
        self._connection = connection
        self._error = error

    def execute(self, sql: str, *parameters: Any) -> Any:
        if sql == "COMMIT" and self._error:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorname, self._error = self._error, ""
            raise error
        return self._connection.execute(sql, *parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        ("SQLITE_IOERR_FSYNC", OutcomeUnknown),
        # These come before the last byte is written, without which nothing of a commit counts.
        ("SQLITE_IOERR_WRITE", LogUnavailable),
        ("SQLITE_FULL", LogUnavailable),
    ],
)
async def test_answers_on_a_failing_disk_are_true(tmp_path: Path, error: str, refusal: type[Refusal]) -> None:
    shop = domains.load("shop")
    store = SqliteEventStore(tmp_path / "log.db")
    await store.open()
    settings = CommandServerSettings.model_validate({})
    writer = Writer(shop, store, settings, EventTail(store, await store.head(), settings).publish)

    async def send(user_id: str) -> Submission:
        method = shop.commands["shop.v1.RegisterUserRequest"]
        submission = Dispatcher(shop).submission(method, register(user_id), Caller())
        await writer._commit([submission])
        return submission

    database = store._database
    database._writer = Failing(database._writer, error)  # type: ignore[assignment,arg-type]
    failed = await send("ada")
    assert isinstance(failed.refusal, refusal)
    assert failed.refusal.status == StatusCode.UNAVAILABLE
    assert getattr(failed.refusal, "request_id", "r-ada") == "r-ada"
    again = await send("ada")
    assert again.accepted is not None
    assert (again.accepted.version, again.accepted.position, again.accepted.duplicate) == (1, 1, False)
    await store.close()


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Path of a file. While it exists, the servers' disk fails."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to make a failing disk with")
    source, library = Path(__file__).with_name("failing_disk.c"), tmp_path / "failing_disk.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("FAILING_DISK", str(tmp_path / "fail"))
    return tmp_path / "fail"


async def test_bug_a_commit_that_was_not_synced_was_said_to_be_none_and_was_there_after_a_crash(
    tmp_path: Path, disk: Path
) -> None:
    """The command was refused with LOG_UNAVAILABLE, which means that nothing was recorded."""
    with command_server(tmp_path / "data") as server:
        async with connected(server) as client:
            await client.command(register("ada"))
            disk.touch()
            refused = await client.command(register("bob"))
            assert refused.reason == ("UNAVAILABLE", "diptych.v1", "OUTCOME_UNKNOWN")
            assert refused.metadata["request_id"] == "r-bob"
            server.kill()
            disk.unlink()
            await server.restart()
            await retried(client, duplicate=True)


async def test_a_commit_that_was_not_synced_is_void_after_a_later_commit(tmp_path: Path, disk: Path) -> None:
    with command_server(tmp_path / "data") as server:
        async with connected(server) as client:
            disk.touch()
            refused = await client.command(register("bob"))
            assert refused.reason == ("UNAVAILABLE", "diptych.v1", "OUTCOME_UNKNOWN")
            disk.unlink()
            await retried(client, duplicate=False)
            await server.restart()
            await retried(client, duplicate=True)


async def retried(client: Client, *, duplicate: bool) -> None:
    """A retry under the same request id returns the command's outcome."""
    answer = await client.command(register("bob"))
    assert (answer.result.version, answer.result.duplicate) == (1, duplicate)
