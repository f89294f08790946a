"""Checks of watches: order, uniqueness, cuts and final rows."""

from __future__ import annotations

from collections.abc import Iterator

from tests.history.case import (
    HONEST_READ,
    Case,
    check,
)
from tests.history.records import FrameKind
from tests.history.watching import Replay


@check
def watches_are_ordered(case: Case) -> Iterator[str]:
    """Check that a snapshot is ordered by key, changes by position, and rows after a cut are later than the cut."""
    for watched in case.history.watched:
        replay = Replay(case.truth, watched)
        for frame in watched.frames:
            yield from (f"{watched.client} watching {watched.view}: {text}" for text in replay.misordered(frame))
            replay.take(frame)


@check
def watches_tell_once(case: Case) -> Iterator[str]:
    """Check that a watch sends a row at a position once."""
    for watched in case.history.watched:
        replay = Replay(case.truth, watched)
        for frame in watched.frames:
            seen = set(replay.row_changes)
            for key, position, _ in frame.rows:
                if (key, position) in seen:
                    yield f"{watched.client} watching {watched.view} was told row {key} at {position} twice"
                seen.add((key, position))
            replay.take(frame)


@check
def watches_tell_the_truth(case: Case) -> Iterator[str]:
    """Check that a watch sends the row of its position, and watched rows only."""
    for watched in case.history.watched:
        for frame in watched.frames:
            for key, position, content in frame.rows:
                name = f"{watched.client} watching {watched.view} was told row {key} at {position}"
                change = case.truth.change(watched.view, key, position)
                if watched.keys is not None and key not in watched.keys:
                    yield f"{name}, which it did not ask for"
                if change is None or change[1] != position:
                    yield f"{name}, which did not change there"
                elif change[2] != content:
                    yield f"{name} with another content than it had"


@check
def watches_are_cuts(case: Case) -> Iterator[str]:
    """Check that all rows up to a resume token are the view at one position; for a progress frame, at its position."""
    for watched in case.history.watched:
        replay = Replay(case.truth, watched)
        for frame in watched.frames:
            replay.take(frame)
            if problem := replay.no_cut(frame, case.possible_head(frame.at)):
                yield f"{watched.client} watching {watched.view} on {replay.server} at {frame.at:.3f}: {problem}"


@check
def watches_come_to_the_end(case: Case) -> Iterator[str]:
    """Check that a watcher has the view's final rows after the faults."""
    for watched in case.history.watched:
        replay = Replay(case.truth, watched)
        for frame in watched.frames:
            replay.take(frame)
        if wrong := replay.differing(case.truth.head):
            yield f"{watched.client} watching {watched.view} does not know the last of {wrong[:5]}"


@check
def watches_begin_anew_for_a_cause(case: Case) -> Iterator[str]:
    """Check that resets and refusals have a cause, and `caught_up` comes once after each connection and reset."""
    for watched in case.history.watched:
        caught_up = False
        for frame in watched.frames:
            name = f"{watched.client} watching {watched.view} at {frame.at:.3f}"
            if frame.kind is FrameKind.RESET and frame.reason not in case.resets:
                yield f"{name}: {frame.reason}, for which there was no cause"
            elif frame.kind is FrameKind.REFUSED and frame.reason not in case.refusals | HONEST_READ:
                yield f"{name}: refused with {frame.reason}, for which there was no cause"
            elif frame.kind is FrameKind.CAUGHT_UP and caught_up:
                yield f"{name}: caught up once more"
            if frame.kind is FrameKind.CAUGHT_UP:
                caught_up = True
            elif frame.kind in (FrameKind.RESET, FrameKind.OPENED):
                caught_up = False
