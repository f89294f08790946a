"""Sweeps of request ids on SQLite."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection

from command_server.store import statements


def forget_requests(connection: sqlite3.Connection, keys: Collection[str], accepted_before: int) -> int:
    """Forget requests in the open transaction; see `EventStore.forget_requests`."""
    values = statements.FORGET_REQUESTS.bind(keys=json.dumps(list(keys)), accepted_before=accepted_before)
    count = connection.execute(statements.FORGET_REQUESTS.sql, values).rowcount
    if accepted_before > forgotten_before(connection):
        mark = statements.PUT_FORGOTTEN_BEFORE.bind(singleton=1, accepted_before=accepted_before)
        connection.execute(statements.PUT_FORGOTTEN_BEFORE.sql, mark)
    return count


def forgotten_before(connection: sqlite3.Connection) -> int:
    """Return the time before which requests may have been forgotten; 0: none was."""
    row = connection.execute(statements.FORGOTTEN_BEFORE.sql).fetchone()
    return int(row[0]) if row else 0
