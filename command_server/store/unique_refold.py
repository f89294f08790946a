"""Unique values that are folded again from the log, as the code that makes them has changed.

The log keeps a digest of the code behind each unique value. A start compares it with the digest of its own code:

1. The unique values whose digests differ, and the snapshots of their aggregates, are deleted.
2. Each of those aggregates is folded from its first event, and its values are taken again.
3. If two aggregates have one value, everything is rolled back, and the conflicts are reported.
4. The new digests are stored. Values and digests that the domain no longer declares are deleted.

All of it is one transaction of the writer, before any command is accepted.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

from command_server.store import statements
from diptych.domain.aggregate import Aggregate
from diptych.domain.code_digest import unique_digest
from diptych.v1.events_pb2 import EventBatch

CONFLICTS_MAX = 5
"""Conflicts that an error names."""
_PAGE_STREAMS = 500
_CREATE = (
    "CREATE TABLE IF NOT EXISTS unique_functions (name TEXT NOT NULL PRIMARY KEY, digest TEXT NOT NULL) WITHOUT ROWID"
)
_DIGESTS = "SELECT name, digest FROM unique_functions"
_PUT = "INSERT OR REPLACE INTO unique_functions VALUES (?, ?)"
_FORGET = "DELETE FROM unique_functions WHERE name = ?"
_RELEASE_ALL = "DELETE FROM unique_values WHERE key >= ? AND key < ?"
_DROP_SNAPSHOTS = "DELETE FROM snapshots WHERE stream >= ? AND stream < ?"
_STREAMS = "SELECT name, stream FROM streams WHERE name > ? AND name < ? ORDER BY name LIMIT ?"
_TAKE = "INSERT OR IGNORE INTO unique_values VALUES (?, ?)"
_HOLDER = "SELECT holder FROM unique_values WHERE key = ?"


class UniqueConflict(Exception):
    """Aggregates that have one unique value by the present code. Nothing was changed."""

    def __init__(self, conflicts: Collection[str], count: int) -> None:
        more = f"; and {count - len(conflicts):,} more" if count > len(conflicts) else ""
        super().__init__("; ".join(conflicts) + more)


class Refolded(NamedTuple):
    """Result for the unique values of one aggregate type."""

    names: tuple[str, ...]
    """Unique values that were folded again, as `user.email`."""
    aggregates: int
    values: int


def refold_uniques(
    connection: sqlite3.Connection, aggregates: Iterable[Aggregate[Any]], *, everything: bool = False
) -> list[Refolded]:
    """Fold the unique values again whose code has changed.

    Args:
        connection: A connection within a transaction.
        aggregates: All aggregates of the domain.
        everything: True to fold all unique values again, also those with an unchanged digest.

    Raises:
        UniqueConflict: Two aggregates have one value, or a value can't be made. The caller rolls back.
    """
    connection.execute(_CREATE)
    stored = dict(connection.execute(_DIGESTS))
    results = []
    declared: set[str] = set()
    for aggregate in aggregates:
        digests = {f"{aggregate.type}.{one.name}": unique_digest(aggregate, one) for one in aggregate.uniques}
        declared.update(digests)
        changed = {name for name, digest in digests.items() if everything or stored.get(name) != digest}
        if changed:
            results.append(_refold(connection, aggregate, changed))
            connection.executemany(_PUT, [(name, digests[name]) for name in sorted(changed)])
    for name in stored.keys() - declared:
        _release(connection, name)
        connection.execute(_FORGET, (name,))
    return results


def _refold(connection: sqlite3.Connection, aggregate: Aggregate[Any], names: set[str]) -> Refolded:
    kind = aggregate.type
    for name in names:
        _release(connection, name)
    connection.execute(_DROP_SNAPSHOTS, _between(f"{kind}/"))
    uniques = [unique for unique in aggregate.uniques if f"{kind}.{unique.name}" in names]
    conflicts: list[str] = []
    aggregates = values = faults = 0
    for stream, number in _streams(connection, kind):
        aggregates += 1
        found: list[str] = []
        try:
            state = _fold(connection, aggregate, number)
            claims = [(unique.name, unique.value(state)) for unique in uniques]
        except Exception as error:
            claims = []
            found.append(f"{stream} cannot be folded: {type(error).__name__}: {error}")
        for name, value in claims:
            if not value:
                continue
            if "\0" in value:
                found.append(f"{kind}.{name} of {stream} has the character NUL")
            elif connection.execute(_TAKE, (key := f"{kind}.{name}:{value}", stream)).rowcount:
                values += 1
            else:
                (holder,) = connection.execute(_HOLDER, (key,)).fetchone()
                found.append(f"{kind}.{name} {value!r} belongs to {holder} and to {stream}")
        faults += len(found)
        conflicts += found[: CONFLICTS_MAX - len(conflicts)]
    if faults:
        raise UniqueConflict(conflicts, faults)
    return Refolded(tuple(sorted(names)), aggregates, values)


def _release(connection: sqlite3.Connection, name: str) -> None:
    connection.execute(_RELEASE_ALL, _between(f"{name}:"))


def _streams(connection: sqlite3.Connection, kind: str) -> Iterator[tuple[str, int]]:
    """Yield the streams of an aggregate type by name, in pages."""
    after, end = _between(f"{kind}/")
    while rows := connection.execute(_STREAMS, (after, end, _PAGE_STREAMS)).fetchall():
        yield from rows
        after = rows[-1][0]


def _fold(connection: sqlite3.Connection, aggregate: Aggregate[Any], stream: int) -> Any:
    """Return the state of a stream, folded from its first event."""
    state = aggregate.initial
    for (frame,) in connection.execute(statements.HISTORY.sql, statements.HISTORY.bind(stream=stream, after=0)):
        for recorded in EventBatch.FromString(frame).events:
            kind = recorded.event.type_url.rpartition("/")[2]
            state = aggregate.evolve(state, aggregate.recorded(kind, recorded.event.value))
    return state


def _between(prefix: str) -> tuple[str, str]:
    """Return the bounds of the texts that begin with a prefix."""
    return prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1)
