"""`diptych verify`: no finding for a running pair, and a finding for each kind of damage."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.type.money_pb2 import Money

from diptych.cli import main
from diptych.client import Connection
from diptych.contract.frames import recorded
from diptych.v1.events_pb2 import EventBatch, RecordedEvent
from diptych.v1.read_model_pb2 import WaitOutcome
from shop.v1.order_commands_pb2 import CancelOrderRequest, PlacedItem, PlaceOrderRequest
from shop.v1.product_commands_pb2 import AdjustStockRequest, CreateProductRequest, ReviewProductRequest
from shop.v1.user_commands_pb2 import DeactivateUserRequest, RegisterUserRequest, UpdateUserProfileRequest
from tests.support.pair import Pair, started_pair
from tests.support.polling import eventually
from tests.support.programs import ROOT
from tests.support.shop_processes import last

LONG = 60.0
EMAIL = FieldMask(paths=["email"])

Damage = Callable[[sqlite3.Connection], object]


async def fill(shop: Connection) -> str:
    """Record events of every kind; return the last token."""
    for name in ("ada", "bob", "eve"):
        command = RegisterUserRequest(user_id=name, email=f"{name}@example.com", username=name)
        await shop.execute(command, request_id=f"register-{name}")
    moved = UpdateUserProfileRequest(user_id="bob", email="robert@example.com", update_mask=EMAIL)
    await shop.execute(moved, request_id="move-bob")
    await shop.execute(DeactivateUserRequest(user_id="eve"), request_id="deactivate-eve")
    await shop.execute(DeactivateUserRequest(user_id="eve"), request_id="deactivate-eve-again")  # Records nothing.
    price = Money(currency_code="GBP", units=3)
    await shop.execute(CreateProductRequest(product_id="tea", name="Tea", price=price, stock=100))
    for number in range(25):  # Enough for snapshots.
        await shop.execute(AdjustStockRequest(product_id="tea", delta=1, reason=f"delivery {number}"))
    await shop.execute(ReviewProductRequest(product_id="tea", user_id="ada", rating=5))
    items = [PlacedItem(product_id="tea", quantity=2)]
    await shop.execute(PlaceOrderRequest(order_id="order-1", customer_id="ada", items=items), request_id="place")
    cancelled = await shop.execute(CancelOrderRequest(order_id="order-1", reason="too late"))
    shop.add_token(cancelled.result.token)
    await last(shop, "fulfilments", ["order-1"])  # Its process has recorded all that it will.
    return shop.token


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a stopped pair, to copy."""
    data = tmp_path_factory.mktemp("filled") / "data"

    async def record(pair: Pair) -> None:
        async with pair.connect() as shop:
            token = await fill(shop)
            answer = await shop.wait_for(token, timeout_seconds=LONG)
            assert answer.outcome == WaitOutcome.WAIT_OUTCOME_REACHED

    with started_pair(data, settings={"command-server": {"snapshot_events": 10}}) as pair:
        asyncio.run(record(pair))
        for server in (pair.query, pair.projector, pair.command):
            assert server.stop() == 0
    return data


def verify(data: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    """Run the command in this process; return its exit status and output."""
    files = f"--log=sqlite:///{data / 'log.db'}", f"--read-store=sqlite:///{data / 'read.db'}"
    status = main(["verify", *files, *arguments])
    return status, capsys.readouterr().out.splitlines()


def head(log: sqlite3.Connection) -> int:
    ((position,),) = log.execute("SELECT head FROM log")
    assert isinstance(position, int)
    return position


def edit(position: int, change: Callable[[RecordedEvent], object]) -> Damage:
    """Write an event's frame again with a change."""

    def damage(log: sqlite3.Connection) -> None:
        ((frame,),) = log.execute("SELECT frame FROM events WHERE position = ?", (position,))
        event = recorded(frame)
        change(event)
        frame = EventBatch(events=[event]).SerializeToString()
        log.execute("UPDATE events SET frame = ? WHERE position = ?", (frame, position))

    return damage


def run(*statements: str) -> Damage:
    return lambda connection: [connection.execute(statement) for statement in statements]


LOG: dict[str, tuple[Damage, str, str]] = {
    "a gap": (run("DELETE FROM events WHERE position = 9"), "LOG_GAP", "Position 9 is missing."),
    "a wide gap": (run("DELETE FROM events WHERE position IN (9, 10)"), "LOG_GAP", "Positions 9 to 10 are missing."),
    "a lost end": (lambda log: log.execute("DELETE FROM events WHERE position = ?", (head(log),)), "LOG_HEAD", "head"),
    "a head too far": (run("UPDATE log SET head = head + 1"), "LOG_GAP", "is missing"),
    "an epoch": (run("INSERT INTO epochs VALUES (2, 999)", "UPDATE log SET epoch = 2"), "LOG_EPOCHS", "begins at"),
    "a cut frame": (
        run("UPDATE events SET frame = substr(frame, 1, 20) WHERE position = 2"),
        "FRAME_MALFORMED",
        "position 2",
    ),
    "a doubled frame": (
        run("UPDATE events SET frame = CAST(frame || frame AS BLOB) WHERE position = 2"),
        "FRAME_MALFORMED",
        "position 2",
    ),
    "a frame's position": (edit(2, lambda event: setattr(event, "position", 3)), "FRAME_POSITION", "position is 3"),
    "a frame's version": (
        edit(2, lambda event: setattr(event, "version", 7)),
        "FRAME_VERSION",
        "version is 7, its row 1",
    ),
    "a frame's type": (
        edit(2, lambda event: setattr(event.event, "type_url", "type.googleapis.com/shop.v1.UserDeactivated")),
        "FRAME_TYPE",
        "shop.v1.UserDeactivated, its row a shop.v1.UserRegistered",
    ),
    "a frame's stream": (
        edit(4, lambda event: setattr(event.aggregate, "id", "ada")),
        "FRAME_STREAM",
        "it is of user/ada, its row that it is of user/bob",
    ),
    "an event's bytes": (
        edit(2, lambda event: setattr(event.event, "value", b"\xff")),
        "EVENT_MALFORMED",
        "no shop.v1.UserRegistered",
    ),
    "an event of no type": (
        lambda log: (
            edit(2, lambda event: setattr(event.event, "type_url", "x/shop.v1.Nothing"))(log),
            log.execute("UPDATE events SET type = 'shop.v1.Nothing' WHERE position = 2"),
        ),
        "EVENT_UNKNOWN",
        "shop.v1.Nothing, which the domain does not have",
    ),
    "a version": (
        run("UPDATE events SET version = 9 WHERE position = 4"),
        "STREAM_VERSIONS",
        "has version 9 of user/bob, and the one before, at position 2, has 1",
    ),
    "a stream's number": (
        run("UPDATE events SET stream = 777 WHERE position = 4"),
        "STREAM_VERSIONS",
        "its row says that the first is at 777",
    ),
    "a stream not listed": (run("DELETE FROM streams WHERE name = 'user/ada'"), "STREAM_MISSING", "user/ada"),
    "a stream too many": (run("INSERT INTO streams VALUES ('user/zoe', 99, 1, 99)"), "STREAM_EXTRA", "user/zoe"),
    "a stream's version": (
        run("UPDATE streams SET version = 1 WHERE name = 'user/bob'"),
        "STREAM_DIFFERENT",
        "user/bob is listed with first position, version and last position (2, 1, 4)",
    ),
    "a request that is nowhere": (
        run("UPDATE requests SET position = 99 WHERE key LIKE '%move-bob'"),
        "REQUEST_DANGLING",
        "move-bob stands for version 2 of user/bob at position 99",
    ),
    "a request of no version": (
        run("UPDATE requests SET version = 3 WHERE key LIKE '%move-bob'"),
        "REQUEST_DANGLING",
        "move-bob stands for version 3 of user/bob at position 4, which is not there",
    ),
    "a request that was forgotten": (
        run("DELETE FROM requests WHERE key LIKE '%move-bob'"),
        "REQUEST_FORGOTTEN",
        "under request id move-bob, which is not remembered",
    ),
    "a unique value not taken": (
        run("DELETE FROM unique_values WHERE key = 'user.email:robert@example.com'"),
        "UNIQUE_MISSING",
        "user/bob has user.email:robert@example.com",
    ),
    "a unique value not released": (
        run("INSERT INTO unique_values VALUES ('user.email:bob@example.com', 'user/bob')"),
        "UNIQUE_EXTRA",
        "taken by user/bob, which does not have it",
    ),
    "a unique value of another": (
        run("UPDATE unique_values SET holder = 'user/eve' WHERE key = 'user.username:ada'"),
        "UNIQUE_DIFFERENT",
        "user/ada has user.username:ada, which is taken by user/eve",
    ),
    "a snapshot": (
        run("UPDATE snapshots SET version = version - 1"),
        "SNAPSHOT_WRONG",
        "product/tea at version 19 is not the state",
    ),
    "a snapshot of the future": (run("UPDATE snapshots SET version = 99"), "SNAPSHOT_WRONG", "end with version"),
}


def view(name: str, statement: str) -> Damage:
    """Change the table of a view in its first generation."""
    return run(statement.format(table=f"{name}_g1"))


ROWS: dict[str, tuple[Damage, str, str]] = {
    "a row that is gone": (
        view("users", "DELETE FROM {table} WHERE key = 'ada'"),
        "ROW_MISSING",
        "Row ada of view users is missing",
    ),
    "a row that was deleted": (
        view("users", "UPDATE {table} SET row = NULL WHERE key = 'ada'"),
        "ROW_MISSING",
        "Row ada of view users is deleted",
    ),
    "a row that nobody made": (
        view("users", "INSERT INTO {table} SELECT 'zoe', position, row FROM {table} WHERE key = 'ada'"),
        "ROW_EXTRA",
        "Row zoe of view users is there, from position 1, and no event made it",
    ),
    "a row's bytes": (
        view("users", "UPDATE {table} SET row = (SELECT row FROM {table} WHERE key = 'eve') WHERE key = 'ada'"),
        "ROW_DIFFERENT",
        "Row ada of view users differs: the field(s) user_id, email, username",
    ),
    "a row that is no message": (
        view("users", "UPDATE {table} SET row = x'ff' WHERE key = 'ada'"),
        "ROW_DIFFERENT",
        "its bytes are no shop.v1.User",
    ),
    "a row's position": (
        view("users", "UPDATE {table} SET position = 7 WHERE key = 'ada'"),
        "ROW_DIFFERENT",
        "it says that it was changed last at position 7",
    ),
    "a row's column": (
        view("user_summaries", "UPDATE {table} SET email = 'x' WHERE key = 'ada'"),
        "ROW_DIFFERENT",
        "the column(s) email do not fit the row",
    ),
    "a table": (view("users", "DROP TABLE {table}"), "VIEW_MISSING", "View users has no table users_g1"),
    "a checkpoint": (
        run("UPDATE diptych_generations SET event_id = 'another' WHERE projection = 'users'"),
        "LOG_DIVERGED",
        "Projection users has applied event another",
    ),
    "another log": (
        run("UPDATE diptych_generations SET log_id = '0011223344556677' WHERE projection = 'users'"),
        "LOG_DIVERGED",
        "Projection users was filled from log 0011223344556677",
    ),
}


@pytest.fixture
def data(filled: Path, tmp_path: Path) -> Path:
    """Copies of the pair's files for one test, which may damage them."""
    copied = tmp_path / "data"
    copied.mkdir()
    for name in ("log.db", "read.db"):
        shutil.copy(filled / name, copied / name)
    return copied


def damage(file: Path, harm: Damage) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        harm(connection)


def test_verify_has_no_findings_for_intact_files(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, said = verify(data, capsys)
    assert (status, said[-1]) == (0, "nothing differs"), said
    recorded_head = head(sqlite3.connect(data / "log.db"))
    assert [line.split(",")[0] for line in said[:-1]] == [
        f"checked the log up to position {recorded_head}",
        "checked 7 streams",
        "checked projection analytics",
        "checked projection orders",
        "checked projection processes",
        "checked projection products",
        "checked projection users",
    ]


@pytest.mark.parametrize("what", LOG)
def test_damage_to_the_log_is_named(data: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    harm, kind, sentence = LOG[what]
    damage(data / "log.db", harm)
    status, said = verify(data, capsys)
    assert status == 1, said
    assert [line for line in said if line.startswith(f"{kind}: ") and sentence in line], said


@pytest.mark.parametrize("what", ROWS)
def test_damage_to_the_rows_is_named(data: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    harm, kind, sentence = ROWS[what]
    damage(data / "read.db", harm)
    status, said = verify(data, capsys)
    assert status == 1, said
    assert [line.split(":")[0] for line in said if not line.startswith("checked")] == [kind, "1 difference(s)"], said
    assert [line for line in said if line.startswith(f"{kind}: ") and sentence in line], said


def test_a_damaged_page_is_named(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (data / "log.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (data / "log.db").stat().st_size)
    status, said = verify(data, capsys)
    assert status == 1, said
    assert [line for line in said if line.startswith("FILE_DAMAGED: ")], said


def test_many_findings_are_counted_and_the_first_ones_are_shown(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(data / "log.db", run("UPDATE events SET frame = x'00' WHERE position > 4"))
    status, said = verify(data, capsys)
    assert status == 1
    assert len([line for line in said if line.startswith("FRAME_MALFORMED: ")]) == 21
    assert f"FRAME_MALFORMED: and {head(sqlite3.connect(data / 'log.db')) - 4 - 20} more" in said
    assert "NOT CHECKED: Projection users cannot be folded anew: an event of the log cannot be read." in said


def test_an_event_that_is_listed_as_parked_is_left_out(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The account that was deactivated last: as if that event had not been folded.
    ((position,),) = sqlite3.connect(data / "log.db").execute(
        "SELECT position FROM events WHERE type = 'shop.v1.UserDeactivated'"
    )
    damage(data / "read.db", run(f"INSERT INTO diptych_parked_events VALUES ('users', 1, {position}, {position})"))
    status, said = verify(data, capsys)
    assert status == 1
    assert [line for line in said if line.startswith("ROW_DIFFERENT: Row eve of view users differs")], said
    damage(data / "read.db", run("UPDATE diptych_parked_events SET generation = 2"))
    assert verify(data, capsys)[0] == 0


def test_verify_fails_when_a_part_cannot_be_checked(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(data / "read.db", run("UPDATE diptych_generations SET version = 99 WHERE projection = 'users'"))
    status, said = verify(data, capsys)
    assert status == 2
    assert said[-1].startswith("NOT CHECKED: Projection users is there in version 99, and the code has version ")

    damage(data / "read.db", run("UPDATE diptych_generations SET shape = 'x' WHERE projection = 'orders'"))
    _, said = verify(data, capsys)
    assert "NOT CHECKED: Projection orders was filled by code with other views, rows or columns." in said

    (data / "read.db").unlink()
    status, said = verify(data, capsys)
    assert (status, said[-1]) == (2, f"NOT CHECKED: There is no read store {data / 'read.db'}.")

    (data / "log.db").write_bytes(b"no database at all")
    status, said = verify(data, capsys)
    assert status == 2
    assert f"NOT CHECKED: {data / 'log.db'} is no SQLite file" in said[-1]

    (data / "log.db").unlink()
    assert verify(data, capsys)[0] == 2
    assert verify(data, capsys, "--domain=nosuchdomain")[0] == 2


async def test_a_running_pair_is_verified_under_load(pair: Pair) -> None:
    stop = asyncio.Event()
    recorded = 0

    async def write(shop: Connection) -> None:
        nonlocal recorded
        while not stop.is_set():
            names = [f"u{number}" for number in range(recorded, recorded + 50)]
            await asyncio.gather(
                *(
                    shop.execute(RegisterUserRequest(user_id=name, email=f"{name}@example.com"), request_id=name)
                    for name in names
                )
            )
            await asyncio.gather(
                *(shop.execute(DeactivateUserRequest(user_id=name)) for name in names[::2]),
                *(
                    shop.execute(UpdateUserProfileRequest(user_id=name, email=f"{name}@new.org", update_mask=EMAIL))
                    for name in names[1::2]
                ),
            )
            recorded += 50

    async with pair.connect() as shop:
        writing = asyncio.create_task(write(shop))
        try:
            for rounds in (1, 2, 3):
                await eventually(lambda rounds=rounds: recorded >= 100 * rounds, seconds=LONG)  # type: ignore[misc]
                files = f"--log=sqlite:///{pair.data / 'log.db'}", f"--read-store=sqlite:///{pair.data / 'read.db'}"
                done = await asyncio.to_thread(
                    subprocess.run,
                    [sys.executable, "-m", "diptych.cli", "verify", *files],
                    cwd=ROOT,
                    capture_output=True,
                    text=True,
                    timeout=LONG,
                )
                assert done.returncode == 0, done.stdout + done.stderr
                assert "Walking the log: done" in done.stderr
                assert done.stdout.endswith("nothing differs\n")
        finally:
            stop.set()
            await writing
