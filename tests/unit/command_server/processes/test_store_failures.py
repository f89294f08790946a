"""Commits that fail or hang under processes: no input is lost, and no healthy instance is parked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from command_server.store.event_store import CommitNotKnown, StoreUnavailable
from command_server.store.records import Committed, Decided, Loaded, Reads
from library.v1.command_service_pb2 import BorrowCopyRequest, ReturnCopyRequest
from tests.support.polling import eventually
from tests.support.process_stage import SECONDS, Mail, Stage, library, stage
from tests.support.reservations import NOTIFIED, READY, STARTED, fill, reserve


def _is_step(reads: Reads) -> bool:
    return any(key.startswith("\nstep\n") for key in reads.requests)


def _is_command(reads: Reads) -> bool:
    return any(key.startswith("\nprocess/") for key in reads.requests)


class HangingCommits:
    """Lets the commits of some batches hang until `end` is set, and then fail."""

    def __init__(self, on: Stage, applies: Callable[[Reads], bool]) -> None:
        self._commit, self._applies = on.store.commit, applies
        self.begun, self.end = asyncio.Event(), asyncio.Event()

    async def __call__(self, reads: Reads, decide: Callable[[Loaded], Decided]) -> Committed:
        if self._applies(reads):
            self.begun.set()
            await self.end.wait()
            raise StoreUnavailable("SQLITE_FULL: database or disk is full")
        return await self._commit(reads, decide)


@pytest.mark.parametrize("error", [CommitNotKnown, StoreUnavailable, RuntimeError])
async def test_bug_one_failed_commit_parked_every_instance_of_its_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    async with stage(tmp_path, library(Mail())) as on:
        await fill(on)
        commit, failures = on.store.commit, 0

        async def fail_once(reads: Reads, decide: Any) -> Committed:
            nonlocal failures
            if _is_step(reads) and not failures:
                failures += 1
                raise error("SQLITE_IOERR_FSYNC: disk I/O error")
            return await commit(reads, decide)

        monkeypatch.setattr(on.store, "commit", fail_once)
        await on.execute(reserve())
        await on.until("reservation/c1", *STARTED, *READY, *NOTIFIED)
        assert failures == 1
        assert await on.store.parked_inputs() == []


async def test_bug_input_was_lost_when_the_server_stopped_during_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark passed the event, though its step was never recorded."""
    async with stage(tmp_path, library(Mail())) as on:
        await fill(on)
        await on.execute(BorrowCopyRequest(copy_id="c1", member_id="m2"))
        await on.execute(reserve())
        await on.settled()
        hanging = HangingCommits(on, _is_step)
        monkeypatch.setattr(on.store, "commit", hanging)
        event = (await on.execute(ReturnCopyRequest(copy_id="c1"))).accepted
        assert event is not None
        await asyncio.wait_for(hanging.begun.wait(), SECONDS)
        on.writer.give_up()
        await on.host.close()
        hanging.end.set()
        assert (await on.store.process_marks())["reservation"] < event.position
    async with stage(tmp_path, library(Mail())) as on:
        await on.until("reservation/c1", *STARTED, "ProcessStepped", *READY, *NOTIFIED)


async def test_a_command_of_a_process_is_sent_again_after_a_stop_during_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage(tmp_path, library(Mail())) as on:
        await fill(on)
        hanging = HangingCommits(on, _is_command)
        monkeypatch.setattr(on.store, "commit", hanging)
        await on.execute(reserve())
        await asyncio.wait_for(hanging.begun.wait(), SECONDS)
        on.writer.give_up()
        await on.host.close()
        hanging.end.set()
    async with stage(tmp_path, library(Mail())) as on:
        await on.until("reservation/c1", *STARTED, *READY, *NOTIFIED)


async def test_a_retry_of_an_operator_is_answered_when_the_server_stops_during_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = "100%"
    async with stage(tmp_path, library(Mail())) as on:
        await fill(on, poison)
        await on.execute(reserve(poison))
        await eventually(lambda: on.host.queues.parked.counts["reservation"] == 1, seconds=SECONDS)
        monkeypatch.setenv("LIBRARY_FIXED", "1")
        hanging = HangingCommits(on, _is_step)
        monkeypatch.setattr(on.store, "commit", hanging)
        retry = asyncio.create_task(on.host.retry("reservation", poison))
        await asyncio.wait_for(hanging.begun.wait(), SECONDS)
        on.writer.give_up()
        with pytest.raises(Exception, match="outcome of the command is unknown"):
            await asyncio.wait_for(retry, SECONDS)
        hanging.end.set()
