"""The check of the states: unique values and snapshots against the folded aggregates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from command_server.maintenance import check_statements as statements
from command_server.maintenance.check_database import PAGE_EVENTS, CheckDatabase
from diptych.domain.aggregate import Aggregate
from diptych.domain.loading import LoadedDomain
from diptych.storage.copy import Progress
from diptych.storage.findings import Findings, align
from diptych.v1.events_pb2 import EventBatch

_PROGRESS_STREAMS = 1000
"""Streams between two reports of progress."""


class StateCheck:
    """Folds every aggregate with unique values or a snapshot from its first event."""

    def __init__(self, database: CheckDatabase, domain: LoadedDomain, findings: Findings) -> None:
        self._database = database
        self._domain = domain
        self._findings = findings

    def check(self, progress: Progress) -> int:
        """Check all streams, and return their number.

        Raises:
            sqlite3.Error: a file cannot be read or written.
        """
        ((count,),) = self._database.rows(statements.COUNT_WALKED)
        for done, (stream, name) in enumerate(self._streams()):
            self._check_stream(stream, name)
            if done % _PROGRESS_STREAMS == 0:
                progress(done, count)
        self._check_uniques()
        return int(count)

    def _streams(self) -> Iterator[tuple[int, str]]:
        """Yield every stream, by name."""
        after = ""
        while rows := self._database.rows(statements.NAMES, after=after, count=PAGE_EVENTS):
            yield from ((stream, name) for name, stream in rows)
            after = rows[-1][0]

    def _check_stream(self, stream: int, name: str) -> None:
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
        claims = [(unique.name, unique.value(state)) for unique in aggregate.uniques]
        rows = [(f"{kind}.{unique}:{value}", name) for unique, value in claims if value]
        if rows:
            self._database.write(statements.CLAIM, rows)

    def _snapshot(self, name: str, kind: str) -> Any:
        """Return version, shape and state of a stream's snapshot; None without one of the codec's shape."""
        rows = self._database.rows(statements.SNAPSHOT, name=name)
        return rows[0] if rows and rows[0][1] == self._domain.codecs[kind].shape else None

    def _fold(self, aggregate: Aggregate[Any], stream: int, snapshot: Any) -> Any:
        """Return the state of a stream, and compare its snapshot with the state at that version."""
        state, version = aggregate.initial, 0
        codec = self._domain.codecs[aggregate.type]
        head = self._database.log.head
        while frames := self._database.rows(
            statements.HISTORY, stream=stream, after=version, until=head, count=PAGE_EVENTS
        ):
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

    def _check_uniques(self) -> None:
        """Compare the unique values that are taken with those that the states have."""
        listed, claimed = (
            self._database.cursor(statements.UNIQUES_LISTED),
            self._database.cursor(statements.UNIQUES_CLAIMED),
        )
        for key, row, claim in align(listed, claimed):
            if row is not None and claim is None:
                self._findings.add("UNIQUE_EXTRA", f"{key} is taken by {row[1]}, which does not have it.")
            elif claim is not None and row is None:
                self._findings.add("UNIQUE_MISSING", f"{claim[1]} has {key}, for which it is not taken.")
            elif row is not None and claim is not None and row != claim:
                self._findings.add("UNIQUE_DIFFERENT", f"{claim[1]} has {key}, which is taken by {row[1]}.")
