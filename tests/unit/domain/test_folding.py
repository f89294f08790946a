"""The keyed fold: keys of rows, changed rows, and rows after a failure."""

from __future__ import annotations

import re
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from diptych.domain.folding import Folding
from diptych.domain.memory_rows import MemoryRows
from diptych.domain.projection import Projection, View
from diptych.domain.recorded import Recorded
from diptych.v1.events_pb2 import RecordedEvent
from tests.support.notes import Archived, Erased, Note, Noted, Notes, Tag, Tagged, log_of, recorded

_KEYS = st.sampled_from(["a", "b", "ä"])
_EVENTS = st.one_of(
    st.builds(lambda key, text: Noted(key=key, text=text), _KEYS, st.sampled_from(["x", "y", ""])),
    st.builds(lambda key: Erased(key=key), _KEYS),
    st.builds(lambda key, tags: Tagged(key=key, tags=tags), _KEYS, st.lists(st.sampled_from("rst"), max_size=4)),
    st.builds(lambda key: Archived(key=key), _KEYS),
)


def _rows(events: list[RecordedEvent], cuts: list[int]) -> Any:
    """Return every row, tombstones included, after folding the events in batches of these sizes in turn."""
    rows, start, turn = MemoryRows(Notes().projection), 0, 0
    while start < len(events):
        size = cuts[turn % len(cuts)]
        folded = rows.apply(events[start : start + size])
        assert folded.failure is None
        start, turn = start + size, turn + 1
    return rows.rows


@given(st.lists(_EVENTS, max_size=40), st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_rows_do_not_depend_on_the_batches(events: list[Any], cuts: list[int]) -> None:
    log = log_of(events)
    assert _rows(log, cuts) == _rows(log, [1]) == _rows(log, [1000])


def test_row_made_and_deleted_in_one_batch_leaves_a_tombstone() -> None:
    rows = MemoryRows(Notes().projection)
    rows.apply(log_of([Noted(key="a", text="x"), Erased(key="a")]))
    assert rows.rows["notes"]["a"] == ("a", 2, None, None)


def test_deleting_a_missing_row_changes_nothing() -> None:
    rows = MemoryRows(Notes().projection)
    folded = rows.apply(log_of([Erased(key="a")]))
    assert (folded.changed, folded.changed_position) == ([{}, {}], 0)
    assert folded.last is not None


def test_fold_that_returns_equal_bytes_changes_nothing() -> None:
    rows = MemoryRows(Notes().projection)
    rows.apply(log_of([Noted(key="a", text="x")]))
    folded = rows.apply([recorded(2, Noted(key="a", text="x"))])
    assert list(folded.changed[0]) == []
    assert rows.rows["notes"]["a"][1] == 1


def test_prepare_collects_the_keys_of_folded_rows_and_of_look_ups() -> None:
    prepared = Folding(Notes().projection).prepare(
        log_of([Noted(key="a"), Tagged(key="b", tags=["r", "s", "r"]), Archived(key="c")])
    )
    assert [list(keys) for keys in prepared.keys_to_load] == [["a", "b"], ["all", "r", "s"]]


def test_key_returned_twice_is_folded_once() -> None:
    notes = Notes()
    rows = MemoryRows(notes.projection)
    rows.apply(log_of([Tagged(key="a", tags=["r", "r"])]))
    assert rows.row(notes.tags, "r") == Tag(count=1)


def test_look_up_returns_the_row_as_of_the_event() -> None:
    notes = Notes()
    rows = MemoryRows(notes.projection)
    rows.apply(log_of([Noted(key="a", text="old"), Tagged(key="a", tags=["r"]), Noted(key="a", text="new")]))
    assert rows.row(notes.tags, "r") == Tag(count=1, last_text="old")


def test_changed_row_has_the_values_of_its_columns() -> None:
    rows = MemoryRows(Notes().projection)
    folded = rows.apply(log_of([Noted(key="a", text="x"), Noted(key="a", text="y")]))
    assert folded.changed[0]["a"] == ("a", 2, Note(text="y", edits=2).SerializeToString(), 2)


def test_failing_event_changes_nothing_and_earlier_events_are_applied() -> None:
    notes = Notes()
    rows = MemoryRows(notes.projection)
    log = log_of([Noted(key="a", text="x"), Noted(key="a", text="poison"), Noted(key="b", text="y")])
    folded = rows.apply(log)
    failure = folded.failure
    assert failure is not None
    assert (failure.position, failure.view, failure.key) == (2, "notes_tags", "all")
    assert isinstance(failure.__cause__, ValueError)
    assert (folded.last, folded.changed_position) == (log[0], 1)
    assert rows.row(notes.notes, "a") == Note(text="x", edits=1)
    assert rows.row(notes.notes, "b") is None
    assert rows.row(notes.tags, "all") == Tag(count=1)


@given(st.lists(_EVENTS, max_size=12), st.lists(_EVENTS, max_size=6), st.integers(1, 20))
def test_failing_event_leaves_the_rows_before_it_for_any_batch_size(
    before: list[Any], after: list[Any], size: int
) -> None:
    log = log_of([*before, Noted(key="a", text="poison"), *after])
    rows = MemoryRows(Notes().projection)
    batches = (rows.apply(log[start : start + size]) for start in range(0, len(log), size))
    failure = next(folded.failure for folded in batches if folded.failure is not None)
    assert failure.position == len(before) + 1
    assert rows.rows == _rows(log[: len(before)], [1])


def test_event_that_cannot_be_parsed_fails_alone() -> None:
    rows = MemoryRows(Notes().projection)
    broken = recorded(2, Noted(key="a"))
    broken.event.value = b"\xff"
    failure = rows.apply([recorded(1, Noted(key="a", text="x")), broken]).failure
    assert failure is not None
    assert (failure.position, failure.view) == (2, "")
    assert rows.rows["notes"]["a"][1] == 1


def _failing(view: View[Any]) -> BaseException | None:
    """Return the exception of the projection of a view for one event."""
    failure = MemoryRows(view.projection).apply(log_of([Noted(key="a", text="x")])).failure
    return failure.__cause__ if failure is not None else None


def _view(fold: Any, **reads: Any) -> View[Any]:
    view: View[Any] = Projection("other", version=1).view("others", Note)
    view.on(Noted, key=lambda e: e.key, **reads)(fold)
    return view


def test_fold_that_returns_another_type_fails() -> None:
    cause = _failing(_view(lambda row, event, at: event))
    assert isinstance(cause, TypeError)
    assert "others" in str(cause)
    assert "notes.v1.Noted" in str(cause)


def test_look_up_that_reads_does_not_name_fails() -> None:
    projection = Projection("other", version=1)
    first: View[Any] = projection.view("first", Note)
    second: View[Any] = projection.view("second", Note)
    second.on(Noted, key=lambda e: e.key)(lambda row, event, at: at.row(first, event.key))
    assert "which its `reads` did not name" in str(_failing(second))


def test_look_up_in_a_later_view_fails() -> None:
    projection = Projection("other", version=1)
    first: View[Any] = projection.view("first", Note)
    second: View[Any] = projection.view("second", Note)
    first.on(Noted, key=lambda e: e.key, reads=lambda e: [second.at(e.key)])(lambda row, event, at: row)
    cause = _failing(first)
    assert isinstance(cause, LookupError)
    assert "not declared before it" in str(cause)


def test_look_up_in_another_projection_fails() -> None:
    elsewhere = Notes().notes
    cause = _failing(_view(lambda row, event, at: at.row(elsewhere, event.key)))
    assert "look-ups stay within one projection" in str(cause)


def test_changing_a_row_from_a_look_up_has_no_effect() -> None:
    projection = Projection("other", version=1)
    first: View[Any] = projection.view("first", Note)
    second: View[Any] = projection.view("second", Note)
    first.on(Noted, key=lambda e: e.key)(lambda row, event, at: Note(text="first"))

    @second.on(Noted, key=lambda e: e.key, reads=lambda e: [first.at(e.key)])
    def spoil(row: Any, event: Any, at: Recorded) -> Any:
        spoilt: Any = at.row(first, event.key)
        spoilt.text = "spoilt"
        return at.row(first, event.key)

    rows = MemoryRows(projection)
    rows.apply(log_of([Noted(key="a")]))
    assert rows.row(first, "a") == rows.row(second, "a") == Note(text="first")


def test_failing_column_fails_the_event_that_changed_the_row() -> None:
    view = _view(lambda row, event, at: Note(text=event.text))
    view.column("number", lambda row: int(row.text or "0"))
    rows = MemoryRows(view.projection)
    folded = rows.apply(log_of([Noted(key="a", text="1"), Noted(key="a", text="one"), Noted(key="a", text="2")]))
    assert folded.failure is not None
    assert (folded.failure.position, folded.failure.view, folded.failure.key) == (2, "others", "a")
    assert rows.rows["others"]["a"][1] == 1


@pytest.mark.parametrize("text", ["x", "9" * 30])
def test_column_value_of_another_type_or_beyond_64_bits_fails(text: str) -> None:
    view = _view(lambda row, event, at: Note(text=text))
    view.column("number", lambda row: int(row.text) if row.text.isdigit() else row.text or 0)
    assert isinstance(_failing(view), TypeError | ValueError)


@pytest.mark.parametrize("key", ["a\0b", "\ud800", 7, None])
def test_key_that_no_store_can_hold_fails(key: Any) -> None:
    view: View[Any] = Projection("other", version=1).view("others", Note)
    view.on(Noted, key=lambda e: key)(lambda row, event, at: Note())
    assert _failing(view) is not None


@pytest.mark.parametrize(
    ("key", "error"),
    [
        (7, r"TypeError: The key 7 is not a text but an int; return str\(\.\.\.\)\."),
        (None, "TypeError: The key is None; return a text, or use `on_each` with keys="),
    ],
)
def test_key_that_is_no_text_fails_with_the_place_of_its_function(key: Any, error: str) -> None:
    view: View[Any] = Projection("other", version=1).view("others", Note)
    view.on(Noted, key=lambda e: key)(lambda row, event, at: Note())
    failure = MemoryRows(view.projection).apply(log_of([Noted(key="a")])).failure
    assert re.search(rf"failed in view others: {error}.*\(in .*test_folding\.py:\d+\)$", str(failure))


def test_keys_of_a_wrong_shape_fail() -> None:
    view: View[Any] = Projection("other", version=1).view("others", Note)
    keys: Any = lambda e: None  # noqa: E731
    view.on_each(Noted, keys=keys)(lambda row, event, at: Note())
    assert "`keys` gave None; return the keys, []" in str(_failing(view))
    other: View[Any] = Projection("more", version=1).view("more", Note)
    parts: Any = lambda e: [e.key]  # noqa: E731
    other.on_parts(Noted, parts=parts)(lambda row, part, at: Note())
    assert "`parts` gave a list; return a mapping" in str(_failing(other))


def test_key_of_two_parameters_gets_the_place_of_the_event() -> None:
    projection = Projection("other", version=1)
    entries: View[Any] = projection.view("entries", Note)
    tags: View[Any] = projection.view("tags", Note)
    parts: View[Any] = projection.view("parts", Note)

    @entries.on(Noted, key=lambda e, at: f"{at.aggregate.type}.{at.aggregate.id}.{at.version}")
    def entered(row: Any, event: Any, at: Recorded) -> Any:
        assert row is None
        return Note(text=event.text)

    @tags.on_each(Noted, keys=lambda e, at: [f"{at.position}", f"{at.time:%Y}"])
    def tagged(row: Any, event: Any, at: Recorded) -> Any:
        return Note(text=event.text)

    @parts.on_parts(Noted, parts=lambda e, at: {e.key: at.position})
    def parted(row: Any, part: int, at: Recorded) -> Any:
        return Note(edits=part)

    log = log_of([Noted(key="a", text="x"), Noted(key="a", text="x"), Noted(key="a", text="y")])
    rows = MemoryRows(projection)
    assert rows.apply(log).failure is None
    assert [rows.row(entries, f"note.1.{version}") for version in (1, 2, 3)] == [
        Note(text="x"),
        Note(text="x"),
        Note(text="y"),
    ]
    assert list(rows.rows["tags"]) == ["1", "2023", "2", "3"]
    assert rows.row(parts, "a") == Note(edits=3)


def test_key_with_an_optional_second_parameter_gets_the_event_alone() -> None:
    view: View[Any] = Projection("other", version=1).view("others", Note)

    def key(event: Any, prefix: str = "n") -> str:
        return f"{prefix}-{event.key}"

    view.on(Noted, key=key)(lambda row, event, at: Note())
    rows = MemoryRows(view.projection)
    rows.apply(log_of([Noted(key="a")]))
    assert list(rows.rows["others"]) == ["n-a"]


def test_key_that_looks_up_a_row_fails() -> None:
    view: View[Any] = Projection("other", version=1).view("others", Note)
    key: Any = lambda e, at: at.row(view, e.key).text  # noqa: E731
    view.on(Noted, key=key)(lambda row, event, at: Note())
    assert "A key function cannot look up rows" in str(_failing(view))


def test_keys_that_are_one_text_fail() -> None:
    view: View[Any] = Projection("other", version=1).view("others", Note)
    view.on_each(Noted, keys=lambda e: "abc")(lambda row, event, at: Note())
    assert "use `on` for one key" in str(_failing(view))


def test_fold_of_parts_gets_the_part_of_each_row_once() -> None:
    view: View[Any] = Projection("other", version=1).view("others", Note)

    @view.on_parts(Tagged, parts=lambda e: {tag: list(e.tags).count(tag) for tag in e.tags})
    def count(row: Any, part: int, at: Recorded) -> Any:
        return Note(text=at.key, edits=part)

    rows = MemoryRows(view.projection)
    rows.apply(log_of([Tagged(key="a", tags=["r", "s", "r"])]))
    assert rows.row(view, "r") == Note(text="r", edits=2)
    assert rows.row(view, "s") == Note(text="s", edits=1)


def test_fold_gets_position_aggregate_version_and_time_of_its_event() -> None:
    contexts: list[Any] = []

    def fold(row: Any, event: Any, at: Recorded) -> Any:
        contexts.append((at.position, at.aggregate, at.version, at.event_id, at.key, at.record_time))
        return row

    MemoryRows(_view(fold).projection).apply([recorded(7, Noted(key="a"), stream="note/n1")])
    assert contexts == [(7, ("note", "n1"), 7, "a-7", "a", Timestamp(seconds=1_700_000_007))]


class _Unprintable(Exception):
    """An exception whose message fails to render."""

    def __str__(self) -> str:
        raise KeyError("account")


def test_bug_exception_without_a_text_ended_the_fold() -> None:
    def fold(row: Any, event: Any, at: Recorded) -> Any:
        raise _Unprintable

    failure = MemoryRows(_view(fold).projection).apply(log_of([Noted(key="a")])).failure
    assert failure is not None
    assert "_Unprintable (its message fails to render: KeyError)" in str(failure)
