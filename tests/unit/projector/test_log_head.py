"""The follower of the log's head."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from diptych.internal.v1.log_pb2 import WatchHeadResponse
from projector import log_head
from projector.log_head import LogHead, LogHeadFollower


class Ended(Exception):
    """The stream of the test has ended."""


class Server:
    """A channel to a command server that sends these frames."""

    def __init__(self, *frames: WatchHeadResponse) -> None:
        self.frames = frames

    def unary_stream(self, method: str, **_: Any) -> Any:
        """Return the rpc, which ends with `Ended`."""

        async def rpc(request: Any) -> AsyncIterator[WatchHeadResponse]:
            for frame in self.frames:
                yield frame
            raise Ended

        return rpc

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


@pytest.mark.parametrize(
    ("own", "expected"), [(["a.Happened"], [["a.Done"]]), (["a.Happened", "a.Done"], []), ([], [])]
)
async def test_event_types_of_the_command_server_alone_are_logged(
    own: list[str], expected: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[list[str]] = []

    class Log:
        def error(self, event: str, **fields: Any) -> None:
            logged.append(fields["event_types"])

    monkeypatch.setattr(log_head, "_log", Log())
    frames = [WatchHeadResponse(event_types=["a.Done", "a.Happened"]), WatchHeadResponse(head_position=7)]
    head = LogHead()
    follower = LogHeadFollower(cast("Any", Server(*frames)), head, lambda: None, own)
    monkeypatch.setattr(follower, "_stream_log", Server())
    with pytest.raises(Ended):
        await follower.run()
    assert head.position == 7
    assert logged == expected
