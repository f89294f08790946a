"""Backup and restore with real processes: answers of each server, projection and client afterwards."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from google.type.money_pb2 import Money

from diptych.client import CallRefused, Connection, open_channel
from diptych.contract.token import TOKEN_KEY, Token
from diptych.v1 import events_pb2, events_pb2_grpc, projections_pb2_grpc, read_model_pb2, read_model_pb2_grpc
from diptych.v1 import projections_pb2 as states
from diptych.v1.commands_pb2 import AggregateRef, CommandResult
from diptych.v1.read_model_pb2 import WaitOutcome
from shop.v1.product_commands_pb2 import CreateProductRequest
from shop.v1.product_queries_pb2 import GetProductRequest
from shop.v1.user_commands_pb2 import RegisterUserRequest
from shop.v1.user_queries_pb2 import GetUserRequest
from tests.support.pair import Pair
from tests.support.polling import eventually
from tests.support.programs import ROOT

LONG = 60.0


async def diptych(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "diptych.cli", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LONG,
    )


def user(number: int) -> RegisterUserRequest:
    return RegisterUserRequest(user_id=f"user-{number}", email=f"user-{number}@example.com")


async def register(shop: Connection, *numbers: int) -> list[Any]:
    """Register users, each under a request id of its own; return the results."""
    return [(await shop.execute(user(number), request_id=f"register-{number}")).result for number in numbers]


async def projection(pair: Pair, name: str) -> states.ProjectionStatus:
    async with open_channel(pair.projector.address) as channel:
        stub = projections_pb2_grpc.ProjectionServiceStub(channel)
        found = await stub.ListProjections(states.ListProjectionsRequest(), timeout=LONG)
    status: states.ProjectionStatus = next(one for one in found.projections if one.name == name)
    return status


async def applied(pair: Pair, position: int) -> None:
    """Wait until every projection has applied a position and stored it."""

    async def there() -> bool:
        found = [await projection(pair, name) for name in ("analytics", "orders", "products", "users")]
        return all(one.progress.applied_position >= position for one in found)

    await until(there)


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    """Return a condition's value as soon as it is true."""
    found: Any = await eventually(condition, seconds=LONG)
    return found


async def refused(call: Any) -> CallRefused:
    """Return the refusal that a call ends with."""
    try:
        await call
    except CallRefused as refusal:
        return refusal
    except grpc.aio.AioRpcError as error:
        return CallRefused.of(error)
    raise AssertionError("it was not refused")


async def first_frame(pair: Pair, request: events_pb2.SubscribeRequest) -> Any:
    async with open_channel(pair.command.address) as channel:
        return await anext(aiter(events_pb2_grpc.EventServiceStub(channel).Subscribe(request, timeout=LONG)))


async def wait_for(pair: Pair, view: str, token: str) -> read_model_pb2.WaitForVersionResponse:
    async with open_channel(pair.query.address) as channel:
        stub = read_model_pb2_grpc.ReadModelServiceStub(channel)
        answer: read_model_pb2.WaitForVersionResponse = await stub.WaitForVersion(
            read_model_pb2.WaitForVersionRequest(view=view, token=token), timeout=LONG
        )
        return answer


async def restored(pair: Pair, backup: Path) -> str:
    """Restore the log under its stopped server, and start the server; return the command's output."""
    assert pair.command.stop() == 0
    done = await diptych("restore", str(backup), f"--log=sqlite:///{pair.data / 'log.db'}", "--force")
    assert done.returncode == 0, done.stderr
    await asyncio.to_thread(pair.command.start)
    return done.stdout


class Restored(NamedTuple):
    """A pair whose log was restored: positions 1 to 3 are those of the backup, 4 to 7 are lost."""

    pair: Pair
    shop: Connection
    before: CommandResult
    """Result at position 3."""
    lost: CommandResult
    """Result at position 7."""


async def test_a_restore_refuses_what_is_lost_and_goes_on_with_what_is_kept(pair: Pair, tmp_path: Path) -> None:
    async with pair.connect() as shop:
        now = await restored_after_more_writes(pair, shop, tmp_path / "backup.db")
        await check_projection_beyond_the_backup_stalls(now)
        await check_lost_tokens_are_refused(now)
        await check_kept_tokens_are_good(now)
        heir = await check_request_ids_and_unique_values_are_those_of_the_backup(now)
        await check_diverged_rows_are_not_read_at_new_positions(now, heir)
        await check_projection_before_the_backup_goes_on(now, heir)
        await check_rebuild_fills_a_diverged_projection(now, heir)


async def restored_after_more_writes(pair: Pair, shop: Connection, backup: Path) -> Restored:
    """Back up three events, record four more, and restore; projection `products` is paused before the backup."""
    log = f"--log=sqlite:///{pair.data / 'log.db'}"
    tea = CreateProductRequest(
        product_id="tea", name="Tea", category="drinks", price=Money(currency_code="GBP", units=3)
    )
    await shop.execute(tea)
    before = (await register(shop, 1, 2))[-1]
    await applied(pair, 3)
    await steer(pair, lambda stub: stub.Pause(states.PauseRequest(projection="products"), timeout=LONG))

    done = await diptych("backup", log, f"--to={backup}")
    assert done.returncode == 0, done.stderr
    assert "up to position 3, in epoch 1" in done.stdout
    assert "Copying the log: done" in done.stderr

    lost = (await register(shop, 3, 4, 5, 6))[-1]
    assert (await wait_for(pair, "users", lost.token)).outcome == WaitOutcome.WAIT_OUTCOME_REACHED
    running = await diptych("restore", str(backup), log, "--force")
    assert (running.returncode, running.stdout) == (1, "")
    assert f"address={pair.command.address}" in running.stderr

    output = await restored(pair, backup)
    assert "restored up to position 3; epoch 2 begins at 4. 4 later events" in output
    return Restored(pair, shop, before, lost)


async def check_projection_beyond_the_backup_stalls(now: Restored) -> None:
    """Check that a projection beyond the backup names the cause and mixes no other user into its rows."""

    async def stalled() -> Any:
        status = await projection(now.pair, "users")
        return status if status.state == states.PROJECTION_STATE_STALLED else None

    status = await until(stalled)
    assert status.reason.startswith("LOG_DIVERGED: at position 7 ")
    assert "`diptych rebuild users` fills it anew" in status.reason


async def check_lost_tokens_are_refused(now: Restored) -> None:
    """Check that every rpc that takes tokens refuses a lost one by name, and sends none back."""
    pair, shop, lost = now.pair, now.shop, now.lost
    async with open_channel(pair.query.address) as query:
        read_model = read_model_pb2_grpc.ReadModelServiceStub(query)
        waiting = read_model_pb2.WaitForVersionRequest(view="users", token=lost.token)
        watching = read_model_pb2.WatchVersionRequest(view="users", token=lost.token)

        async def has_new_epoch() -> bool:
            status = await read_model.GetStatus(read_model_pb2.GetStatusRequest(), timeout=LONG)
            return bool(status.epoch == 2)

        await until(has_new_epoch)
        for call in (
            shop.query(GetUserRequest(user_id="user-1"), token=lost.token),
            shop.query(GetProductRequest(product_id="tea"), token=lost.token),
            read_model.WaitForVersion(waiting, timeout=LONG),
            anext(aiter(read_model.WatchVersion(watching, timeout=LONG))),
            first_frame(pair, events_pb2.SubscribeRequest(token=lost.token)),
        ):
            refusal = await refused(call)
            assert refusal.reason == "TOKEN_OF_OLDER_EPOCH", refusal
            assert refusal.metadata["first_position"] == "4"
            assert refusal.token < lost.token, "a lost token is not sent back"
    async with open_channel(pair.command.address) as commands:
        user_1 = events_pb2.ReadStreamRequest(aggregate=AggregateRef(type="user", id="user-1"))
        stream = events_pb2_grpc.EventServiceStub(commands).ReadStream(user_1, metadata=((TOKEN_KEY, lost.token),))
        trailers = dict(await stream.trailing_metadata())
        assert trailers[TOKEN_KEY] == now.before.token, "a lost token is not sent back"
    ahead = await refused(first_frame(pair, events_pb2.SubscribeRequest(position=7)))
    assert (ahead.code, ahead.reason) == (grpc.StatusCode.OUT_OF_RANGE, "TOKEN_AHEAD_OF_LOG")


async def check_kept_tokens_are_good(now: Restored) -> None:
    """Check that tokens of the backup are accepted by reads and subscriptions."""
    answer = await now.shop.query(GetUserRequest(user_id="user-2"), token=now.before.token)
    assert answer.user_id == "user-2"
    second = str(Token.parse(now.before.token)._replace(position=2))
    frame = await first_frame(now.pair, events_pb2.SubscribeRequest(token=second))
    assert [one.position for one in frame.batch.events] == [3]


async def check_request_ids_and_unique_values_are_those_of_the_backup(now: Restored) -> CommandResult:
    """Check duplicates and unique emails; return the result of the first command after the restore."""
    (again,) = await register(now.shop, 2)
    assert (again.duplicate, again.token) == (True, now.before.token)
    taken = RegisterUserRequest(user_id="another", email="user-2@example.com")
    assert (await refused(now.shop.execute(taken))).reason == "EMAIL_TAKEN"
    free = RegisterUserRequest(user_id="heir", email="user-5@example.com")
    heir: CommandResult = (await now.shop.execute(free, request_id="register-5")).result
    assert (heir.duplicate, heir.version, Token.parse(heir.token)[1:]) == (False, 1, (2, 4))
    assert heir.token > now.lost.token
    return heir


async def check_diverged_rows_are_not_read_at_new_positions(now: Restored, heir: CommandResult) -> None:
    """Check that a diverged projection, which passed the new position long ago, does not answer at it."""
    refusal = await refused(now.shop.query(GetUserRequest(user_id="heir"), token=heir.token))
    assert refusal.reason == "READ_MODEL_STALLED", refusal
    assert (await wait_for(now.pair, "users", heir.token)).outcome == WaitOutcome.WAIT_OUTCOME_STALLED


async def check_projection_before_the_backup_goes_on(now: Restored, heir: CommandResult) -> None:
    """Check that a projection that had not passed the backup needs no operator."""
    await steer(now.pair, lambda stub: stub.Resume(states.ResumeRequest(projection="products"), timeout=LONG))
    assert (await wait_for(now.pair, "products", heir.token)).outcome == WaitOutcome.WAIT_OUTCOME_REACHED


async def check_rebuild_fills_a_diverged_projection(now: Restored, heir: CommandResult) -> None:
    """Check that the remedy in the reason brings back the rows of this log and no others."""
    done = await diptych("rebuild", "users", f"--projector={now.pair.projector.address}")
    assert done.returncode == 0, done.stderr

    async def row() -> Any:
        try:
            return await now.shop.query(GetUserRequest(user_id="heir"), token=heir.token)
        except CallRefused:  # Until the query server has the new generation.
            return None

    assert (await until(row)).email == "user-5@example.com"
    absent = await refused(now.shop.query(GetUserRequest(user_id="user-5"), token=heir.token))
    assert absent.reason == "USER_NOT_FOUND"


async def steer(pair: Pair, call: Callable[[projections_pb2_grpc.ProjectionServiceStub], Awaitable[Any]]) -> None:
    """Call the projector as an operator does."""
    async with open_channel(pair.projector.address) as channel:
        await call(projections_pb2_grpc.ProjectionServiceStub(channel))


async def test_a_reader_is_refused_once_when_its_token_is_lost(pair: Pair, tmp_path: Path) -> None:
    async with pair.connect(read_your_writes=True) as shop:
        await register(shop, 1)
        await diptych("backup", f"--log=sqlite:///{pair.data / 'log.db'}", f"--to={tmp_path / 'backup.db'}")
        await register(shop, 2)
        assert (await shop.query(GetUserRequest(user_id="user-2"))).user_id == "user-2"
        await restored(pair, tmp_path / "backup.db")

        async def is_refused() -> bool:
            try:
                await shop.query(GetUserRequest(user_id="user-1"))
            except CallRefused as error:
                # Until the query server receives the new epoch it accepts the token.
                return error.reason == "TOKEN_OF_OLDER_EPOCH"
            return False

        await until(is_refused)
        assert (await shop.query(GetUserRequest(user_id="user-1"))).user_id == "user-1"
        assert shop.token != ""


async def test_a_command_server_accepts_commands_during_a_backup(pair: Pair, tmp_path: Path) -> None:
    """Each backup is a complete log that a server can start on."""
    stop = asyncio.Event()
    recorded = 0

    async def write(shop: Connection) -> None:
        nonlocal recorded
        while not stop.is_set():
            await asyncio.gather(*(shop.execute(user(recorded + number)) for number in range(50)))
            recorded += 50

    async with pair.connect() as shop:
        writing = asyncio.create_task(write(shop))
        try:
            await eventually(lambda: recorded >= 200, seconds=LONG)
            before = recorded
            for number in range(3):
                done = await diptych(
                    "backup", f"--log=sqlite:///{pair.data / 'log.db'}", f"--to={tmp_path / f'{number}.db'}"
                )
                assert done.returncode == 0, done.stderr
            assert recorded > before
        finally:
            stop.set()
            await writing
    for number in range(3):
        target = tmp_path / f"restored-{number}" / "log.db"
        done = await diptych("restore", str(tmp_path / f"{number}.db"), f"--log=sqlite:///{target}")
        assert done.returncode == 0, done.stderr
        assert "epoch 2 begins" in done.stdout
        assert "\nNext: start the command server, and look at the projections with `diptych status`." in done.stdout


async def test_the_command_line_says_what_is_wrong(tmp_path: Path) -> None:
    absent = await diptych("backup", f"--log=sqlite:///{tmp_path / 'absent.db'}", f"--to={tmp_path / 'b.db'}")
    assert (absent.returncode, absent.stdout) == (1, "")
    assert absent.stderr == f"diptych backup: There is no log {tmp_path / 'absent.db'}.\n"
    elsewhere = await diptych("restore", str(tmp_path / "b.db"), "--log=postgresql://host/log")
    assert elsewhere.returncode == 2
    assert "--log: postgresql is not served" in elsewhere.stderr
