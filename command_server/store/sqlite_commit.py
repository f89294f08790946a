"""The commit of a batch on SQLite: load, decide and record, in one transaction.

The functions run on the thread and the transaction of the writing connection, which holds SQLite's write lock. What
they load is therefore still true when they record.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Mapping

from command_server.store import statements
from command_server.store.event_store import EpochBegun, StoreUnavailable
from command_server.store.records import Committed, Decided, History, Loaded, Reads, Request, Snapshot, StreamHead
from diptych.contract.frames import frame
from diptych.server import failpoints


def commit(connection: sqlite3.Connection, epoch: int, reads: Reads, decide: Callable[[Loaded], Decided]) -> Committed:
    """Load, decide and record a batch in the open transaction.

    1. Load the streams and request ids that the batch reads.
    2. Decide. Look up the holders of unique values that the decision asks for, and decide again.
    3. If the decision writes a stream, request id or unique value that was never loaded, load it and decide anew:
       a value of another writer is never overwritten unread.
    4. Record the decision; the log's counter gives the positions.

    Raises:
        EpochBegun: the log is in another epoch than `epoch`.
    """
    loaded = BatchLoader(connection, reads)
    decided = decide(loaded.of_batch())
    while True:
        if decided.lookups:
            loaded.load_holders(decided.lookups)
        elif not loaded.load_unread(decided):
            break
        decided = decide(loaded.of_batch())
    failpoints.hit("commit.decided")
    recorder = BatchRecorder(connection, epoch, loaded.stream_ids, loaded.holders)
    committed = recorder.record(decided)
    failpoints.hit("commit.recorded")
    return committed


class BatchLoader:
    """Everything that was loaded for one batch."""

    __slots__ = ("_connection", "_histories", "_reads", "_requests", "_streams", "holders", "stream_ids")

    def __init__(self, connection: sqlite3.Connection, reads: Reads) -> None:
        self._connection = connection
        self.holders: dict[str, str | None] = {}
        self._load(reads)

    def of_batch(self) -> Loaded:
        """Return the streams, histories, request ids and holders that were loaded."""
        return Loaded(self._streams, self._histories, self._requests, self.holders)

    def load_holders(self, keys: Collection[str]) -> None:
        """Look up the holders of unique values."""
        holders = dict(statements.HOLDERS.read(self._connection, keys))
        self.holders.update((key, holders.get(key)) for key in keys)

    def load_unread(self, decided: Decided) -> bool:
        """Load the streams, request ids and holders that a decision writes unread; return False if there are none."""
        reads = self._reads
        streams = {event.stream for event in decided.events} - reads.streams.keys()
        requests = [key for key in decided.requests if key not in reads.requests]
        claims = [key for key, holder in decided.claims.items() if holder is not None and key not in self.holders]
        if not (streams or requests or claims):
            return False
        self._load(Reads({**reads.streams, **dict.fromkeys(streams, -1)}, reads.shapes, {*reads.requests, *requests}))
        self.holders = dict(self.holders)
        self.load_holders(claims)
        return True

    def _load(self, reads: Reads) -> None:
        self._reads = reads
        self.stream_ids: dict[str, int] = {}
        self._streams: dict[str, StreamHead] = {}
        for name, stream, version, position in statements.STREAMS.read(self._connection, reads.streams):
            self.stream_ids[name] = stream
            self._streams[name] = StreamHead(version, position)
        rows = statements.REQUESTS.read(self._connection, reads.requests)
        self._requests = {key: Request(*rest) for key, *rest in rows}
        self._histories = {
            name: self._history(name) for name, head in self._streams.items() if head.version != reads.streams[name]
        }

    def _history(self, name: str) -> History:
        snapshot = None
        after = 0
        row = self._connection.execute(statements.SNAPSHOT.sql, (name,)).fetchone()
        if row is not None and row[1] == self._reads.shapes.get(name.partition("/")[0]):
            snapshot = Snapshot(*row)
            after = snapshot.version
        values = statements.HISTORY.bind(stream=self.stream_ids[name], after=after)
        return History(snapshot, [row[0] for row in self._connection.execute(statements.HISTORY.sql, values)])


class BatchRecorder:
    """Writes the decision on one batch."""

    __slots__ = ("_connection", "_epoch", "_holders", "_stream_ids")

    def __init__(
        self,
        connection: sqlite3.Connection,
        epoch: int,
        stream_ids: Mapping[str, int],
        holders: Mapping[str, str | None],
    ) -> None:
        self._connection = connection
        self._epoch = epoch
        self._stream_ids = stream_ids
        self._holders = holders

    def record(self, decided: Decided) -> Committed:
        """Write a decision; return its events' frames with their positions."""
        connection = self._connection
        first = self._first_position(len(decided.events))
        frames = self._insert_events(decided, first) if decided.events else []
        if decided.requests:
            accepted_at = decided.accepted_at
            statements.INSERT_REQUESTS.insert(
                connection,
                [
                    (key, digest, stream, version, position if position >= 0 else first - 1 - position, accepted_at)
                    for key, (digest, stream, version, position) in decided.requests.items()
                ],
            )
        if decided.claims:
            self._claim(decided.claims)
        for stream_name, (version, shape, state) in decided.snapshots.items():
            values = statements.PUT_SNAPSHOT.bind(stream=stream_name, version=version, shape=shape, state=state)
            connection.execute(statements.PUT_SNAPSHOT.sql, values)
        if decided.opened:
            connection.executemany(
                statements.OPEN_WORK.sql,
                [(position if position >= 0 else first - 1 - position, *rest) for position, *rest in decided.opened],
            )
        if decided.settled:
            connection.executemany(statements.SETTLE_WORK.sql, list(decided.settled))
        if decided.unparked:
            connection.executemany(statements.DELETE_PARKED.sql, list(decided.unparked))
        return Committed(first, frames)

    def _first_position(self, count: int) -> int:
        """Advance the head by `count` events, and return the position of the first."""
        if not count:
            _, head = self._connection.execute(statements.HEAD.sql).fetchone()
            return int(head) + 1
        values = statements.ADVANCE.bind(old_epoch=self._epoch, count=count)
        row = self._connection.execute(statements.ADVANCE.sql, values).fetchone()
        if row is None:
            raise EpochBegun("the log has begun a newer epoch")
        return int(row[0]) - count + 1

    def _insert_events(self, decided: Decided, first: int) -> list[bytes]:
        ids = self._stream_ids
        frames: list[bytes] = []
        rows: list[tuple[int, int, int, str, bytes]] = []
        changed: dict[str, tuple[str, int, int, int]] = {}
        position = first
        for name, version, kind, body in decided.events:
            stream = ids.get(name)
            if stream is None:
                before = changed.get(name)
                stream = position if before is None else before[1]
            one = frame(position, body)
            frames.append(one)
            rows.append((position, stream, version, kind, one))
            changed[name] = (name, stream, version, position)
            position += 1
        statements.INSERT_EVENTS.insert(self._connection, rows)
        statements.PUT_STREAMS.insert(self._connection, list(changed.values()))
        return frames

    def _claim(self, claims: Mapping[str, str | None]) -> None:
        """Release, move and take unique values; a value moves only from the holder that the decision was given."""
        released: list[tuple[str]] = []
        taken: list[tuple[str, str]] = []
        for key, holder in claims.items():
            before = self._holders.get(key)
            if holder is None:
                released.append((key,))
            elif before is None:
                taken.append((key, holder))
            else:
                self._move(key, before, holder)
        self._connection.executemany(statements.DELETE_UNIQUE.sql, released)
        statements.INSERT_UNIQUES.insert(self._connection, taken)

    def _move(self, key: str, before: str, holder: str) -> None:
        values = statements.MOVE_UNIQUE.bind(old_key=key, old_holder=before, new_holder=holder)
        if self._connection.execute(statements.MOVE_UNIQUE.sql, values).rowcount != 1:
            raise StoreUnavailable(f"{before} does not hold a unique value that {holder} takes from it")
