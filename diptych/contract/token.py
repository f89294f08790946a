"""Tokens: strings that stand for the log up to a position.

A token is the log's id (8 random bytes), an epoch (4 bytes) and a position (8 bytes), big-endian, in upper-case
base32hex (RFC 4648, section 7): 32 characters, no padding. The encoding keeps order: of two
tokens of one log the greater string is the later one. A token for position P names the epoch in which P was *written*.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from typing import NamedTuple

from diptych.contract.reasons import TokenMalformed, TokenOfAnotherLog, TokenOfOlderEpoch

TOKEN_LENGTH = 32
TOKEN_KEY = "diptych-token"
"""Metadata key of the tokens in a request, which may repeat it, and key of the token in the trailers."""

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUV"
_PAIRS = [one + other for one in _DIGITS for other in _DIGITS]
"""Characters for each ten bits. A token's last eight characters are the lower forty bits of its position."""


class Token(NamedTuple):
    """A parsed token."""

    log_id: bytes
    epoch: int
    position: int

    @classmethod
    def parse(cls, text: str) -> Token:
        """Return the parsed token.

        Raises:
            TokenMalformed: The text is no token.
        """
        try:
            if len(text) != TOKEN_LENGTH or not text.isascii() or not text.isalnum() or text.upper() != text:
                raise ValueError
            # The alphabet is that of Python's numbers of base 32; `base64` would take ten times as long.
            raw = int(text, 32).to_bytes(20, "big")
        except ValueError:
            raise TokenMalformed(token=text[:64]) from None
        position = int.from_bytes(raw[12:], "big")
        if position >= 1 << 63:
            raise TokenMalformed(token=text)
        return cls(raw[:8], int.from_bytes(raw[8:12], "big"), position)

    def __str__(self) -> str:
        raw = self.log_id + self.epoch.to_bytes(4, "big") + self.position.to_bytes(8, "big")
        return base64.b32hexencode(raw).decode("ascii")


class Epoch(NamedTuple):
    """One epoch of a log: it covers the positions from `first_position` up to the next epoch's first position.

    A restored log begins a new epoch, so that tokens for lost events are recognised.
    """

    epoch: int
    first_position: int


class LogIdentity:
    """A log's id and the history of its epochs. It makes tokens and judges them."""

    __slots__ = ("_first_position", "_text", "epochs", "log_id", "zero_token")

    def __init__(self, log_id: bytes, epochs: Sequence[Epoch]) -> None:
        self.log_id = log_id
        self.epochs = tuple(epochs)
        self._first_position = self.epochs[-1].first_position
        self._text = str(Token(log_id, self.epochs[-1].epoch, 0))[:-8]
        self.zero_token = str(Token(log_id, self.epochs[0].epoch, 0))
        """Token of position 0, which every event is after."""

    @classmethod
    def new(cls) -> LogIdentity:
        """Return the identity of a new log."""
        return cls(os.urandom(8), (Epoch(1, 1),))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LogIdentity) and (self.log_id, self.epochs) == (other.log_id, other.epochs)

    def __hash__(self) -> int:
        return hash((self.log_id, self.epochs))

    def __repr__(self) -> str:
        return f"LogIdentity({self.log_id.hex()}, {list(self.epochs)})"

    @property
    def epoch(self) -> int:
        """Number of the current epoch."""
        return self.epochs[-1].epoch

    def epoch_of(self, position: int) -> int:
        """Return the number of the epoch in which a position was written; for position 0 the first."""
        for epoch, first in reversed(self.epochs):
            if position >= first:
                return epoch
        return self.epochs[0].epoch

    def token(self, position: int) -> str:
        """Return the token for a position."""
        if self._first_position <= position < 1 << 40:
            return (
                f"{self._text}{_PAIRS[position >> 30]}{_PAIRS[position >> 20 & 1023]}"
                f"{_PAIRS[position >> 10 & 1023]}{_PAIRS[position & 1023]}"
            )
        return str(Token(self.log_id, self.epoch_of(position), position))

    def is_newer(self, token: Token) -> bool:
        """Return True for a token of a later epoch of this log than this identity has."""
        return token.log_id == self.log_id and token.epoch > self.epoch

    def judge(self, token: Token) -> int:
        """Return the position of a token of this log.

        A token of an older epoch is valid if its position lies before the next epoch's first position. A token of a
        newer epoch comes from a server that has read a newer history. Its position is returned as it is, and proves
        nothing by itself; see `is_newer`.

        Raises:
            TokenOfAnotherLog: The token belongs to another log.
            TokenOfOlderEpoch: The token stands for events that a restore has lost.
        """
        if token.log_id != self.log_id:
            raise TokenOfAnotherLog(token_log_id=token.log_id.hex(), log_id=self.log_id.hex())
        for epoch, first in self.epochs:
            if epoch > token.epoch and token.position >= first:
                raise TokenOfOlderEpoch(
                    token_epoch=token.epoch,
                    token_position=token.position,
                    epoch=epoch,
                    first_position=first,
                )
        return token.position
