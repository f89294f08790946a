"""Reads of the log on SQLite: functions of the reading connection."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence

from command_server.store import statements
from command_server.store.records import Page

_SCAN_EVENTS_MAX = 20_000
"""Events that a filtered read examines before it returns a page, however few matched."""


def read_stream(
    connection: sqlite3.Connection, stream: str, from_version: int, events_max: int, bytes_max: int
) -> Sequence[bytes]:
    """Read the frames of a stream; see `EventStore.read_stream`."""
    values = statements.READ_STREAM.bind(name=stream, first=from_version, count=events_max)
    cursor = connection.execute(statements.READ_STREAM.sql, values)
    frames: list[bytes] = []
    size = 0
    for (one,) in cursor:
        size += len(one)
        if frames and size > bytes_max:
            break
        frames.append(one)
    cursor.close()
    return frames


def read_log(
    connection: sqlite3.Connection, after: int, types: Collection[str], events_max: int, bytes_max: int
) -> Page:
    """Read a page of the log; see `EventStore.read_log`."""
    until = after
    if types:
        last = connection.execute(statements.LAST_POSITION.sql).fetchone()[0] or 0
        until = min(after + _SCAN_EVENTS_MAX, last)
        values = statements.READ_LOG_TYPES.bind(
            after=after, until=until, types=json.dumps(list(types)), count=events_max
        )
        cursor = connection.execute(statements.READ_LOG_TYPES.sql, values)
    else:
        cursor = connection.execute(statements.READ_LOG.sql, statements.READ_LOG.bind(after=after, count=events_max))
    frames: list[bytes] = []
    position = after
    size = 0
    for row_position, one in cursor:
        size += len(one)
        if frames and size > bytes_max:
            break
        frames.append(one)
        position = row_position
    cursor.close()
    if not types or len(frames) == events_max or size > bytes_max:
        return Page(frames, position, frames[-1] if frames else b"")
    if until <= after:
        return Page((), after, b"")
    row = connection.execute(statements.FRAME_AT.sql, (until,)).fetchone()
    return Page(frames, until, row[0])
