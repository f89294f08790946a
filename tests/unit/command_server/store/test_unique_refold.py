"""Unique values are folded again when the code that makes them has changed, before a command is accepted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from google.protobuf.message import Message

from command_server.server import bootstrap
from command_server.store.unique_refold import Refolded
from diptych.cli.unique_values import rebuild_uniques
from diptych.domain.aggregate import UniqueBinding
from diptych.domain.refusal import Refusal
from diptych.server.dsn import sqlite_dsn
from diptych.server.errors import StartError
from diptych.server.health import Health
from diptych.server.settings import CommandServerSettings
from diptych.server.supervise import TaskSupervisor
from diptych.storage.connections import open_read_only
from shop.users import UserState, user
from tests.support.batch_desk import Desk, email, register

EMAIL, USERNAME = user.uniques


def use(monkeypatch: pytest.MonkeyPatch, value: Callable[[UserState], str | None], version: int = 0) -> None:
    """Replace the function of the unique email."""
    monkeypatch.setattr(user, "uniques", [UniqueBinding("email", value, EMAIL.taken, version), USERNAME])


async def refold(desk: Desk, *, everything: bool = False) -> list[Refolded]:
    aggregates = list(desk.domain.domain.aggregates.values())
    return [one for one in await desk.store.refold_uniques(aggregates, everything=everything) if one.names]


def holders(folder: Path) -> dict[str, str]:
    connection = open_read_only(folder / "log.db")
    rows = connection.execute("SELECT key, holder FROM unique_values WHERE key LIKE 'user.email:%'").fetchall()
    connection.close()
    return dict(rows)


def snapshots(folder: Path) -> int:
    connection = open_read_only(folder / "log.db")
    ((count,),) = connection.execute("SELECT count(*) FROM snapshots")
    connection.close()
    return int(count)


def as_written(state: UserState) -> str:
    return state.email


def in_lower_case(state: UserState) -> str:
    return state.email.lower()


async def start(folder: Path) -> None:
    """Start a command server on the log, and stop it."""
    settings = CommandServerSettings.model_validate(
        {"log": sqlite_dsn(folder / "log.db"), "domain": "shop", "address": "127.0.0.1:0"}
    )
    async with TaskSupervisor() as tasks:
        parts = await bootstrap(settings, Health("127.0.0.1:1"), tasks)
        await parts.drain()
        await parts.close()


async def test_bug_a_changed_unique_function_gave_an_email_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, as_written)
    async with Desk(tmp_path) as desk:
        await refold(desk)
        await desk.batch(register("u1", "Ada@Example.com"))
    use(monkeypatch, in_lower_case)
    await start(tmp_path)
    assert holders(tmp_path) == {"user.email:ada@example.com": "user/u1"}
    async with Desk(tmp_path) as desk:
        (refused,) = await desk.batch(register("u2", "ada@example.com"))
        assert isinstance(refused, Refusal)
        assert refused.reason == "EMAIL_TAKEN"
        await desk.batch(email("u1", "new@example.com"))
    assert holders(tmp_path) == {"user.email:new@example.com": "user/u1"}, "the value was released"


async def test_conflicts_by_the_new_function_refuse_the_start_and_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, as_written)
    async with Desk(tmp_path) as desk:
        await refold(desk)
        for number, address in enumerate(("Ada@example.com", "ada@example.com", "Eve@example.com")):
            await desk.batch(register(f"u{number}", address))
    before = holders(tmp_path)
    use(monkeypatch, in_lower_case)
    with pytest.raises(StartError, match=r"user\.email 'ada@example\.com' belongs to user/u0 and to user/u1"):
        await start(tmp_path)
    assert holders(tmp_path) == before
    use(monkeypatch, as_written)
    await start(tmp_path)
    assert holders(tmp_path) == before


async def test_unchanged_functions_are_not_folded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Desk(tmp_path) as desk:
        assert await refold(desk), "a log without digests is folded once"
        assert await refold(desk) == []
        await desk.batch(register("u1"), register("u2"))
        assert await refold(desk, everything=True) == [Refolded(("user.email", "user.username"), 2, 2)]
        use(monkeypatch, in_lower_case)
        assert await refold(desk) == [Refolded(("user.email",), 2, 2)]


async def test_a_declared_version_decides_in_place_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Desk(tmp_path) as desk:
        use(monkeypatch, as_written, version=1)
        await refold(desk)
        use(monkeypatch, in_lower_case, version=1)
        assert await refold(desk) == []
        use(monkeypatch, in_lower_case, version=2)
        assert [one.names for one in await refold(desk)] == [("user.email",)]


async def test_a_changed_evolver_folds_unique_values_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Desk(tmp_path) as desk:
        await refold(desk)
        name, (kind, evolve) = next(iter(user.evolvers.items()))

        def other(state: UserState, event: Message) -> UserState:
            evolved: UserState = evolve(state, event)
            return evolved

        monkeypatch.setitem(user.evolvers, name, (kind, other))
        assert [one.names for one in await refold(desk)] == [("user.email", "user.username")]


async def test_values_that_are_no_longer_declared_are_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Desk(tmp_path) as desk:
        await refold(desk)
        await desk.batch(register("u1"))
        with monkeypatch.context() as patch:
            patch.setattr(user, "uniques", [USERNAME])
            await refold(desk)
            assert holders(tmp_path) == {}
        await refold(desk)
        assert holders(tmp_path) == {"user.email:u1@example.com": "user/u1"}


async def test_snapshots_of_changed_code_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Desk(tmp_path, snapshot_events=10) as desk:
        await refold(desk)
        await desk.batch(register("u1"), *(email("u1", f"{n}@example.com") for n in range(12)))
        assert snapshots(tmp_path) == 1
        use(monkeypatch, in_lower_case)
        await refold(desk)
        assert snapshots(tmp_path) == 0
    assert holders(tmp_path) == {"user.email:11@example.com": "user/u1"}


async def test_rebuild_uniques_folds_all_values_offline_and_refuses_beside_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def rebuild(name: str) -> int:
        try:
            await asyncio.to_thread(rebuild_uniques, tmp_path / name, "shop")
        except typer.Exit as ended:
            return ended.exit_code
        return 0

    async with Desk(tmp_path) as desk:
        await desk.batch(register("u1"), register("u2"))
        assert await rebuild("log.db") == 1
        assert "Stop the command server" in capsys.readouterr().err
    assert await rebuild("log.db") == 0
    assert "user.email, user.username: 2 values of 2 aggregates" in capsys.readouterr().out
    use(monkeypatch, lambda state: "same")
    assert await rebuild("log.db") == 1
    assert "user.email 'same' belongs to user/u1 and to user/u2" in capsys.readouterr().err
    assert await rebuild("none.db") == 1
    assert "There is no log" in capsys.readouterr().err
    assert not (tmp_path / "none.db").exists()
