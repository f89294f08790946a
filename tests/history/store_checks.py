"""Checks of the read store: rows and checkpoints are the fold of the log."""

from __future__ import annotations

from collections.abc import Iterator

from tests.history.case import (
    Case,
    check,
)
from tests.history.records import Stored


@check
def views_equal_the_fold(case: Case) -> Iterator[str]:
    """Check that rows and checkpoint of one transaction in the read store are the fold of the log."""
    for stored in case.history.stored:
        yield from _compare(case, stored)


@check
def everything_is_applied_in_the_end(case: Case) -> Iterator[str]:
    """Check that every projection is at the head of the log after the faults."""
    for projection, position in case.history.final.items():
        if position != case.truth.head:
            yield f"{projection} is at {position}, and the log at {case.truth.head}"


@check
def checkpoints_go_forward(case: Case) -> Iterator[str]:
    """Check that the checkpoint of the active generation never decreases, over all generations."""
    before: dict[str, Stored] = {}
    for stored in sorted(case.history.stored, key=lambda stored: stored.taken):
        last = before.get(stored.projection, stored)
        if stored.position < last.position:
            yield (
                f"{stored.projection} went from {last.position} of generation {last.generation} back to "
                f"{stored.position} of generation {stored.generation}"
            )
        before[stored.projection] = stored


def _compare(case: Case, stored: Stored) -> Iterator[str]:
    truth = case.truth
    where = f"{stored.projection} generation {stored.generation} at {stored.position}"
    if stored.position > truth.head:
        yield f"{where}: the log ends at {truth.head}"
        return
    event_id = truth.log[stored.position - 1].event_id if stored.position else ""
    if stored.event_id != event_id:
        yield f"{where}: the checkpoint names event {stored.event_id}, and there is {event_id}"
    for view, rows in stored.rows.items():
        for key in sorted(truth.keys(view) | rows.keys()):
            expected, row = truth.change(view, key, stored.position), rows.get(key)
            found = None if row is None else (key, row.position, row.content, *row.columns)
            if found != expected:
                yield f"{where}: row {key} of {view} is {_shortly(found)}, and the fold gives {_shortly(expected)}"


def _shortly(row: tuple[object, ...] | None) -> str:
    if row is None:
        return "not there"
    content = row[2]
    shape = f"{len(content)} bytes" if isinstance(content, bytes) else "deleted"
    return f"({shape} of {row[1]}, columns {row[3:]})"
