"""Marks: through which position a type of process has taken its inputs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command_server.processes.marks import Mark, Marks
from command_server.store.event_store import StoreUnavailable
from command_server.store.sqlite_store import SqliteEventStore


@given(st.lists(st.booleans(), max_size=12), st.randoms())
def test_a_mark_never_passes_an_event_that_is_not_finished(taken: list[bool], random: object) -> None:
    mark = Mark(0)
    begun = [position for position, one in enumerate(taken, 1) if one]
    for position in begun:
        mark.begin(position)
    mark.read_through(len(taken))
    finished: set[int] = set()
    order = list(begun)
    random.shuffle(order)  # type: ignore[attr-defined]
    for position in order:
        mark.finish(position)
        mark.finish(position)
        finished.add(position)
        open_ones = [one for one in begun if one not in finished]
        assert mark.position == (open_ones[0] - 1 if open_ones else len(taken))
        mark.finish(min(finished))
        assert all(one >= open_ones[0] for one in vars(mark)["_finished"] if open_ones), "passed events leave memory"


def test_a_mark_stays_when_the_log_is_read_from_an_earlier_position() -> None:
    mark = Mark(7)
    mark.read_through(3)
    assert mark.position == 7


async def test_marks_start_at_the_head_for_a_new_type_and_are_written_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteEventStore(tmp_path / "log.db")
    await store.open()
    await store.put_process_marks({"old": 3})
    marks = Marks(store)
    await marks.load(["old", "new"], 9)
    assert {name: mark.start for name, mark in marks.items()} == {"old": 3, "new": 9}
    marks["old"].read_through(8)

    async def unavailable(changed: object) -> None:
        raise StoreUnavailable("planted")

    with monkeypatch.context() as patch:
        patch.setattr(store, "put_process_marks", unavailable)
        await marks.write()
    await marks.write()
    assert await store.process_marks() == {"old": 8, "new": 9}
    await store.close()
