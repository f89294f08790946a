"""The check of the log: what it says of itself against what its events say, while a server may be writing it.

All tables but the events, which only grow, are taken over into a file of our own in one short transaction. Then
the events up to the head of that moment are walked, a page at a time, so that no transaction is held open and
memory does not grow with the log.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, String, Table, bindparam, func, insert, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.schema import CreateIndex, CreateTable

from command_server.maintenance import log_file
from command_server.maintenance.log_file import LogFile
from command_server.store import schema
from command_server.submission import recorded_request_key
from diptych.domain.aggregate import Aggregate
from diptych.domain.loading import LoadedDomain
from diptych.storage.connections import open_read_only
from diptych.storage.copy import Progress
from diptych.storage.findings import Findings, align
from diptych.storage.sql import Compiled, compile_sqlite
from diptych.v1.events_pb2 import EventBatch, RecordedEvent

PAGE_EVENTS = 2000
"""Events that are looked at together."""

_IN_LOG = MetaData(schema="source")
_EVENTS = schema.events.to_metadata(_IN_LOG)
_TAKEN = (schema.streams, schema.requests, schema.unique_values, schema.snapshots)
"""What is taken over."""

_walked = Table(
    "walked",
    MetaData(),
    # As in `events`: the position of the stream's first event.
    Column("stream", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("name", String, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Index("walked_name", "name"),
)
"""The streams as their events tell them."""

_claimed = Table(
    "claimed",
    MetaData(),
    Column("key", String, nullable=False),
    Column("holder", String, nullable=False),
)
"""The unique values as the aggregates' states tell them."""


class _Stream(NamedTuple):
    """A stream as far as it was walked."""

    stream: int
    name: str
    version: int
    position: int


class _Event(NamedTuple):
    """A row of `events`."""

    position: int
    stream: int
    version: int
    type: str
    frame: bytes


class LogCheck:
    """Checks one log by the code of a domain, with a file of its own beside it. Use it in `with`."""

    def __init__(self, path: Path, scratch: Path, domain: LoadedDomain, findings: Findings) -> None:
        self._path = path
        self._domain = domain
        self._findings = findings
        self._connection = sqlite3.connect(scratch.absolute().as_uri(), uri=True, isolation_level=None)
        self.log: LogFile
        """The log as it is checked: up to this head."""

    def __enter__(self) -> LogCheck:
        """Takes over what is checked; raises `LogFileError`, `sqlite3.Error`."""
        try:
            self._take_over()
        except BaseException:
            self._connection.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def check(self, progress: Progress) -> None:
        """Walks the log and compares its streams and request ids with that; raises `sqlite3.Error`."""
        self._check_epochs()
        self._walk(progress)
        self._compare_streams()
        self._check_requests()
        self._findings.checked.append(f"the log up to position {self.log.head:,}")

    def check_states(self, progress: Progress) -> None:
        """Folds every aggregate anew, after `check`, and compares unique values and snapshots with that."""
        ((streams,),) = self._rows(_COUNT)
        for done, (stream, name) in enumerate(self._streams()):
            self._check_state(stream, name)
            if done % 1000 == 0:
                progress(done, streams)
        self._compare_uniques()
        self._findings.checked.append(f"{streams:,} streams, with their unique values and snapshots")

    def pages(self, until: int, types: Iterable[str]) -> Iterator[tuple[int, Sequence[RecordedEvent]]]:
        """The events of some types up to a position, in order, a page at a time: how far it reaches, and the events."""
        after, wanted = 0, json.dumps(sorted(types))
        while after < until:
            reach = min(until, after + PAGE_EVENTS)
            rows = self._rows(_TYPED, after=after, until=reach, types=wanted)
            yield reach, EventBatch.FromString(b"".join([frame for (frame,) in rows])).events
            after = reach

    def event_id_at(self, position: int) -> str | None:
        """The id of the event at a position; empty if there is none, None if it cannot be read."""
        rows = self._rows(_FRAME, at=position)
        recorded = _parsed(rows[0][0]) if rows else RecordedEvent()
        return None if recorded is None else recorded.event_id

    def _rows(self, statement: Compiled, **values: Any) -> list[Any]:
        return self._connection.execute(statement.sql, statement.bind(**values)).fetchall()

    def _cursor(self, statement: Compiled) -> Iterator[Any]:
        return iter(self._connection.execute(statement.sql, statement.bind()))

    def _take_over(self) -> None:
        with closing(open_read_only(self._path)) as reading:
            log_file.read(reading, self._path)
        connection, dialect = self._connection, sqlite.dialect()
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-65536", "busy_timeout=5000"):
            connection.execute(f"PRAGMA {pragma}")
        for table in (*_TAKEN, _walked, _claimed):
            connection.execute(str(CreateTable(table).compile(dialect=dialect)))
        connection.execute("ATTACH ? AS source", (f"{self._path.absolute().as_uri()}?mode=ro",))
        connection.execute("BEGIN")
        self.log = log_file.describe(connection, self._path)
        for statement in _TAKE:
            connection.execute(statement.sql)
        ((last,),) = self._rows(_LAST)
        connection.execute("COMMIT")
        if (last or 0) != self.log.head:
            self._findings.add("LOG_HEAD", f"The head is {self.log.head}, and the last event is at {last or 0}.")

    def _check_epochs(self) -> None:
        first = 1
        for number, (epoch, begins) in enumerate(self.log.identity.epochs):
            if begins < first or (number == 0 and begins != 1) or begins > self.log.head + 1:
                self._findings.add(
                    "LOG_EPOCHS", f"Epoch {epoch} begins at position {begins}, which cannot be in {self.log.identity}."
                )
            first = begins

    def _walk(self, progress: Progress) -> None:
        """Looks at every event up to the head."""
        after, head = 0, self.log.head
        while after < head:
            events = [_Event(*row) for row in self._rows(_PAGE, after=after, until=head, count=PAGE_EVENTS)]
            streams = self._walked({event.stream for event in events})
            keys: dict[str, int] = {}
            self._connection.execute("BEGIN")
            for event in events:
                self._missing(after, event.position)
                after = event.position
                self._look_at(event, streams, keys)
            self._connection.executemany(_PUT_WALKED.sql, list(streams.values()))
            self._connection.execute("COMMIT")
            self._look_up(keys)
            if not events:
                self._missing(after, head + 1)
                after = head
            progress(after, head)
        for table in (_walked, _claimed):
            for index in table.indexes:
                self._connection.execute(str(CreateIndex(index).compile(dialect=sqlite.dialect())))

    def _missing(self, before: int, after: int) -> None:
        if after == before + 2:
            self._findings.add("LOG_GAP", f"Position {before + 1} is missing.")
        elif after > before + 2:
            self._findings.add("LOG_GAP", f"Positions {before + 1} to {after - 1} are missing.")

    def _walked(self, streams: Iterable[int]) -> dict[int, _Stream]:
        return {row[0]: _Stream(*row) for row in self._rows(_GET_WALKED, streams=json.dumps(list(streams)))}

    def _look_at(self, event: _Event, streams: dict[int, _Stream], keys: dict[str, int]) -> None:
        """Compares an event's frame with its row, and its version with that before it."""
        findings, where = self._findings, f"The event at position {event.position}"
        name = ""
        recorded = _parsed(event.frame)
        if recorded is None:
            findings.add("FRAME_MALFORMED", f"{where} is no recorded event: its bytes cannot be read.")
        else:
            name = f"{recorded.aggregate.type}/{recorded.aggregate.id}"
            kind = recorded.event.type_url.rpartition("/")[2]
            if recorded.position != event.position:
                findings.add("FRAME_POSITION", f"{where} says that its position is {recorded.position}.")
            if recorded.version != event.version:
                findings.add(
                    "FRAME_VERSION", f"{where} says that its version is {recorded.version}, its row {event.version}."
                )
            if kind != event.type:
                findings.add("FRAME_TYPE", f"{where} says that it is a {kind}, its row a {event.type}.")
            self._parse(recorded, kind, where)
            if recorded.metadata.request_id:
                key = recorded_request_key(recorded.metadata.actor, recorded.metadata.request_id)
                keys.setdefault(key, event.position)
        before = streams.get(event.stream)
        if before is None:
            if event.stream != event.position or event.version != 1:
                findings.add(
                    "STREAM_VERSIONS",
                    f"{where} is the first of its stream {name}, with version {event.version} in place of 1, and its "
                    f"row says that the first is at {event.stream}.",
                )
        elif event.version != before.version + 1:
            findings.add(
                "STREAM_VERSIONS",
                f"{where} has version {event.version} of {name or before.name}, and the one before, at position "
                f"{before.position}, has {before.version}.",
            )
        if before is not None and name and name != before.name:
            findings.add("FRAME_STREAM", f"{where} says that it is of {name}, its row that it is of {before.name}.")
        streams[event.stream] = _Stream(
            event.stream, before.name if before is not None else name, event.version, event.position
        )

    def _parse(self, recorded: RecordedEvent, kind: str, where: str) -> None:
        known = self._domain.event_types.get(kind)
        if known is None:
            self._findings.add("EVENT_UNKNOWN", f"{where} is a {kind}, which the domain does not have.")
            return
        try:
            known.FromString(recorded.event.value)
        except DecodeError:
            self._findings.add("EVENT_MALFORMED", f"{where} holds bytes that are no {kind}.")

    def _look_up(self, keys: dict[str, int]) -> None:
        """Compares request ids that events tell with those that are remembered."""
        if not keys:
            return
        found = dict(self._rows(_GET_REQUESTS, keys=json.dumps(list(keys))))
        for key, position in keys.items():
            known = found.get(key)
            if known is None or known < position:
                id = key.rpartition("\n")[2]
                self._findings.add(
                    "REQUEST_FORGOTTEN",
                    f"The event at position {position} was recorded under request id {id}, which is "
                    f"{'not remembered' if known is None else f'remembered for position {known}'}: a repeat would not "
                    "be known for one.",
                )

    def _compare_streams(self) -> None:
        for name, row, walked in align(self._cursor(_STREAMS_TOLD), self._cursor(_STREAMS_WALKED)):
            if walked is None:
                self._findings.add("STREAM_EXTRA", f"Stream {name} is listed, and has no events.")
            elif row is None:
                self._findings.add(
                    "STREAM_MISSING", f"Stream {name} has events up to position {walked[3]}, and is not listed."
                )
            elif row != walked:
                self._findings.add(
                    "STREAM_DIFFERENT",
                    f"Stream {name} is listed with first position, version and last position {row[1:]}, and its "
                    f"events come to {walked[1:]}.",
                )

    def _check_requests(self) -> None:
        """Checks that every remembered request id stands for an event that is there, or for none."""
        after = ""
        while rows := self._rows(_REQUESTS, after=after, count=PAGE_EVENTS):
            for key, stream, version, position, event in rows:
                after = key
                if 0 <= position <= self.log.head and (version == 0 or (event is not None and event <= position)):
                    continue
                there = "is not there" if event is None else f"is at {event}"
                self._findings.add(
                    "REQUEST_DANGLING",
                    f"Request id {key.rpartition(chr(10))[2]} stands for version {version} of {stream} at position "
                    f"{position}, which {there}.",
                )

    def _streams(self) -> Iterator[tuple[int, str]]:
        """Every stream, by name."""
        after = ""
        while rows := self._rows(_NAMES, after=after, count=PAGE_EVENTS):
            yield from ((stream, name) for name, stream in rows)
            after = rows[-1][0]

    def _check_state(self, stream: int, name: str) -> None:
        kind, _, _ = name.partition("/")
        aggregate = self._domain.domain.aggregates.get(kind)
        if aggregate is None:
            self._findings.add("STREAM_UNKNOWN", f"Stream {name} is of no aggregate type that the domain has.")
            return
        snapshot = self._snapshot(name, kind)
        if snapshot is None and not aggregate.uniques:
            return
        try:
            state = self._fold(aggregate, stream, snapshot)
        except Exception as error:
            self._findings.add("STREAM_BROKEN", f"The events of {name} cannot be evolved: {error!r}")
            return
        for unique in aggregate.uniques:
            if value := unique.value(state):
                self._connection.execute(_CLAIM.sql, (f"{kind}.{unique.name}:{value}", name))

    def _snapshot(self, name: str, kind: str) -> Any:
        """Version and state of a stream's snapshot, if there is one that would be read."""
        rows = self._rows(_SNAPSHOT, of=name)
        return rows[0] if rows and rows[0][1] == self._domain.codecs[kind].shape else None

    def _fold(self, aggregate: Aggregate[Any], stream: int, snapshot: Any) -> Any:
        state, version = aggregate.initial, 0
        codec = self._domain.codecs[aggregate.type]
        while frames := self._rows(_HISTORY, stream=stream, after=version, until=self.log.head, count=PAGE_EVENTS):
            for version, frame in frames:
                event = EventBatch.FromString(frame).events[0]
                kind = event.event.type_url.rpartition("/")[2]
                state = aggregate.evolve(state, aggregate.recorded(kind, event.event.value))
                if snapshot is not None and snapshot[0] == version and codec.encode(state) != snapshot[2]:
                    self._findings.add(
                        "SNAPSHOT_WRONG",
                        f"The snapshot of {event.aggregate.type}/{event.aggregate.id} at version {version} is not the "
                        "state that its events come to.",
                    )
        if snapshot is not None and snapshot[0] > version:
            self._findings.add(
                "SNAPSHOT_WRONG",
                f"There is a snapshot of version {snapshot[0]} of the stream that begins at position {stream}, and its "
                f"events end with version {version}.",
            )
        return state

    def _compare_uniques(self) -> None:
        for key, row, claimed in align(self._cursor(_UNIQUES_TOLD), self._cursor(_UNIQUES_CLAIMED)):
            if row is not None and claimed is None:
                self._findings.add("UNIQUE_EXTRA", f"{key} is taken by {row[1]}, which does not have it.")
            elif claimed is not None and row is None:
                self._findings.add("UNIQUE_MISSING", f"{claimed[1]} has {key}, for which it is not taken.")
            elif row is not None and claimed is not None and row != claimed:
                self._findings.add("UNIQUE_DIFFERENT", f"{claimed[1]} has {key}, which is taken by {row[1]}.")


def _parsed(frame: bytes) -> RecordedEvent | None:
    """The event in a frame, if it is one frame and nothing else."""
    try:
        batch = EventBatch.FromString(frame)
    except DecodeError:
        return None
    return batch.events[0] if len(batch.events) == 1 and not batch.token else None


def _listed(parameter: str) -> Any:
    """A list as one JSON parameter."""
    return select(func.json_each(bindparam(parameter)).table_valued("value").c.value)


_E, _W, _R, _U, _S = _EVENTS.c, _walked.c, schema.requests.c, schema.unique_values.c, schema.snapshots.c
_T = schema.streams.c
_AFTER, _UNTIL = _E.position > bindparam("after"), _E.position <= bindparam("until")
_TAKE = [
    compile_sqlite(insert(table).from_select(list(table.columns.keys()), select(table.to_metadata(_IN_LOG))))
    for table in _TAKEN
]
_LAST = compile_sqlite(select(func.max(_E.position)))
_PAGE = compile_sqlite(
    select(_E.position, _E.stream, _E.version, _E.type, _E.frame)
    .where(_AFTER, _UNTIL)
    .order_by(_E.position)
    .limit(bindparam("count"))
)
_TYPED = compile_sqlite(select(_E.frame).where(_AFTER, _UNTIL, _E.type.in_(_listed("types"))).order_by(_E.position))
_FRAME = compile_sqlite(select(_E.frame).where(_E.position == bindparam("at")))
_HISTORY = compile_sqlite(
    select(_E.version, _E.frame)
    .where(_E.stream == bindparam("stream"), _E.version > bindparam("after"), _UNTIL)
    .order_by(_E.version)
    .limit(bindparam("count"))
)
_GET_WALKED = compile_sqlite(
    select(_W.stream, _W.name, _W.version, _W.position).where(_W.stream.in_(_listed("streams")))
)
_PUT_WALKED = compile_sqlite(
    upsert(_walked).on_conflict_do_update(
        index_elements=["stream"],
        set_={"version": upsert(_walked).excluded.version, "position": upsert(_walked).excluded.position},
    )
)
_COUNT = compile_sqlite(select(func.count()).select_from(_walked))
_NAMES = compile_sqlite(
    select(_W.name, _W.stream).where(_W.name > bindparam("after")).order_by(_W.name).limit(bindparam("count"))
)
_STREAMS_TOLD = compile_sqlite(select(_T.name, _T.stream, _T.version, _T.position).order_by(_T.name))
_STREAMS_WALKED = compile_sqlite(select(_W.name, _W.stream, _W.version, _W.position).order_by(_W.name))
_GET_REQUESTS = compile_sqlite(select(_R.key, _R.position).where(_R.key.in_(_listed("keys"))))
_REQUESTS = compile_sqlite(
    select(_R.key, _R.stream, _R.version, _R.position, _E.position)
    .select_from(
        schema.requests.outerjoin(_walked, _W.name == _R.stream).outerjoin(
            _EVENTS, (_E.stream == _W.stream) & (_E.version == _R.version)
        )
    )
    .where(_R.key > bindparam("after"))
    .order_by(_R.key)
    .limit(bindparam("count"))
)
_SNAPSHOT = compile_sqlite(select(_S.version, _S.shape, _S.state).where(_S.stream == bindparam("of")))
_CLAIM = compile_sqlite(insert(_claimed))
_UNIQUES_TOLD = compile_sqlite(select(_U.key, _U.holder).order_by(_U.key))
_UNIQUES_CLAIMED = compile_sqlite(select(_claimed.c.key, _claimed.c.holder).order_by(_claimed.c.key, _claimed.c.holder))
