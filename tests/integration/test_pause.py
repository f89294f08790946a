"""Pause and resume of a projection with real processes: what each server reports, and for how long."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from google.type.money_pb2 import Money
from grpc_health.v1 import health_pb2, health_pb2_grpc

from diptych.client import CallRefused, Connection, open_channel
from diptych.contract.token import Token
from diptych.v1 import projections_pb2 as states
from diptych.v1 import projections_pb2_grpc, read_model_pb2, read_model_pb2_grpc
from diptych.v1.read_model_pb2 import WaitOutcome
from shop.v1.product_commands_pb2 import CreateProductRequest
from shop.v1.product_queries_pb2 import GetProductRequest
from shop.v1.user_commands_pb2 import RegisterUserRequest
from shop.v1.user_queries_pb2 import GetUserRequest
from tests.support.pair import Pair
from tests.support.polling import eventually
from tests.support.programs import ROOT

LONG = 60.0
"""Time limit of a call, in seconds, that only a call that waits would reach."""

AT_ONCE = 10.0
"""Limit in seconds on an answer that waits for nothing, on the slowest machine."""


PRICE = Money(currency_code="GBP", units=3)


class Operator:
    """Operator's client of the projector and the query server."""

    def __init__(self, pair: Pair, projector: grpc.aio.Channel, query: grpc.aio.Channel) -> None:
        self.pair = pair
        self.projections = projections_pb2_grpc.ProjectionServiceStub(projector)
        self._read_model = read_model_pb2_grpc.ReadModelServiceStub(query)
        self._health: dict[str, Any] = {
            "projector": health_pb2_grpc.HealthStub(projector),
            "query": health_pb2_grpc.HealthStub(query),
        }

    async def pause(self, name: str) -> states.ProjectionStatus:
        paused: states.ProjectionStatus = (await self.projections.Pause(states.PauseRequest(projection=name))).status
        return paused

    async def resume(self, name: str) -> states.ProjectionStatus:
        """Resume a projection, and wait until the query server reports it."""
        resumed: states.ProjectionStatus = (await self.projections.Resume(states.ResumeRequest(projection=name))).status
        await self.until(name, states.PROJECTION_STATE_RUNNING, states.PROJECTION_STATE_CATCHING_UP)
        return resumed

    async def listed(self, name: str) -> states.ProjectionStatus:
        """Return the projection's status at the projector."""
        answer = await self.projections.ListProjections(states.ListProjectionsRequest(), wait_for_ready=True)
        found: states.ProjectionStatus
        (found,) = [projection for projection in answer.projections if projection.name == name]
        return found

    async def at_query_server(self, name: str) -> states.ProjectionStatus:
        """Return the projection's status at the query server."""
        answer = await self._read_model.GetStatus(read_model_pb2.GetStatusRequest(), wait_for_ready=True)
        found: states.ProjectionStatus
        (found,) = [projection for projection in answer.projections if projection.name == name]
        return found

    async def until(self, name: str, *expected: states.ProjectionState) -> states.ProjectionStatus:
        """Return the projection's status at the query server once it is in one of these states."""

        async def met() -> Any:
            status = await self.at_query_server(name)
            return status if status.state in expected else None

        found: states.ProjectionStatus = await eventually(met)
        return found

    async def serving(self, server: str, name: str) -> bool:
        """Return True if a server reports the projection as SERVING."""
        request = health_pb2.HealthCheckRequest(service=name)
        answer = await self._health[server].Check(request)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@asynccontextmanager
async def operator_of(pair: Pair) -> AsyncIterator[Operator]:
    async with open_channel(pair.projector.address) as projector, open_channel(pair.query.address) as query:
        yield Operator(pair, projector, query)


@pytest.fixture
async def operator(pair: Pair) -> AsyncIterator[Operator]:
    async with operator_of(pair) as operator:
        yield operator


async def register(shop: Connection, user_id: str) -> str:
    """Register a user; return the token."""
    answer = await shop.execute(RegisterUserRequest(user_id=user_id, email=f"{user_id}@example.com"))
    token: str = answer.result.token
    return token


async def user(shop: Connection, user_id: str, token: str | None = None, **more: Any) -> str:
    """Read a user's email."""
    found = await shop.query(GetUserRequest(user_id=user_id, **more), token=token, timeout_seconds=LONG)
    email: str = found.email
    return email


async def refusal(call: Any) -> CallRefused:
    """Return the refusal of a call, which must come at once."""
    began = time.monotonic()
    with pytest.raises(CallRefused) as refused:
        await call
    assert time.monotonic() - began < AT_ONCE
    return refused.value


async def test_a_paused_projection_never_answers_stale_and_goes_on_when_resumed(
    shop: Connection, operator: Operator
) -> None:
    ada = await register(shop, "ada")
    assert await user(shop, "ada", ada) == "ada@example.com"

    paused = await operator.pause("users")
    assert (paused.name, paused.state, paused.progress.applied_position) == ("users", states.PROJECTION_STATE_PAUSED, 1)
    lin = await register(shop, "lin")

    refused = await refusal(user(shop, "lin", lin))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "READ_MODEL_PAUSED")
    assert refused.metadata == {"projection": "users", "applied_position": "1", "wanted_position": "2"}
    assert refused.message == "Projection users is paused at position 1, before 2."
    assert refused.token == lin
    refused = await refusal(user(shop, "lin", consistency={"max_staleness": {}}))
    assert (refused.reason, refused.metadata["wanted_position"]) == ("READ_MODEL_PAUSED", "2")
    waited = await shop.wait_for(lin, "users", timeout_seconds=LONG)
    assert (waited.outcome, waited.projection) == (WaitOutcome.WAIT_OUTCOME_PAUSED, "users")
    assert (waited.progress.applied_position, waited.progress.lag_events) == (1, 1)
    assert (await shop.wait_for(lin, timeout_seconds=LONG)).outcome == WaitOutcome.WAIT_OUTCOME_PAUSED

    # What is there can be read, and other projections go on.
    assert await user(shop, "ada", ada) == "ada@example.com"
    assert await user(shop, "ada") == "ada@example.com"
    assert (await refusal(user(shop, "lin"))).reason == "USER_NOT_FOUND"
    tea = await shop.execute(CreateProductRequest(product_id="tea", name="Tea", price=PRICE))
    assert (await shop.query(GetProductRequest(product_id="tea"), token=tea.result.token)).name == "Tea"
    assert (await operator.listed("users")).progress.applied_position == 1

    await operator.resume("users")
    assert await user(shop, "lin", lin) == "lin@example.com"
    assert (await shop.wait_for(lin, timeout_seconds=LONG)).outcome == WaitOutcome.WAIT_OUTCOME_REACHED


async def barrier(shop: Connection, applied: Token) -> None:
    """Wait until a wait and a read, sent after all calls so far, are answered. Calls without an answer are waiting."""
    assert (await shop.wait_for(str(applied), "users")).outcome == WaitOutcome.WAIT_OUTCOME_REACHED
    assert await user(shop, "ada", str(applied)) == "ada@example.com"


async def test_open_waits_end_at_once_when_the_projection_is_paused(
    pair: Pair, shop: Connection, operator: Operator
) -> None:
    token = Token.parse(await register(shop, "ada"))
    assert await user(shop, "ada", str(token)) == "ada@example.com"
    later = str(Token(token.log_id, token.epoch, token.position + 1))
    pair.command.kill()  # So that no server can report that there is no such position yet.
    waiting = asyncio.create_task(shop.wait_for(later, "users", timeout_seconds=LONG))
    reading = asyncio.create_task(user(shop, "ada", later))
    await barrier(shop, token)
    assert not waiting.done()
    assert not reading.done()

    await operator.pause("users")

    assert (await refusal(reading)).reason == "READ_MODEL_PAUSED"
    async with asyncio.timeout(AT_ONCE):
        assert (await waiting).outcome == WaitOutcome.WAIT_OUTCOME_PAUSED

    await operator.resume("users")
    waiting = asyncio.create_task(shop.wait_for(later, "users", timeout_seconds=LONG))
    await barrier(shop, token)
    assert not waiting.done(), "it waits again"
    await pair.command.restart()
    await register(shop, "lin")
    assert (await waiting).outcome == WaitOutcome.WAIT_OUTCOME_REACHED


async def test_every_server_reports_a_paused_projection(shop: Connection, operator: Operator) -> None:
    async def health(name: str) -> tuple[bool, bool]:
        service = f"diptych.projection.{name}"
        return await operator.serving("projector", service), await operator.serving("query", service)

    async def healthy() -> Any:
        return await health("users") == (True, True) and await health("products") == (True, True)

    async def ill() -> Any:
        return await health("users") == (False, False)

    await eventually(healthy)
    first = await operator.pause("users")
    await eventually(ill)
    assert await health("products") == (True, True)
    assert await operator.serving("query", "shop.v1.QueryService")
    assert await operator.serving("projector", "")
    status = await operator.until("users", states.PROJECTION_STATE_PAUSED)
    assert (status.reason, status.HasField("stalled_event")) == ("", False)
    assert (await operator.listed("users")).state == states.PROJECTION_STATE_PAUSED
    assert (await operator.at_query_server("products")).state == states.PROJECTION_STATE_RUNNING
    assert "PAUSED" in operator.pair.projector.logged()

    assert (await operator.pause("users")).progress.applied_position == first.progress.applied_position
    await operator.resume("users")
    await eventually(healthy)
    assert (await operator.resume("users")).state == states.PROJECTION_STATE_RUNNING


async def test_a_pause_outlives_every_process(pair: Pair, shop: Connection, operator: Operator) -> None:
    ada = await register(shop, "ada")
    assert await user(shop, "ada", ada) == "ada@example.com"
    await operator.pause("users")
    pair.projector.kill()
    lin = await register(shop, "lin")

    # A query server without a feed finds it in the store.
    await pair.query.restart()
    await operator.until("users", states.PROJECTION_STATE_PAUSED)
    refused = await refusal(user(shop, "lin", lin))
    assert (refused.reason, refused.metadata["applied_position"]) == ("READ_MODEL_PAUSED", "1")
    assert await user(shop, "ada", ada) == "ada@example.com"
    assert (await operator.at_query_server("products")).state == states.PROJECTION_STATE_UNSPECIFIED

    await pair.projector.restart()
    listed = await operator.listed("users")
    assert (listed.state, listed.progress.applied_position) == (states.PROJECTION_STATE_PAUSED, 1)
    assert not await operator.serving("projector", "diptych.projection.users")
    assert (await shop.wait_for(lin, "products", timeout_seconds=LONG)).outcome == WaitOutcome.WAIT_OUTCOME_REACHED
    assert (await refusal(user(shop, "lin", lin))).reason == "READ_MODEL_PAUSED"
    await operator.resume("users")
    assert await user(shop, "lin", lin) == "lin@example.com"

    await pair.projector.restart()
    await operator.until("users", states.PROJECTION_STATE_RUNNING)


async def test_no_event_is_applied_after_a_pause_and_none_is_lost(
    pair: Pair, shop: Connection, operator: Operator
) -> None:
    """The projection stands still after each pause, and is complete at the end."""
    tokens: list[str] = []

    async def write() -> None:
        async with shop.command_stream() as stream:
            for number in range(150):
                users = [f"user-{number}-{each}" for each in range(5)]
                commands = [RegisterUserRequest(user_id=name, email=f"{name}@example.com") for name in users]
                outcomes = await (await stream.submit(commands))
                tokens.extend(outcome.token for outcome in outcomes if not isinstance(outcome, CallRefused))

    writing = asyncio.create_task(write())
    while not writing.done():
        paused = await operator.pause("users")
        assert paused.state == states.PROJECTION_STATE_PAUSED
        await asyncio.wait((writing,), timeout=0.05)
        listed = await operator.listed("users")
        assert listed.progress.applied_position == paused.progress.applied_position
        await operator.projections.Resume(states.ResumeRequest(projection="users"))
        await asyncio.wait((writing,), timeout=0.02)
    await writing
    await operator.until("users", states.PROJECTION_STATE_RUNNING)
    assert len(tokens) == 750
    assert (await shop.wait_for(max(tokens), timeout_seconds=LONG)).outcome == WaitOutcome.WAIT_OUTCOME_REACHED
    assert await user(shop, "user-149-4", max(tokens)) == "user-149-4@example.com"
    assert pair.projector.running


async def test_pausing_an_unknown_projection_is_refused(operator: Operator) -> None:
    for call, request in (
        (operator.projections.Pause, states.PauseRequest(projection="nobody")),
        (operator.projections.Resume, states.ResumeRequest(projection="nobody")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call(request)
        refused = CallRefused.of(error.value)
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "PROJECTION_NOT_FOUND")
        assert refused.metadata == {"projection": "nobody"}


async def diptych(*arguments: str) -> tuple[int, str, str]:
    """Run the command line to its end; return exit status, stdout and stderr."""
    command = [sys.executable, "-m", "diptych.cli", *arguments]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


async def test_the_command_line_pauses_and_resumes(pair: Pair, shop: Connection, operator: Operator) -> None:
    ada = await register(shop, "ada")
    assert await user(shop, "ada", ada) == "ada@example.com"
    projector = f"--projector={pair.projector.address}"

    assert await diptych("pause", "users", projector) == (
        0,
        "projection users is PAUSED at position 1 (up to date)\n",
        "",
    )
    await operator.until("users", states.PROJECTION_STATE_PAUSED)
    status, out, _ = await diptych("status", f"--query={pair.query.address}", f"--commands={pair.command.address}")
    assert status == 0, "a pause is no problem"
    assert [line.split()[1] for line in out.splitlines() if line.startswith("users ")] == ["PAUSED"]
    assert "users: paused by an operator; `diptych resume users` lets it go on" in out

    status, out, err = await diptych("resume", "users", projector)
    assert (status, err) == (0, "")
    assert out.startswith(("projection users is CATCHING_UP at ", "projection users is RUNNING at "))
    await operator.until("users", states.PROJECTION_STATE_RUNNING)

    status, out, err = await diptych("pause", "nobody", projector)
    assert (status, out) == (1, "")
    assert "NOT_FOUND PROJECTION_NOT_FOUND: There is no projection 'nobody'." in err
    pair.projector.kill()
    status, out, err = await diptych("resume", "users", projector)
    assert (status, out) == (1, "")
    assert f"the projector at {pair.projector.address} did not answer: UNAVAILABLE" in err
    assert "Traceback" not in err
