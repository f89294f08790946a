"""Log lines about a followed stream: one for each change, and no warning before the first connection."""

from __future__ import annotations

from typing import Any

from diptych.server.stream_log import StreamLog


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, object]]] = []

    def info(self, event: str, **fields: object) -> None:
        self.lines.append(("info", event, fields))

    def warning(self, event: str, **fields: object) -> None:
        self.lines.append(("warning", event, fields))


def lines_of(*steps: str) -> list[Any]:
    log = Log()
    stream = StreamLog(log, stream="WatchHead")
    for step in steps:
        stream.connected(head_position=7) if step == "connected" else stream.lost(step)
    return [(level, event) for level, event, _ in log.lines]


def test_stream_that_is_not_connected_yet_is_no_warning_and_is_logged_once() -> None:
    assert lines_of("refused", "refused", "refused") == [("info", "stream not connected yet, retrying")]


def test_each_loss_is_one_warning() -> None:
    assert lines_of("refused", "connected", "connected", "ended", "refused", "connected", "ended") == [
        ("info", "stream not connected yet, retrying"),
        ("info", "stream connected"),
        ("warning", "stream lost, reconnecting"),
        ("info", "stream connected"),
        ("warning", "stream lost, reconnecting"),
    ]


def test_lines_have_the_fields_of_the_stream_and_of_the_change() -> None:
    log = Log()
    stream = StreamLog(log, stream="WatchHead", server="command-server")
    stream.connected(head_position=7)
    stream.lost("no frame for 3 s")
    assert [fields for _, _, fields in log.lines] == [
        {"stream": "WatchHead", "server": "command-server", "head_position": 7},
        {"stream": "WatchHead", "server": "command-server", "cause": "no frame for 3 s"},
    ]
