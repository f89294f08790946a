"""Log lines about one stream that a server follows from another: connected, lost, connected again."""

from __future__ import annotations

from typing import Any


class StreamLog:
    """Logs each change of a stream's connection once, however often the connection is tried.

    Servers start in any order, so a stream that has not been connected yet is no fault and no warning.
    """

    def __init__(self, log: Any, **fields: object) -> None:
        """Create the log lines of a stream.

        Args:
            log: Logger.
            fields: Fields of every line, such as `stream` and `server`.
        """
        self._log = log
        self._fields = fields
        self._connected = False
        self._tried = False

    def connected(self, **fields: object) -> None:
        """Log that the stream is connected, if it was not."""
        if not self._connected:
            self._log.info("stream connected", **self._fields, **fields)
            self._connected = self._tried = True

    def lost(self, cause: str) -> None:
        """Log that the stream ended or cannot be opened, if the last line did not say so.

        Args:
            cause: Cause, for the field `cause`.
        """
        if self._connected:
            self._log.warning("stream lost, reconnecting", **self._fields, cause=cause)
        elif not self._tried:
            self._log.info("stream not connected yet, retrying", **self._fields, cause=cause)
        self._connected, self._tried = False, True
