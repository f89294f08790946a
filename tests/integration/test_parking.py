"""Parked streams with real processes: what each server reports, and how operators end them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from diptych.client import CallRefused, Connection
from diptych.domain.aggregate import AggregateRef
from diptych.v1 import projections_pb2 as states
from diptych.v1.read_model_pb2 import ResetReason, WaitOutcome, WatchResponse
from library.v1.command_service_pb2 import (
    AddCopyRequest,
    BorrowCopyRequest,
    RegisterMemberRequest,
    ReturnCopyRequest,
)
from library.v1.query_service_pb2 import (
    GetMemberRequest,
    GetOpenLoanRequest,
    ListMembersRequest,
)
from library.v1.resources_pb2 import OpenLoan
from tests.integration.test_pause import Operator, operator_of
from tests.support.pair import Pair, started_pair
from tests.support.polling import eventually
from tests.support.programs import ROOT, Program

LONG = 60.0
"""Time limit of a call, in seconds, that only a call that waits would reach."""

AT_ONCE = 30.0
"""Limit in seconds on an answer that waits for nothing, on the slowest machine."""


class Library:
    """A running library whose read model fails at chosen aggregates."""

    def __init__(self, pair: Pair, client: Connection, operator: Operator, broken: Path) -> None:
        self.pair = pair
        self.client = client
        self.operator = operator
        self._broken = broken

    def breaks(self, *ids: str) -> None:
        """Make the projection `lending` fail at events of these aggregates from now on."""
        self._broken.write_text("\n".join(ids))

    async def do(self, command: Any) -> str:
        """Execute a command; return its token."""
        token: str = (await self.client.execute(command)).result.token
        return token

    async def stock(self, *copies: str) -> None:
        """Register ada and lin, and add copies."""
        for member in ("ada", "lin"):
            await self.do(RegisterMemberRequest(member_id=member, email=f"{member}@example.com", name=member))
        for copy in copies:
            await self.do(AddCopyRequest(copy_id=copy, title="A title"))

    async def borrow(self, copy: str, member: str = "ada") -> str:
        return await self.do(BorrowCopyRequest(copy_id=copy, member_id=member))

    async def loan(self, loan_id: str, token: str) -> OpenLoan:
        found: OpenLoan = await self.client.query(
            GetOpenLoanRequest(loan_id=loan_id), token=token, timeout_seconds=LONG
        )
        return found

    async def open_loans(self, member: str, token: str) -> int:
        found = await self.client.query(GetMemberRequest(member_id=member), token=token, timeout_seconds=LONG)
        count: int = found.open_loans
        return count

    async def outcome(self, token: str, view: str = "") -> tuple[WaitOutcome, str]:
        """Return the outcome of a wait for a token, and its projection."""
        waited = await self.client.wait_for(token, view, timeout_seconds=LONG)
        return waited.outcome, waited.projection

    async def parked(self, count: int) -> list[states.ParkedStream]:
        """Return the parked streams as soon as there are `count`."""

        async def there() -> Any:
            request = states.ListParkedRequest(projection="lending")
            found = list((await self.operator.projections.ListParked(request, wait_for_ready=True)).parked)
            return [found] if len(found) == count else None

        found: list[list[states.ParkedStream]] = await eventually(there, seconds=60)
        return found[0]


@pytest.fixture
def brittle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Pair, Path]]:
    broken = tmp_path / "broken"
    monkeypatch.setenv("BRITTLE_FILE", str(broken))
    with started_pair(tmp_path / "data", "brittle.library") as pair:
        yield pair, broken


@pytest.fixture
async def library(brittle: tuple[Pair, Path]) -> AsyncIterator[Library]:
    pair, broken = brittle
    async with pair.connect() as client, operator_of(pair) as operator:
        yield Library(pair, client, operator, broken)


async def refusal(call: Any) -> CallRefused:
    """Return the refusal of a call, which must come at once."""
    began = time.monotonic()
    with pytest.raises(CallRefused) as refused:
        await call
    assert time.monotonic() - began < AT_ONCE
    return refused.value


async def diptych(*arguments: str) -> tuple[int, str, str]:
    """Run the command line to its end; return exit status, stdout and stderr."""
    command = [sys.executable, "-m", "diptych.cli", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "library_domain")}  # Where the contracts are.
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=90
    )
    return done.returncode, done.stdout, done.stderr


COPY = AggregateRef("copy", "c1")
PARKED = WaitOutcome.WAIT_OUTCOME_PARKED
REACHED = WaitOutcome.WAIT_OUTCOME_REACHED


async def test_parked_rows_are_refused_and_all_others_are_served(library: Library) -> None:
    await library.stock("c1", "c2")
    library.breaks("c1")
    borrowed = await library.borrow("c1")
    refused = await refusal(library.loan("c1.1", borrowed))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "READ_MODEL_PARKED")
    assert refused.metadata["projection"] == "lending"
    assert refused.metadata["position"] == "5"
    assert "Broken: events of copy/c1 break this fold" in refused.message
    assert refused.token == borrowed
    listing = library.client.query(ListMembersRequest(), token=borrowed, timeout_seconds=LONG)
    assert (await refusal(listing)).reason == "READ_MODEL_PARKED"

    # What follows in its stream is parked, too, and nothing else.
    library.breaks()
    returned = await library.do(ReturnCopyRequest(copy_id="c1"))
    other = await library.borrow("c2", "lin")
    assert (await library.loan("c2.1", other)).member_id == "lin"
    assert await library.open_loans("lin", other) == 1
    assert await library.open_loans("ada", other) == 0
    for token in (borrowed, returned):
        assert (await refusal(library.open_loans("ada", token))).reason == "READ_MODEL_PARKED"
        assert await library.outcome(token, "open_loans") == (PARKED, "lending")
        assert await library.outcome(token) == (PARKED, "lending")
        assert await library.outcome(token, "loan_days") == (REACHED, "activity")
    assert await library.outcome(other) == (REACHED, "activity")
    version = await library.client.wait_for(view="members", aggregate=COPY, version=3, timeout_seconds=LONG)
    assert version.outcome == PARKED
    # An earlier token of the same stream, from before it was parked.
    before = await library.client.wait_for(view="members", aggregate=COPY, version=1, timeout_seconds=LONG)
    assert before.outcome == REACHED
    assert (await refusal(library.client.query(GetOpenLoanRequest(loan_id="c1.1")))).reason == "ROW_NOT_FOUND"

    status = await library.operator.until("lending", states.PROJECTION_STATE_RUNNING)
    assert (status.parked_streams, status.left_out_events, status.reason) == (1, 2, "")
    assert await library.operator.serving("query", "diptych.projection.lending")
    assert await library.operator.serving("projector", "diptych.projection.lending")

    # All that stays so when every process is killed and started again; also for a query server without a feed.
    library.pair.projector.kill()
    await library.pair.query.restart()
    assert (await refusal(library.loan("c1.1", borrowed))).reason == "READ_MODEL_PARKED"
    assert await library.open_loans("lin", other) == 1
    assert (await library.operator.at_query_server("lending")).parked_streams == 1
    await library.pair.projector.restart()
    (stream,) = await library.parked(1)
    assert (stream.aggregate.type, stream.aggregate.id, stream.first_position, stream.events) == (*COPY, 5, 2)
    later = await library.borrow("c1", "lin")
    assert await library.outcome(later, "members") == (PARKED, "lending")
    assert (await library.parked(1))[0].events == 3


async def frames_until(frames: AsyncIterator[WatchResponse], last: str) -> list[WatchResponse]:
    """Return the frames up to the first of this kind."""
    found = []
    async with asyncio.timeout(LONG):
        async for frame in frames:
            found.append(frame)
            if frame.WhichOneof("frame") == last:
                return found
    raise AssertionError(f"the watch ended before {last}")


async def test_refolded_rows_are_read_and_watched(library: Library) -> None:
    await library.stock("c1", "c2")
    library.breaks("c1")
    first = await library.borrow("c1")
    other = await library.borrow("c2", "lin")
    assert await library.outcome(first, "open_loans") == (PARKED, "lending")
    assert (await library.loan("c2.1", other)).member_id == "lin"
    assert await library.open_loans("ada", other) == 0
    frames = library.client.watch("open_loans")
    snapshot = await frames_until(frames, "caught_up")
    assert [row.key for frame in snapshot for row in frame.rows.rows] == ["c2.1"]
    resume_token = snapshot[-1].resume_token

    projector = f"--projector={library.pair.projector.address}"
    status, out, err = await diptych("parked", "list", projector, "--trace")
    assert (status, err) == (0, "")
    assert out.startswith("lending: copy/c1, 1 event from position 5 left out, parked 20")
    assert "Event 5 (library.v1.CopyBorrowed of copy/c1) failed in view open_loans, row c1.1: Broken: events" in out
    assert '"loanId": "c1.1"' in out
    assert "Traceback" in out
    status, out, err = await diptych("parked", "retry", "lending", "copy/c1", projector)
    assert (status, out) == (1, "")
    assert "FAILED_PRECONDITION STILL_PARKED: copy/c1 stays parked in projection lending, as its event 5" in err

    library.breaks()
    assert await diptych("parked", "retry", "lending", "copy/c1", projector) == (
        0,
        "copy/c1 goes on in projection lending: 1 event is folded in place\n",
        "",
    )
    assert (await library.loan("c1.1", first)).email == "ada@example.com"
    assert await library.open_loans("ada", first) == 1
    assert await library.outcome(first) == (REACHED, "activity")

    # Rows have changed before the place that watches have reached: they begin anew.
    assert (await frames_until(frames, "reset"))[-1].reset.reason == ResetReason.RESET_REASON_GENERATION
    anew = await frames_until(frames, "caught_up")
    assert [row.key for frame in anew for row in frame.rows.rows] == ["c1.1", "c2.1"]
    resumed = library.client.watch("open_loans", resume_token=resume_token)
    assert (await frames_until(resumed, "caught_up"))[0].HasField("reset")
    last = await library.do(ReturnCopyRequest(copy_id="c1"))
    gone = (await frames_until(frames, "rows"))[-1].rows.rows[0]
    assert (gone.key, gone.HasField("deleted")) == ("c1.1", True)
    assert await library.open_loans("ada", last) == 0
    status, out, err = await diptych("parked", "retry", "lending", "copy/c1", projector)
    assert (status, "NOT_FOUND PARKED_NOT_FOUND" in err) == (1, True)
    assert (await diptych("parked", "list", projector))[1] == (
        "Nothing is parked in any projection. Give --discarded to list discarded streams.\n"
    )


async def test_an_entangled_stream_is_refolded_by_a_new_generation(library: Library) -> None:
    await library.stock("c1", "c2")
    library.breaks("c1")
    first = await library.borrow("c1")
    second = await library.borrow("c2")
    assert await library.outcome(first, "members") == (PARKED, "lending")
    assert await library.open_loans("ada", second) == 1
    library.breaks()
    projector = f"--projector={library.pair.projector.address}"
    status, out, err = await diptych("parked", "retry", "lending", "--all", projector)
    assert (status, err) == (0, "")
    assert out == (
        "Event 6 of copy/c2, which was folded since, touched row ada of view members, as what is parked does. "
        "So projection lending is rebuilt: it folds everything anew.\n"
    )

    async def folded() -> Any:
        return await library.outcome(first) == (REACHED, "activity")

    await eventually(folded, seconds=60)
    assert (await library.loan("c1.1", first)).email == "ada@example.com"
    assert await library.open_loans("ada", second) == 2
    assert await library.parked(0) == []
    await library.operator.until("lending", states.PROJECTION_STATE_RUNNING)
    assert (await library.operator.at_query_server("lending")).generation == 2


async def test_a_discarded_stream_goes_on(library: Library) -> None:
    await library.stock("c1")
    library.breaks("c1")
    first = await library.borrow("c1")
    assert await library.outcome(first, "members") == (PARKED, "lending")
    library.breaks()
    projector = f"--projector={library.pair.projector.address}"
    assert await diptych("parked", "discard", "lending", "copy/c1", projector) == (
        0,
        (
            "copy/c1 goes on in projection lending: 1 event stays left out. `diptych parked list lending --discarded` "
            "lists them; `diptych rebuild lending` folds them again.\n"
        ),
        "",
    )
    assert await library.outcome(first, "members") == (PARKED, "lending"), "it is still left out"
    returned = await library.do(ReturnCopyRequest(copy_id="c1"))
    assert await library.open_loans("ada", returned) == -1, "which the discarded event would have balanced"
    status, out, _ = await diptych("parked", "list", "lending", projector, "--json", "--discarded")
    (line,) = [json.loads(line) for line in out.splitlines()]
    assert (status, line["aggregate"], line["events"]) == (0, {"type": "copy", "id": "c1"}, "1")
    assert line["discardTime"]
    assert line["event"]["event"]["loanId"] == "c1.1"
    status, _, err = await diptych("parked", "discard", "lending", "nonsense", projector)
    assert (status, "give TYPE/ID, such as user/ada" in err) == (2, True)


async def test_exactly_the_failing_streams_are_parked_after_kills(library: Library) -> None:
    copies = [f"c{n}" for n in range(12)]
    broken = copies[1::3]
    await library.stock(*copies)
    library.breaks(*broken)
    for turn in range(3):
        last = ""
        for n, copy in enumerate(copies):
            command = BorrowCopyRequest(copy_id=copy, member_id="ada" if n % 2 else "lin")
            last = await library.do(command if turn % 2 == 0 else ReturnCopyRequest(copy_id=copy))
            if n == 4 * turn:
                await library.pair.projector.restart()
        await library.outcome(last, "members")
        if turn == 0:
            library.breaks()
    streams = await library.parked(len(broken))
    assert [stream.aggregate.id for stream in streams] == broken
    assert {stream.events for stream in streams} == {3}
    last = await library.do(AddCopyRequest(copy_id="last", title="A title"))
    for parity, member in ((1, "ada"), (0, "lin")):
        lent = sum(n % 2 == parity and copy not in broken for n, copy in enumerate(copies))
        assert await library.open_loans(member, last) == lent


async def test_status_says_which_server_does_not_answer(library: Library) -> None:
    await library.stock("c1")
    library.breaks("c1")
    assert await library.outcome(await library.borrow("c1"), "members") == (PARKED, "lending")
    pair = library.pair
    addresses = (
        *(f"--query={pair.query.address}", f"--projector={pair.projector.address}"),
        f"--commands={pair.command.address}",
    )
    await library.operator.until("activity", states.PROJECTION_STATE_RUNNING)
    status, out, err = await diptych("status", *addresses)
    assert (status, err) == (1, "")
    (line,) = [line.split() for line in out.splitlines() if line.startswith("lending ")]
    assert (line[1], line[-1]) == ("RUNNING", "1")
    assert "lending: 1 stream is parked, and 1 event left out; `diptych parked list lending` shows why" in out

    arguments = ["-m", "diptych.cli", "status", "--watch", "--every=0.1", "--json", *addresses]
    watching = Program(arguments, log=library.pair.data / "watching.log")
    watching.spawn()

    def states_of(line: str) -> dict[str, str]:
        return {projection["name"]: projection["state"] for projection in json.loads(line)["projections"]}

    await asyncio.to_thread(watching.wait_for_line, lambda line: "lending" in states_of(line))
    library.pair.command.kill()
    library.pair.projector.kill()
    await asyncio.to_thread(
        watching.wait_for_line, lambda line: states_of(line)["lending"] == "PROJECTION_STATE_UNSPECIFIED", 60
    )
    assert states_of(watching.lines[0])["lending"] != "PROJECTION_STATE_UNSPECIFIED"
    assert watching.stop() == 0
    await library.operator.until("lending", states.PROJECTION_STATE_UNSPECIFIED)

    async def both_silent() -> Any:
        status, out, err = await diptych("status", *addresses)
        found = "The command server does not answer" in err and "The projector does not answer" in err
        return (status, out, err) if found else None

    told: tuple[int, str, str] = await eventually(both_silent, seconds=60)
    status, out, err = told
    assert (status, err.count(" s ago.")) == (1, 2)
    (line,) = [line.split() for line in out.splitlines() if line.startswith("lending ")]
    assert (line[1], line[-1]) == ("UNKNOWN", "1")

    await library.pair.projector.restart()
    library.pair.query.kill()
    status, out, err = await diptych("status", *addresses)
    assert (status, f"The query server at {library.pair.query.address} did not answer" in err) == (1, True)
    (line,) = [line.split() for line in out.splitlines() if line.startswith("lending ")]
    assert line[-1] == "1", "by the projector"
    status, out, _ = await diptych("status", "--json", *addresses)
    answer = json.loads(out)
    assert (status, list(answer["silent"]), len(answer["projections"])) == (1, ["query-server", "command-server"], 2)
