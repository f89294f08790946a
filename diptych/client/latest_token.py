"""Latest token of a connection, over restores and replacements of the log."""

from __future__ import annotations

from diptych.contract.reasons import TokenAheadOfLog, TokenOfAnotherLog, TokenOfOlderEpoch

_LOG_CHARACTERS = 12
"""Characters of a token that are of its log's id alone."""

_LOGS_MAX = 4

_REASONS = (TokenOfAnotherLog.reason, TokenOfOlderEpoch.reason, TokenAheadOfLog.reason)


class LatestToken:
    """The greatest token of the log that the last response came from.

    Of two tokens of one log the greater string is the later; those of two logs cannot be compared. So the greatest of
    each of the last four logs is remembered, until a server refuses it.
    """

    def __init__(self) -> None:
        self.text = ""
        """The token; empty before the first."""
        self._of_log: dict[str, str] = {}

    def add(self, token: str) -> None:
        """Take the token of a response; empty: it had none."""
        if not token:
            return
        log = token[:_LOG_CHARACTERS]
        self.text = max(token, self._of_log.pop(log, ""))
        self._of_log[log] = self.text  # The log of the last response is the last entry.
        if len(self._of_log) > _LOGS_MAX:
            del self._of_log[next(iter(self._of_log))]

    def on_refusal(self, reason: str, presented: str, token: str) -> None:
        """Discard a presented token that a server refused because its log does not have that position.

        Args:
            reason: Reason of the refusal.
            presented: The token that was presented; empty: none.
            token: Token in the trailers of the refusal, for a position of the server's log; empty without one.
        """
        log = presented[:_LOG_CHARACTERS]
        if reason not in _REASONS or self._of_log.get(log) != presented:
            return
        del self._of_log[log]
        self.text = next(reversed(self._of_log.values()), "")
        if token != presented:
            self.add(token)
