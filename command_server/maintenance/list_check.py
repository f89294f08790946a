"""The check of the lists: streams and request ids against the events."""

from __future__ import annotations

from command_server.maintenance import check_statements as statements
from command_server.maintenance.check_database import PAGE_EVENTS, CheckDatabase
from diptych.storage.findings import Findings, align


def check_epochs(database: CheckDatabase, findings: Findings) -> None:
    """Check that epochs begin in order, within the log."""
    log, first = database.log, 1
    for number, (epoch, begins) in enumerate(log.identity.epochs):
        if begins < first or (number == 0 and begins != 1) or begins > log.head + 1:
            findings.add("LOG_EPOCHS", f"Epoch {epoch} begins at position {begins}, which cannot be in {log.identity}.")
        first = begins


def check_head(database: CheckDatabase, findings: Findings) -> None:
    """Check that the head is the position of the last event."""
    head, last = database.log.head, database.last_position
    if last != head:
        findings.add("LOG_HEAD", f"The head is {head}, and the last event is at {last}.")


def check_streams(database: CheckDatabase, findings: Findings) -> None:
    """Compare the listed streams with those derived from the events."""
    listed, walked = database.cursor(statements.STREAMS_LISTED), database.cursor(statements.STREAMS_WALKED)
    for name, row, derived in align(listed, walked):
        if derived is None:
            findings.add("STREAM_EXTRA", f"Stream {name} is listed, and has no events.")
        elif row is None:
            findings.add("STREAM_MISSING", f"Stream {name} has events up to position {derived[3]}, and is not listed.")
        elif row != derived:
            findings.add(
                "STREAM_DIFFERENT",
                f"Stream {name} is listed with first position, version and last position {row[1:]}, and its "
                f"events come to {derived[1:]}.",
            )


def check_requests(database: CheckDatabase, findings: Findings) -> None:
    """Check that every stored request id names an existing version of its stream, or version 0 for no event."""
    after = ""
    while rows := database.rows(statements.REQUESTS, after=after, count=PAGE_EVENTS):
        for key, stream, version, position, event in rows:
            after = key
            if 0 <= position <= database.log.head and (version == 0 or (event is not None and event <= position)):
                continue
            there = "is not there" if event is None else f"is at {event}"
            findings.add(
                "REQUEST_DANGLING",
                f"Request id {key.rpartition(chr(10))[2]} stands for version {version} of {stream} at position "
                f"{position}, which {there}.",
            )
