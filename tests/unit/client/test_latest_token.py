"""Latest token of a connection: over restores of a log, and over another log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from google.protobuf.message import Message

from diptych.client import CallRefused, Connection
from diptych.client.latest_token import LatestToken
from diptych.contract.reasons import TokenAheadOfLog, TokenOfAnotherLog, TokenOfOlderEpoch
from diptych.contract.token import TOKEN_KEY, Token
from diptych.domain.refusal import Refusal
from shop.v1.user_queries_pb2 import GetUserRequest


def token(position: int, *, log: int = 1, epoch: int = 1) -> str:
    return str(Token(bytes([log]) * 8, epoch, position))


OTHER_LOG = TokenOfAnotherLog(token_log_id="ff", log_id="01")
OLDER_EPOCH = TokenOfOlderEpoch(token_epoch=1, token_position=10, epoch=2, first_position=6)
AHEAD = TokenAheadOfLog(position=10, head_position=5)


class Calls:
    """Calls of a connection whose server refuses the token of position 10 of log 255."""

    def __init__(self, connection: Connection, refusal: Refusal, answer: str) -> None:
        self.presented: list[str] = []
        self._connection, self._refusal, self._answer = connection, refusal, answer

    async def call(
        self, channel: Any, method: Any, request: Message, timeout: float | None, metadata: Mapping[str, str] | None
    ) -> None:
        presented = (metadata or {}).get(TOKEN_KEY, "") or getattr(request, "token", "")
        self.presented.append(presented)
        self._connection.add_token(self._answer)
        if presented == token(10, log=255):
            raise CallRefused(self._refusal.to_status("shop.v1"), self._answer)


@pytest.fixture(params=[1, 254])
def other(request: pytest.FixtureRequest) -> int:
    """First byte of the id of another log, less than or about that of the log before."""
    return int(request.param)


async def test_bug_a_connection_presented_the_token_of_a_replaced_log_for_ever(other: int) -> None:
    async with Connection("127.0.0.1:1", "127.0.0.1:1", read_your_writes=True) as connection:
        connection.add_token(token(10, log=255))
        calls = Calls(connection, OTHER_LOG, token(3, log=other))
        connection._calls = calls  # type: ignore[assignment]
        with pytest.raises(CallRefused):
            await connection.query(GetUserRequest(user_id="ada"))
        for _ in range(2):
            await connection.query(GetUserRequest(user_id="ada"))
        assert calls.presented == [token(10, log=255), token(3, log=other), token(3, log=other)]


@pytest.mark.parametrize("refusal", [OTHER_LOG, OLDER_EPOCH, AHEAD])
async def test_a_connection_discards_the_token_that_a_wait_presented(refusal: Refusal) -> None:
    async with Connection("127.0.0.1:1", "127.0.0.1:1") as connection:
        connection.add_token(token(10, log=255))
        connection._calls = Calls(connection, refusal, "")  # type: ignore[assignment]
        with pytest.raises(CallRefused):
            await connection.wait_for()
        assert connection.token == ""


def test_a_write_to_the_new_log_outlives_the_refusal_of_the_old_token() -> None:
    latest = LatestToken()
    latest.add(token(10, log=255))
    latest.add(token(8, log=1))  # A write.
    assert latest.text == token(8, log=1)
    latest.add(token(10, log=255))  # A late response of the log before.
    latest.on_refusal(OTHER_LOG.reason, token(10, log=255), token(3, log=1))
    assert latest.text == token(8, log=1)


def test_an_earlier_token_replaces_one_whose_event_is_lost() -> None:
    latest = LatestToken()
    latest.add(token(10))
    latest.on_refusal(OLDER_EPOCH.reason, token(10), token(5))
    assert latest.text == token(5)
    latest.on_refusal(OLDER_EPOCH.reason, token(10), token(4))
    assert latest.text == token(5), "another call presented the lost one before"
    latest.on_refusal("USER_NOT_FOUND", token(5), "")
    assert latest.text == token(5)


def test_logs_are_remembered_up_to_a_limit() -> None:
    latest = LatestToken()
    for log in range(100):
        latest.add(token(1, log=log))
    assert len(latest._of_log) == 4
    latest.add("")
    assert latest.text == token(1, log=99)
