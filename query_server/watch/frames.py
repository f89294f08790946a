"""Frames of a watch, as bytes. Frames of rows are put together from rows that are encoded already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from diptych.contract.reasons import RowTooLarge
from diptych.contract.wire import delimited
from diptych.v1.events_pb2 import CaughtUp, Progress
from diptych.v1.read_model_pb2 import Reset, ResetReason, WatchResponse
from query_server.freshness.log_head import LogHead
from query_server.freshness.progress import ProjectionProgress
from query_server.watch.change_reader import Change
from query_server.watch.resume_token import ResumeToken

FRAME_ROWS_MAX = 1000
"""Greatest number of rows in a frame."""

FRAME_BYTES_MAX = 1 << 20
"""A frame of buffered changes ends before the row that would make it larger."""


class Frames:
    """Encodes the frames of one watch."""

    def __init__(
        self, view: str, digest: bytes, progress: ProjectionProgress, head: LogHead, message_bytes_max: int
    ) -> None:
        """Take what frames say besides rows.

        Args:
            view: Name of the view.
            digest: Digest of the watched view and keys, for resume tokens.
            progress: Progress of the projection.
            head: Head of the log.
            message_bytes_max: Greatest size of a row.
        """
        self.rows_sent = 0
        """Number of rows in all frames."""
        self._view = view
        self._message_bytes_max = message_bytes_max
        self._digest = digest
        self._progress = progress
        self._head = head

    def split(
        self, changes: list[Change], cut: ResumeToken | None, bytes_max: int = FRAME_BYTES_MAX
    ) -> Iterator[bytes]:
        """Yield as many frames as these changes need; the last one ends a cut, if there is one. A frame has one row
        or at most `bytes_max` bytes of rows.
        """
        begin, size = 0, 0
        for index, change in enumerate(changes):
            if index - begin == FRAME_ROWS_MAX or (index > begin and size + len(change.content) > bytes_max):
                yield self.rows(changes[begin:index])
                begin, size = index, 0
            size += len(change.content)
        yield self.rows(changes[begin:], cut)

    def rows(self, changes: Iterable[Change], cut: ResumeToken | None = None) -> bytes:
        """Return a frame of rows, which ends a cut if there is one; empty without rows.

        Raise `RowTooLarge` for a row that no message takes.
        """
        contents: list[bytes] = []
        for change in changes:
            if len(change.content) > self._message_bytes_max:
                raise RowTooLarge(view=self._view, key=change.key, limit=self._message_bytes_max)
            contents.append(change.content)
        if not contents:
            return b""
        self.rows_sent += len(contents)
        batch = delimited(1, b"".join(contents))
        return batch if cut is None else batch + delimited(5, cut.encode(self._digest))

    def caught_up(self, cut: ResumeToken) -> bytes:
        """Return the frame that ends the snapshot."""
        frame = WatchResponse(caught_up=CaughtUp(token=self._token(cut)), resume_token=self._resume_token(cut))
        return frame.SerializeToString()

    def progress(self, cut: ResumeToken) -> bytes:
        """Return a frame of progress."""
        head_position = max(self._head.known_position, cut.position)
        progress = Progress(token=self._token(cut), position=cut.position, head_position=head_position)
        return WatchResponse(progress=progress, resume_token=self._resume_token(cut)).SerializeToString()

    @staticmethod
    def reset(reason: ResetReason) -> bytes:
        """Return the frame that makes the client drop its rows."""
        return WatchResponse(reset=Reset(reason=reason)).SerializeToString()

    def _token(self, cut: ResumeToken) -> str:
        return self._head.token(min(cut.position, self._progress.bound))

    def _resume_token(self, cut: ResumeToken) -> str:
        return cut.encode(self._digest).decode()
