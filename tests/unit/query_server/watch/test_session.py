"""Watch sessions on a real store: snapshots, catching up, the hub, resets and limits."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from diptych.contract.reasons import (
    InvalidRequest,
    Overloaded,
    QueryServerStopping,
    ReadModelNotReady,
    ResumeTokenExpired,
    ResumeTokenMalformed,
    RowTooLarge,
    UnknownView,
)
from diptych.v1.read_model_pb2 import ResetReason
from query_server.watch import hub as watch_hub
from query_server.watch.resume_token import ResumeToken, watched
from tests.support.notes import Archived, Erased, Note, Noted, Tagged
from tests.support.polling import eventually
from tests.support.watch_stage import Client, Cut, Gate, Server, Stage, quiet

GENERATION = ResetReason.RESET_REASON_GENERATION
OVERFLOW = ResetReason.RESET_REASON_OVERFLOW


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = await Stage(tmp_path / "read.db").open()
    yield stage
    await stage.close()


@pytest.fixture
async def server(stage: Stage) -> AsyncIterator[Server]:
    server = Server(stage, rows_max=4)
    yield server
    await server.stop()


def note(key: str, text: str = "") -> Any:
    return Noted(key=key, text=text or f"{key}'s text")


def rows(client: Client, kind: str = "rows") -> list[tuple[str, int, bool]]:
    """The rows that a client received: key, position, True if the row exists."""
    return [(r.key, r.position, r.HasField("row")) for f in client.frames for r in f.rows.rows]


def kinds(client: Client) -> list[str]:
    return [str(frame.WhichOneof("frame")) for frame in client.frames]


async def following(server: Server, *args: Any, **kwargs: Any) -> Client:
    """A client that takes all it is sent, and has caught up."""
    client = Client(server, *args, **kwargs)
    client.take()
    await quiet([client])
    return client


async def test_rows_as_they_stand_then_every_change(stage: Stage, server: Server) -> None:
    await stage.put(note("b"), note("a"), note("c"), Erased(key="c"))
    client = await following(server)
    assert rows(client) == [("a", 2, True), ("b", 1, True)]
    assert kinds(client)[-1] == "caught_up"
    await stage.put(note("b", "new"), Erased(key="a"), note("d"))
    server.hear()
    await quiet([client])
    assert rows(client)[2:] == [("b", 5, True), ("a", 6, False), ("d", 7, True)]
    assert client.position == 7
    assert client.state == client.view_at(7)


async def test_an_empty_view_is_caught_up_at_once(server: Server) -> None:
    client = await following(server)
    assert kinds(client) == ["caught_up"]
    assert client.cuts


async def test_keys_that_are_absent_send_nothing_until_they_are_there(stage: Stage, server: Server) -> None:
    await stage.put(note("a"), note("b"), note("gone"), Erased(key="gone"))
    client = await following(server, keys=["a", "x", "gone", "nul\0", "a"])
    assert rows(client) == [("a", 1, True)]
    await stage.put(note("b", "not mine"), note("x"))
    server.hear()
    await quiet([client])
    assert rows(client)[1:] == [("x", 6, True)]


async def test_rows_that_change_while_a_snapshot_is_paged_follow_it(stage: Stage, server: Server) -> None:
    await stage.put(*(note(f"k{n}") for n in range(8)))
    client = Client(server)  # It has the first page, of two rows.
    await quiet([client])
    assert rows(client) == [("k0", 1, True), ("k1", 2, True)]
    await stage.put(note("k0", "new"), Erased(key="k1"), note("k5", "new"), Erased(key="k6"), note("k9"))
    server.hear()
    client.take()
    await quiet([client])
    assert rows(client)[2:] == [
        *(("k2", 3, True), ("k3", 4, True), ("k4", 5, True), ("k7", 8, True)),
        *(("k0", 9, True), ("k1", 10, False), ("k5", 11, True), ("k6", 12, False), ("k9", 13, True)),
    ]
    assert kinds(client)[-1] == "caught_up"
    assert client.position == 13


async def test_what_changes_no_row_moves_the_cut(stage: Stage, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_hub, "PROGRESS_SECONDS", 0.05)
    await stage.put(note("a"))
    client = await following(server)
    reads = server.watches.reader.reads
    await stage.put(Archived(key="a"), Archived(key="a"))
    server.hear()
    await eventually(lambda: client.position >= 3)
    assert kinds(client)[-1] == "progress"
    assert client.frames[-1].progress.position == 3
    assert stage.writer.stored.position < 3, "only the feed says so"
    assert server.watches.reader.reads == reads, "and nobody need ask the store"
    await stage.put(note("a"))  # The row's bytes are the same; it changes a row of the other view.
    server.hear()
    await eventually(lambda: client.position >= 4)
    assert rows(client) == [("a", 1, True)]


async def test_a_silent_watch_gives_a_sign_of_life(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_hub, "PROGRESS_SECONDS", 0.01)
    monkeypatch.setattr(watch_hub, "HEARTBEAT_SECONDS", 0.05)
    client = await following(server)
    await eventually(lambda: kinds(client).count("progress") >= 2)


async def test_a_change_that_nobody_spoke_of_is_found(
    stage: Stage, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_hub, "POLL_SECONDS", 0.05)
    client = await following(server)
    await stage.put(note("a"))
    await eventually(lambda: client.position >= 1)
    assert rows(client) == [("a", 1, True)]


async def test_a_slow_watch_misses_states_in_between_and_never_the_last(stage: Stage, server: Server) -> None:
    await stage.put(note("a"))
    slow, quick = Client(server), await following(server)
    slow.take(1)
    await quiet([slow])
    for number in range(20):
        await stage.put(note("a", str(number)))
        server.hear()
        await quiet([quick])
    slow.take()
    await quiet([slow])
    assert len(rows(quick)) == 21
    assert rows(slow)[-1] == ("a", 21, True)
    assert len(rows(slow)) < 5
    assert not slow.resets


async def test_a_watch_that_is_too_slow_begins_anew_and_slows_nobody(stage: Stage, server: Server) -> None:
    slow, quick = Client(server), await following(server)
    slow.take(1)
    await quiet([slow])
    for number in range(8):
        await stage.put(note(f"k{number}"))
        server.hear()
        await quiet([quick])
    assert len(rows(quick)) == 8
    slow.take()
    await quiet([slow])
    assert slow.resets == [OVERFLOW]
    assert slow.state == quick.state == slow.view_at(8)
    assert not quick.resets
    assert server.watches.overflows == 1


async def test_many_changes_at_once_reach_whoever_takes_them(stage: Stage, server: Server) -> None:
    client = await following(server)
    await stage.put(*(note(f"k{n:03}") for n in range(200)))  # A buffer holds four.
    server.hear()
    await quiet([client])
    assert len(client.state) == 200
    assert not client.resets
    assert [cut.position for cut in client.cuts] == [0, 200], "there is no cut in between"


async def test_many_rows_of_one_event_are_one_cut(stage: Stage, server: Server) -> None:
    client = await following(server, view="notes_tags")
    tags = [f"t{n:02}" for n in range(40)]
    await stage.put(note("a"), Tagged(key="a", tags=tags))
    server.hear()
    await quiet([client])
    assert {cut.position for cut in client.cuts} == {0, 2}
    assert {r[1] for r in rows(client) if r[0] != "all"} == {2}
    resumed = await following(server, view="notes_tags", start=client.cuts[0])
    assert resumed.state == client.state


# The seam: what is read is held back until something else has happened.


async def step(server: Server, *, live: int = 0, catch_up: int = 0) -> None:
    """Lets pages through, and waits until what follows from them has been read, and is held back in its turn."""
    server.let(live=live, catch_up=catch_up)
    calm = 0
    async with asyncio.timeout(10):
        while calm < 10:
            await asyncio.sleep(0.001)
            calm = (
                0
                if server.watches.reader.under_way or any(gate.letting for gate in server.gates.values())
                else calm + 1
            )


async def test_nothing_is_lost_or_doubled_between_the_store_and_the_hub(stage: Stage, server: Server) -> None:
    live = await following(server)
    server.hold(catch_up=True)
    client = Client(server)
    client.take()
    await step(server, catch_up=1)  # The snapshot, which is empty. The page of changes after it is empty, too.
    await stage.put(note("a"), note("b"), note("c"))
    server.hear()
    await quiet([live])
    await step(server, catch_up=1)  # It joins the hub, which has gone on, so that it reads once more: two of three.
    assert kinds(client) == ["caught_up"]
    await stage.put(note("d"))
    server.hear()
    await quiet([live])  # That is in its buffer now.
    await step(server, catch_up=1)
    assert rows(client) == [("a", 1, True), ("b", 2, True)]
    server.hold()
    await quiet([client, live])
    assert rows(client) == rows(live) == [("a", 1, True), ("b", 2, True), ("c", 3, True), ("d", 4, True)]


async def test_a_key_that_changes_once_more_while_it_is_resumed_comes_once(stage: Stage, server: Server) -> None:
    await stage.put(note("a"), note("b"))
    cut = (await following(server, keys=["a", "b"])).cuts[-1]
    await stage.put(note("a", "new"), note("b", "new"))
    server.hold(catch_up=True)
    client = Client(server, keys=["a", "b"], start=cut)
    client.take()
    await step(server)  # It knows which keys have changed, and not yet how.
    await stage.put(note("a", "newer"))
    server.hold()
    await quiet([client])
    assert rows(client) == [("b", 4, True), ("a", 5, True)]


async def test_who_comes_with_an_older_page_than_the_first_reads_once_more(stage: Stage, server: Server) -> None:
    """The first to join says where a hub begins. (The property test found this one.)"""
    server.hold(catch_up=True)
    late = Client(server)
    late.take()
    await step(server, catch_up=1)
    await stage.put(note("a"))
    gate, server.gates["watch-catch-up"] = server.gates["watch-catch-up"], Gate()
    first = await following(server)
    assert rows(first) == [("a", 1, True)]
    gate.set(held=False)
    await stage.put(note("b"))
    server.hear()
    await quiet([first, late])
    assert rows(late) == rows(first) == [("a", 1, True), ("b", 2, True)]


async def test_what_was_read_for_those_who_have_left_is_not_told_to_the_next(stage: Stage, server: Server) -> None:
    before = await following(server)
    server.hold(live=True)
    await stage.put(note("a"))
    server.hear()
    await step(server)  # The hub has read that, and is held back.
    await before.leave()
    await stage.put(note("a", "new"))
    client = Client(server)
    client.take()
    await step(server)
    await stage.put(note("b"))
    server.hold()
    server.hear()
    await quiet([client])
    assert rows(client) == [("a", 2, True), ("b", 3, True)]
    assert client.position == 3


async def test_a_watch_that_knows_more_than_the_store_does_not_lead_others_astray(stage: Stage) -> None:
    """A replica lags behind: a change that one watcher got elsewhere is still sent to the other."""
    await stage.put(note("a"))
    ahead = Server(stage)
    cut = (await following(ahead)).cuts[-1]
    await ahead.stop()
    server = Server(stage)
    known = ResumeToken.decode(cut.token, watched("notes", None))._replace(position=3)
    stage.record(note("b"), note("c"))
    cut = Cut(known.encode(watched("notes", None)).decode(), 3, stage.history["notes"][3])
    resumed, other = await following(server, start=cut), await following(server)
    await stage.fold()
    await stage.put(note("d"))
    server.hear()
    await quiet([resumed, other])
    assert rows(resumed) == [("d", 4, True)]
    assert rows(other) == [("a", 1, True), ("b", 2, True), ("c", 3, True), ("d", 4, True)]
    await server.stop()


async def test_it_is_resumed_on_another_server(stage: Stage, server: Server) -> None:
    await stage.put(note("a"), note("b"))
    client = await following(server)
    cut = client.cuts[-1]
    await client.leave()
    await stage.put(note("c"), Erased(key="a"), note("b", "new"))
    other = Server(stage)
    try:
        resumed = await following(other, start=cut)
        assert rows(resumed) == [("c", 3, True), ("a", 4, False), ("b", 5, True)]
        assert kinds(resumed) == ["rows", "caught_up"]
    finally:
        await other.stop()


async def test_few_keys_are_resumed_however_much_else_has_changed(stage: Stage, server: Server) -> None:
    await stage.put(note("a"), note("b"), note("c"))
    client = await following(server, keys=["a", "b", "c", "d"])
    cut = client.cuts[-1]
    await client.leave()
    await stage.put(*(note(f"other{n}") for n in range(100)))
    await stage.put(note("c", "new"), note("d"), Erased(key="a"))
    reads = server.watches.reader.reads
    resumed = await following(server, keys=["a", "b", "c", "d"], start=cut)
    assert rows(resumed) == [("c", 104, True), ("d", 105, True), ("a", 106, False)]
    assert server.watches.reader.reads - reads < 6


async def test_a_token_of_a_server_that_is_ahead_waits_for_the_store(stage: Stage, server: Server) -> None:
    """The other server was informed that nothing had changed; this one was not, and its store does not show it."""
    await stage.put(note("a"))
    client = await following(server)
    await stage.put(Archived(key="a"), Archived(key="a"))
    server.hear()
    cut = (await following(server)).cuts[-1]
    assert cut.position == 3
    assert stage.writer.stored.position == 1
    other = Server(stage)
    other.freshness.projections["notes"].progress.reset_feed_progress()
    try:
        resumed = await following(other, start=cut)
        assert kinds(resumed) == ["caught_up"]
        assert resumed.position == 3
        await stage.put(note("a", "new"))
        other.hear()
        await quiet([resumed, client])
        assert rows(resumed) == [("a", 4, True)]
    finally:
        await other.stop()


async def test_another_generation_is_a_reset_for_all(stage: Stage, server: Server) -> None:
    await stage.put(note("a"), note("b"), Erased(key="b"))
    live, paging = await following(server), Client(server)
    cut = live.cuts[-1]
    await quiet([paging])  # It has its first page.
    await stage.refill()
    server.hear()
    paging.take()
    await quiet([live, paging])
    resumed = await following(server, start=cut)
    for client in (live, paging, resumed):
        assert client.resets == [GENERATION]
        assert client.state == client.view_at(3)
        assert kinds(client)[-1] == "caught_up"
    await stage.put(note("c"))
    server.hear()
    await quiet([live, paging, resumed])
    assert all(client.position == 4 for client in (live, paging, resumed))


async def test_another_file_is_another_generation(tmp_path: Path) -> None:
    """A read store that was removed and filled anew has a generation of the same number."""
    before = await Stage(tmp_path / "read.db").open()
    server = Server(before)
    await before.put(note("a"))
    client = await following(server)
    await before.close()
    for file in tmp_path.glob("read.db*"):
        file.unlink()
    server.stage = after = await Stage(tmp_path / "read.db").open()
    await after.put(note("a"), note("b"))
    resumed = await following(server, start=client.cuts[-1])
    server.hear()
    await quiet([client])
    assert resumed.resets == client.resets == [GENERATION]
    assert client.state == resumed.state == client.view_at(2)
    await server.stop()
    await after.close()


async def test_a_cut_that_the_log_has_lost_is_a_reset(stage: Stage, server: Server) -> None:
    """A log that was restored has a new epoch, which wrote other events at positions that were sent."""
    await stage.put(note("a"))
    client = await following(server)
    await stage.put(Archived(key="a"))
    server.hear()
    lost = (await following(server)).cuts[-1]
    assert lost.position == 2
    connection = sqlite3.connect(stage.path)
    connection.execute("UPDATE diptych_generations SET epochs = ?", ("[[1, 1], [2, 2]]",))
    connection.commit()
    connection.close()
    assert (await following(server, start=lost)).resets == [GENERATION]
    assert not (await following(server, start=client.cuts[0])).resets


async def test_tombstones_go_when_they_are_old_and_older_tokens_with_them(stage: Stage, server: Server) -> None:
    await stage.put(note("a"), note("b"), note("c"))
    old = (await following(server)).cuts[-1]
    old_keys = (await following(server, keys=["a"])).cuts[-1]
    await stage.put(Erased(key="a"))
    good = (await following(server, keys=None)).cuts[-1]
    await stage.tombstones.purge()
    await stage.put(Erased(key="b"), note("c", "new"))
    stage.time += 1800
    assert await stage.tombstones.purge() == 0, "nothing is old enough"
    assert rows(await following(server, start=old))[0] == ("a", 4, False)
    stage.time += 1801
    assert await stage.tombstones.purge() == 1
    for keys, token in ((None, old), (["a"], old_keys)):
        expired = await following(server, keys=keys, start=token)
        assert expired.ended == ResumeTokenExpired(view="notes", position=3, oldest_position=4)
    assert rows(await following(server, start=good)) == [("b", 5, False), ("c", 6, True)]
    stage.time += 3601
    assert await stage.tombstones.purge() == 1
    assert stage.history["notes"][-1].keys() == {"c"}


async def test_a_live_watch_does_not_care_for_old_tombstones(stage: Stage, server: Server) -> None:
    client = await following(server)
    for number in range(5):
        await stage.put(note("a", str(number)), Erased(key="a"))
        server.hear()
        await quiet([client])
        stage.time += 4000
        await stage.tombstones.purge()
    assert not client.resets
    assert client.state == {}


async def test_a_watch_that_pages_past_its_tombstones_begins_anew(stage: Stage, server: Server) -> None:
    await stage.put(*(note(f"k{n}") for n in range(8)))
    client = Client(server)
    await quiet([client])
    await stage.put(Erased(key="k0"))
    await stage.tombstones.purge()
    stage.time += 4000
    await stage.put(note("k9"))
    assert await stage.tombstones.purge() == 1
    client.take()
    await quiet([client])
    assert client.resets == [OVERFLOW]
    assert client.state == client.view_at(10)


async def test_a_request_is_judged_before_anything_is_sent(stage: Stage, server: Server) -> None:
    client = await following(server)
    cut = client.cuts[-1]
    assert (await following(server, view="none")).ended == UnknownView(view="none")
    assert isinstance((await following(server, keys=[])).ended, InvalidRequest)
    assert isinstance((await following(server, keys=[str(n) for n in range(10_001)])).ended, InvalidRequest)
    for bad in (Cut("x", 0, {}), cut):
        assert (await following(server, keys=["a"], start=bad)).ended == ResumeTokenMalformed()
    assert server.watches.open == 1


async def test_a_store_that_is_not_there_is_told(stage: Stage, tmp_path: Path) -> None:
    server = Server(stage)
    stage.path.rename(tmp_path / "away.db")
    assert (await following(server)).ended == ReadModelNotReady(projection="notes")
    await server.stop()


async def test_there_is_a_limit_of_watches_and_of_keys(stage: Stage) -> None:
    server = Server(stage, watches_max=3, watched_keys_max=4)
    clients = [await following(server, keys=["a", "b", "c"]), await following(server)]
    assert (await following(server, keys=["a", "b"])).ended == Overloaded(what="watched keys", limit=4)
    clients.append(await following(server, keys=["a"]))
    refused = await following(server)
    assert refused.ended == Overloaded(what="watches", limit=3)
    await clients[0].leave()
    assert server.watches.open == 2
    assert (await following(server, keys=["x", "y", "z"])).ended is None
    await server.stop()


async def test_watches_end_when_the_server_stops(stage: Stage) -> None:
    server = Server(stage)
    await stage.put(*(note(f"k{n}") for n in range(8)))
    client = await following(server)
    await server.stop()
    await quiet([client])
    assert client.ended == QueryServerStopping(projection="notes")
    assert (await following(server)).ended == QueryServerStopping(projection="notes")
    assert server.watches.open == 0


async def test_rows_are_sent_as_they_are(stage: Stage, server: Server) -> None:
    await stage.put(note("ä", "ö" * 300), note("empty", "x"))
    client = await following(server)
    (row,) = [r for f in client.frames for r in f.rows.rows if r.key == "ä"]
    unpacked = Note()
    assert row.row.Unpack(unpacked)
    assert unpacked == Note(text="ö" * 300, edits=1)


async def test_bug_row_that_no_message_takes_was_sent_to_watches(stage: Stage) -> None:
    server = Server(stage, message_bytes_max=10_000)
    await stage.put(note("a"), note("large", "x" * 10_000))
    assert (await following(server)).ended == RowTooLarge(view="notes", key="large", limit=10_000)
    client = await following(server, keys=["a"])
    assert [row[0] for row in rows(client)] == ["a"]
    await server.stop()
