"""Replay of a watch: the rows that its client has after each frame."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.history.model import FOREVER, Truth, overlap
from tests.history.records import FrameKind, Watched, WatchFrame


class _Held(NamedTuple):
    """Rows of a watcher at a cut."""

    rows: dict[str, bytes]
    row_changes: frozenset[tuple[str, int]]
    position: int


class Replay:
    """Applies one frame after the other."""

    def __init__(self, truth: Truth, watched: Watched) -> None:
        self._truth = truth
        self._view = watched.view
        self._keys = watched.keys
        self.rows: dict[str, bytes] = {}
        self.row_changes: set[tuple[str, int]] = set()
        """Keys and positions since the last snapshot began."""
        self.server = ""
        self._cut = 0
        """Least possible position of the last cut; 0: none yet."""
        self._snapshot: list[tuple[str, int]] = []
        self._caught_up = False
        self._last = 0
        self._bookmarks: dict[str, _Held] = {}

    def take(self, frame: WatchFrame) -> None:
        """Apply a frame, as a client does."""
        if frame.kind is FrameKind.OPENED:
            self.server = frame.server
            held = self._bookmarks.get(frame.resume_token)
            self._begin(held)
        elif frame.kind is FrameKind.RESET:
            self._begin(None)
        for key, position, content in frame.rows:
            self.row_changes.add((key, position))
            self._last = max(self._last, position)
            if not self._caught_up:
                self._snapshot.append((key, position))
            if content is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = content
        if frame.kind is FrameKind.CAUGHT_UP:
            self._caught_up = True
        if frame.resume_token and frame.kind is not FrameKind.OPENED:
            least = max(self._cut, self._last, frame.position)
            spans = overlap(self._spans(), [(least, FOREVER)])
            self._cut = spans[0][0] if spans else least
            self._bookmarks[frame.resume_token] = _Held(dict(self.rows), frozenset(self.row_changes), self._cut)

    def misordered(self, frame: WatchFrame) -> Iterator[str]:
        """Yield the errors in the order of the next frame's rows."""
        if self._caught_up:
            last = max(self._last, self._cut)
            for key, position, _ in frame.rows:
                if position < last or position <= self._cut:
                    yield f"row {key} at {position} after {last}, with a cut at {self._cut}"
                last = max(last, position)
            return
        rows = self._snapshot + [(key, position) for key, position, _ in frame.rows]
        # First the snapshot, by key, then what changed meanwhile, by position.
        by_key = 1
        while by_key < len(rows) and rows[by_key - 1][0] < rows[by_key][0]:
            by_key += 1
        for (_, before), (key, after) in zip(rows[by_key:], rows[by_key + 1 :], strict=False):
            if after < before:
                yield f"row {key} at {after} after {before}, neither by key nor by position"

    def no_cut(self, frame: WatchFrame, head: int) -> str:
        """Return the reason why the rows after a frame are no cut; empty if they are one, or need not be."""
        if not frame.resume_token or frame.kind is FrameKind.OPENED:
            return ""
        least = max(self._cut, self._last, frame.position)
        most = frame.position or head
        if least > head:
            return f"it was told {least}, and at most {head} were recorded then"
        if overlap(self._spans(), [(least, most)]):
            return ""
        wrong = self.differing(least)
        return f"what is held is the view at no one position from {least} to {most}; at {least} wrong: {wrong[:5]}"

    def differing(self, position: int) -> list[str]:
        """Return the keys whose rows differ from those at a position."""
        return [
            key for key in sorted(self._watched()) if self._truth.row(self._view, key, position) != self.rows.get(key)
        ]

    def _begin(self, held: _Held | None) -> None:
        """Begin with the rows of a bookmark, or with none."""
        self.rows = {} if held is None else dict(held.rows)
        self.row_changes = set() if held is None else set(held.row_changes)
        self._cut = 0 if held is None else held.position
        self._last = self._cut
        self._caught_up = held is not None
        self._snapshot = []

    def _watched(self) -> set[str]:
        return self._truth.keys(self._view) if self._keys is None else set(self._keys)

    def _spans(self) -> list[tuple[int, int]]:
        spans = [(0, FOREVER)]
        for key in self._watched() | self.rows.keys():
            spans = overlap(spans, self._truth.spans(self._view, key, self.rows.get(key)))
        return spans
