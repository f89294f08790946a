"""Event types that a log can have: the types of every domain that has served it.

A server records only types of its domain. The types of all domains so far therefore cover the log, and a start does
not scan it. A type that is no longer in the domain is looked for in the log, and forgotten if it was never recorded.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence

_CREATE = "CREATE TABLE event_types (type TEXT NOT NULL PRIMARY KEY) WITHOUT ROWID"
_EXISTS = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'event_types'"
_FILL = "INSERT INTO event_types SELECT DISTINCT type FROM events"
_FIRST = "SELECT position FROM events WHERE type = ? ORDER BY position LIMIT 1"


def take_event_types(connection: sqlite3.Connection, types: Collection[str]) -> Sequence[tuple[str, int]]:
    """Add event types of a domain to those of the log, unless the log has others.

    Args:
        connection: A connection within a transaction.
        types: Full names of all event types of the domain.

    Returns:
        Event types of the log that are none of `types`, each with the position of its first event, by position. Nothing
        is added then.
    """
    if connection.execute(_EXISTS).fetchone() is None:
        connection.execute(_CREATE)
        connection.execute(_FILL)
    recorded = {name for (name,) in connection.execute("SELECT type FROM event_types")}
    missing: list[tuple[str, int]] = []
    for name in recorded.difference(types):
        first = connection.execute(_FIRST, (name,)).fetchone()
        if first is not None:
            missing.append((name, first[0]))
        else:
            connection.execute("DELETE FROM event_types WHERE type = ?", (name,))
    if not missing:
        connection.executemany("INSERT OR IGNORE INTO event_types VALUES (?)", [(name,) for name in types])
    return sorted(missing, key=lambda each: each[1])
