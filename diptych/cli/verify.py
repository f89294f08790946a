"""`diptych verify`: fold the log again, and compare unique values and every view with the result."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diptych.cli.backup import LOG, Log, path_of
from diptych.cli.progress import show_progress
from diptych.domain.errors import DomainError
from diptych.domain.loading import LoadedDomain, load
from diptych.server.options import fail
from diptych.storage import copy as sqlite_copy
from diptych.storage.errors import DatabaseDamagedError, DatabaseError, own_errors
from diptych.storage.findings import Findings

if TYPE_CHECKING:
    from command_server.maintenance.log_check import LogCheck
    from projector.store.rows_check import Generation


def verify(
    log: Log = LOG,
    read_store: Annotated[
        str, typer.Option(envvar="DIPTYCH_READ_STORE", metavar="DSN", help="DSN of the read store.")
    ] = "sqlite:///data/read.db",
    domain: Annotated[
        str, typer.Option(envvar="DIPTYCH_DOMAIN", help="Python package of the domain, whose code folds the log.")
    ] = "shop",
    scratch: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder for refolded rows and for a copy of the read store. Unset: the system's."
        ),
    ] = None,
) -> None:
    """Fold the log again beside the live views, and print every difference. The servers may run.

    The exit status is 0 if nothing differs, 1 if something does, 2 if a part could not be checked.
    """
    paths = path_of("verify", "--log", log), path_of("verify", "--read-store", read_store)
    try:
        loaded = load(domain)
    except DomainError as error:
        fail("verify", str(error))
    findings = Findings()
    with tempfile.TemporaryDirectory(prefix="diptych-verify-", dir=scratch) as folder:
        try:
            with own_errors():
                _check(*paths, loaded, Path(folder), findings)
        except DatabaseDamagedError as error:
            findings.add("FILE_DAMAGED", f"A file is damaged: {error}.")
        except DatabaseError as error:
            findings.unchecked.append(f"A file could not be read: {error}.")
        except OSError as error:
            findings.unchecked.append(f"The scratch folder cannot be used: {error}.")
    raise typer.Exit(_report(findings))


def _check(log: Path, read_store: Path, domain: LoadedDomain, folder: Path, findings: Findings) -> None:
    from command_server.maintenance.log_check import LogCheck
    from command_server.maintenance.log_file import LogFileError

    copy = folder / "read.db"
    # The read store is copied first, so that the log includes every event that the copy was folded from.
    if read_store.exists():
        with show_progress("Copying the read store") as report:
            sqlite_copy.copy(read_store, copy, report)
    else:
        findings.unchecked.append(f"There is no read store {read_store}.")
    if not log.exists():
        findings.unchecked.append(f"There is no log {log}.")
        return
    try:
        with LogCheck(log, folder / "log-check.db", domain, findings) as check:
            with show_progress("Walking the log") as report:
                check.check(report)
            with show_progress("Folding the aggregates") as report:
                check.check_states(report)
            if copy.exists():
                asyncio.run(_check_rows(copy, domain, check, findings))
    except LogFileError as error:
        findings.unchecked.append(str(error))


async def _check_rows(copy: Path, domain: LoadedDomain, log: LogCheck, findings: Findings) -> None:
    from projector.store.rows_check import RowsCheck

    async with RowsCheck(copy, findings) as rows:
        for name, projection in sorted(domain.domain.projections.items()):
            generation = await rows.generation(projection)
            if generation is None or _diverges(name, generation, log, findings):
                continue
            with show_progress(f"Folding projection {name}") as report:
                await rows.check(projection, generation, log.pages, report)


def _diverges(name: str, generation: Generation, log: LogCheck, findings: Findings) -> bool:
    """Return True, and record a finding, if a generation was filled from another history than this log's."""
    (position, event_id), log_id = generation.checkpoint, log.log.identity.log_id.hex()
    if generation.log_id not in ("", log_id):
        findings.add(
            "LOG_DIVERGED", f"Projection {name} was filled from log {generation.log_id}, and this is {log_id}."
        )
    elif position and log.event_id_at(position) not in (None, event_id):
        findings.add(
            "LOG_DIVERGED",
            f"Projection {name} has applied event {event_id} at position {position}, and the log has "
            f"{log.event_id_at(position) or 'none'} there.",
        )
    else:
        return False
    return True


def _report(findings: Findings) -> int:
    """Print the findings and return the exit status."""
    for sentence in findings.checked:
        typer.echo(f"checked {sentence}")
    for kind, sentences in findings.differences.items():
        for sentence in sentences:
            typer.echo(f"{kind}: {sentence}")
        if findings.counts[kind] > len(sentences):
            typer.echo(f"{kind}: and {findings.counts[kind] - len(sentences):,} more")
    for sentence in findings.unchecked:
        typer.echo(f"NOT CHECKED: {sentence}")
    if findings.counts:
        typer.echo(f"{findings.counts.total():,} difference(s)")
        return 1
    if findings.unchecked:
        return 2
    typer.echo("nothing differs")
    return 0
