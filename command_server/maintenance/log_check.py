"""The check of the log: its tables against its events, while a server may be writing it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from command_server.maintenance import check_statements as statements
from command_server.maintenance import list_check
from command_server.maintenance.check_database import PAGE_EVENTS, CheckDatabase
from command_server.maintenance.event_check import EventCheck, parse_frame
from command_server.maintenance.log_file import LogFile
from command_server.maintenance.state_check import StateCheck
from diptych.domain.loading import LoadedDomain
from diptych.storage.copy import Progress
from diptych.storage.findings import Findings
from diptych.v1.events_pb2 import EventBatch, RecordedEvent


class LogCheck:
    """Checks one log by the code of a domain. Use it in `with`.

    1. Entering copies the tables of the log into a scratch file, as of one moment (`CheckDatabase`).
    2. `check` reads every event (`EventCheck`) and compares streams and request ids with them (`list_check`).
    3. `check_states` folds the aggregates and compares unique values and snapshots with them (`StateCheck`).

    Args:
        path: the log.
        scratch: the scratch file; it must not exist.
        domain: the domain whose code recorded the log.
        findings: receives each difference.
    """

    def __init__(self, path: Path, scratch: Path, domain: LoadedDomain, findings: Findings) -> None:
        self._database = CheckDatabase(path, scratch)
        self._domain = domain
        self._findings = findings

    def __enter__(self) -> LogCheck:
        """Copy the tables of the log.

        Raises:
            LogFileError: the file is no log.
            sqlite3.Error: a file cannot be read or written.
        """
        try:
            self._database.open()
        except BaseException:
            self._database.close()
            raise
        list_check.check_head(self._database, self._findings)
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    @property
    def log(self) -> LogFile:
        """Identity and head of the log as it is checked."""
        return self._database.log

    def check(self, progress: Progress) -> None:
        """Check events, epochs, streams and request ids.

        Raises:
            sqlite3.Error: a file cannot be read or written.
        """
        list_check.check_epochs(self._database, self._findings)
        EventCheck(self._database, self._domain, self._findings).check(progress)
        list_check.check_streams(self._database, self._findings)
        list_check.check_requests(self._database, self._findings)
        self._findings.checked.append(f"the log up to position {self.log.head:,}")

    def check_states(self, progress: Progress) -> None:
        """Check unique values and snapshots; call `check` before.

        Raises:
            sqlite3.Error: a file cannot be read or written.
        """
        streams = StateCheck(self._database, self._domain, self._findings).check(progress)
        self._findings.checked.append(f"{streams:,} streams, with their unique values and snapshots")

    def pages(self, until: int, types: Iterable[str]) -> Iterator[tuple[int, Sequence[RecordedEvent]]]:
        """Yield the events of some types up to a position, in pages: each page's last position, and its events."""
        after, names = 0, json.dumps(sorted(types))
        while after < until:
            end = min(until, after + PAGE_EVENTS)
            rows = self._database.rows(statements.PAGE_OF_TYPES, after=after, until=end, types=names)
            yield end, EventBatch.FromString(b"".join([frame for (frame,) in rows])).events
            after = end

    def event_id_at(self, position: int) -> str | None:
        """Return the id of the event at a position; empty: there is none; None: it cannot be read."""
        rows = self._database.rows(statements.FRAME, position=position)
        event = parse_frame(rows[0][0]) if rows else RecordedEvent()
        return None if event is None else event.event_id
