"""The check of the events: every position, frame, version and request id."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple

from google.protobuf.message import DecodeError

from command_server.maintenance import check_statements as statements
from command_server.maintenance.check_database import PAGE_EVENTS, CheckDatabase
from command_server.submission import is_client_key, recorded_request_key
from diptych.domain.loading import LoadedDomain
from diptych.storage.copy import Progress
from diptych.storage.findings import Findings
from diptych.v1.events_pb2 import EventBatch, RecordedEvent


class _Event(NamedTuple):
    """A row of `events`."""

    position: int
    stream: int
    version: int
    type: str
    frame: bytes


class _Stream(NamedTuple):
    """A stream as far as its events are read."""

    stream: int
    name: str
    version: int
    position: int


class EventCheck:
    """Reads every event once and derives the streams from them."""

    def __init__(self, database: CheckDatabase, domain: LoadedDomain, findings: Findings) -> None:
        self._database = database
        self._domain = domain
        self._findings = findings

    def check(self, progress: Progress) -> None:
        """Check all events up to the head.

        Raises:
            sqlite3.Error: a file cannot be read or written.
        """
        after, head = 0, self._database.log.head
        while after < head:
            rows = self._database.rows(statements.PAGE, after=after, until=head, count=PAGE_EVENTS)
            if rows:
                after = self._check_page([_Event(*row) for row in rows], after)
            else:
                self._check_gap(after, head + 1)
                after = head
            progress(after, head)
        self._database.create_indexes()

    def _check_page(self, events: list[_Event], after: int) -> int:
        """Check a page of events that follows a position; return the page's last position."""
        streams = self._walked({event.stream for event in events})
        keys: dict[str, int] = {}
        for event in events:
            self._check_gap(after, event.position)
            after = event.position
            recorded = parse_frame(event.frame)
            name = self._check_frame(event, recorded)
            if recorded is not None and recorded.metadata.request_id:
                key = recorded_request_key(recorded.metadata.actor, recorded.metadata.request_id)
                if not self._may_be_forgotten(key, recorded):
                    keys.setdefault(key, event.position)
            streams[event.stream] = self._check_version(event, name, streams.get(event.stream))
        self._database.write(statements.PUT_WALKED, list(streams.values()))
        self._check_request_ids(keys)
        return after

    def _walked(self, streams: Iterable[int]) -> dict[int, _Stream]:
        rows = self._database.rows(statements.GET_WALKED, streams=json.dumps(list(streams)))
        return {row[0]: _Stream(*row) for row in rows}

    def _check_gap(self, before: int, after: int) -> None:
        if after == before + 2:
            self._findings.add("LOG_GAP", f"Position {before + 1} is missing.")
        elif after > before + 2:
            self._findings.add("LOG_GAP", f"Positions {before + 1} to {after - 1} are missing.")

    def _check_frame(self, event: _Event, recorded: RecordedEvent | None) -> str:
        """Compare a frame with its row; return the stream's name in the frame, or an empty string."""
        findings, subject = self._findings, f"The event at position {event.position}"
        if recorded is None:
            findings.add("FRAME_MALFORMED", f"{subject} is no recorded event: its bytes cannot be read.")
            return ""
        kind = recorded.event.type_url.rpartition("/")[2]
        if recorded.position != event.position:
            findings.add("FRAME_POSITION", f"{subject} says that its position is {recorded.position}.")
        if recorded.version != event.version:
            findings.add(
                "FRAME_VERSION", f"{subject} says that its version is {recorded.version}, its row {event.version}."
            )
        if kind != event.type:
            findings.add("FRAME_TYPE", f"{subject} says that it is a {kind}, its row a {event.type}.")
        self._check_message(recorded, kind, subject)
        return f"{recorded.aggregate.type}/{recorded.aggregate.id}"

    def _check_message(self, recorded: RecordedEvent, kind: str, subject: str) -> None:
        message = self._domain.event_types.get(kind)
        if message is None:
            self._findings.add("EVENT_UNKNOWN", f"{subject} is a {kind}, which the domain does not have.")
            return
        try:
            message.FromString(recorded.event.value)
        except DecodeError:
            self._findings.add("EVENT_MALFORMED", f"{subject} holds bytes that are no {kind}.")

    def _check_version(self, event: _Event, name: str, before: _Stream | None) -> _Stream:
        """Compare an event's version and stream with those of the event before it; return the stream up to it."""
        findings, subject = self._findings, f"The event at position {event.position}"
        if before is None:
            if event.stream != event.position or event.version != 1:
                findings.add(
                    "STREAM_VERSIONS",
                    f"{subject} is the first of its stream {name}, with version {event.version} in place of 1, and its "
                    f"row says that the first is at {event.stream}.",
                )
            return _Stream(event.stream, name, event.version, event.position)
        if event.version != before.version + 1:
            findings.add(
                "STREAM_VERSIONS",
                f"{subject} has version {event.version} of {name or before.name}, and the one before, at position "
                f"{before.position}, has {before.version}.",
            )
        if name and name != before.name:
            findings.add("FRAME_STREAM", f"{subject} says that it is of {name}, its row that it is of {before.name}.")
        return _Stream(event.stream, before.name, event.version, event.position)

    def _may_be_forgotten(self, key: str, recorded: RecordedEvent) -> bool:
        """True if a sweep may have deleted the request id of an event, or another command has it since."""
        before = self._database.forgotten_before
        return recorded.record_time.ToMicroseconds() < before and is_client_key(key)

    def _check_request_ids(self, keys: dict[str, int]) -> None:
        """Compare request ids in events with those that are remembered."""
        if not keys:
            return
        remembered = dict(self._database.rows(statements.GET_REQUESTS, keys=json.dumps(list(keys))))
        for key, position in keys.items():
            other = remembered.get(key)
            if other is None or other < position:
                id = key.rpartition("\n")[2]
                self._findings.add(
                    "REQUEST_FORGOTTEN",
                    f"The event at position {position} was recorded under request id {id}, which is "
                    f"{'not remembered' if other is None else f'remembered for position {other}'}: a repeat would be "
                    "decided again.",
                )


def parse_frame(frame: bytes) -> RecordedEvent | None:
    """Return the event in a frame; None if the bytes are not exactly one frame."""
    try:
        batch = EventBatch.FromString(frame)
    except DecodeError:
        return None
    return batch.events[0] if len(batch.events) == 1 and not batch.token else None
