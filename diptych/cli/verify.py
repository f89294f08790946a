"""`diptych verify`: whether the log, the unique values and every view are what they must be.

What it does is done by the packages of the command server and the projector, which are found by name: nothing here
depends on them.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from diptych.cli.backup import LOG, Log, path_of
from diptych.cli.options import fail
from diptych.cli.progress import progress
from diptych.domain.loading import DomainError, LoadedDomain, load
from diptych.storage import copy as sqlite_copy
from diptych.storage.errors import DatabaseDamagedError, DatabaseError, own_errors
from diptych.storage.findings import Findings


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
            metavar="DIR", help="Folder for what is folded anew and for a copy of the read store. Unset: the system's."
        ),
    ] = None,
) -> None:
    """Folds the log anew beside the live views, and tells all that differs. The servers may run.

    Ends with status 0 if nothing differs, 1 if something does, 2 if it could not be checked.
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
            findings.differs("FILE_DAMAGED", f"A file is damaged: {error}.")
        except DatabaseError as error:
            findings.unchecked.append(f"A file could not be read: {error}.")
        except OSError as error:
            findings.unchecked.append(f"There is no room to work in: {error}.")
    raise typer.Exit(_tell(findings))


def _check(log: Path, read_store: Path, domain: LoadedDomain, folder: Path, findings: Findings) -> None:
    commands = importlib.import_module("command_server.maintenance.log_check")
    errors = importlib.import_module("command_server.maintenance.log_file")
    copy = folder / "read.db"
    # First, so that the log holds all that the copy was folded from.
    if read_store.exists():
        with progress("Copying the read store") as told:
            sqlite_copy.copy(read_store, copy, told)
    else:
        findings.unchecked.append(f"There is no read store {read_store}.")
    if not log.exists():
        findings.unchecked.append(f"There is no log {log}.")
        return
    try:
        with commands.LogCheck(log, folder / "log-check.db", domain, findings) as check:
            with progress("Walking the log") as told:
                check.check(told)
            with progress("Folding the aggregates") as told:
                check.check_states(told)
            if copy.exists():
                _check_rows(copy, domain, check, findings)
    except errors.LogFileError as error:
        findings.unchecked.append(str(error))


def _check_rows(copy: Path, domain: LoadedDomain, log: Any, findings: Findings) -> None:
    projector = importlib.import_module("projector.store.rows_check")
    with projector.RowsCheck(copy, findings) as rows:
        for name, projection in sorted(domain.domain.projections.items()):
            filled = rows.generation(projection)
            if filled is None or _diverged(name, filled, log, findings):
                continue
            with progress(f"Folding projection {name}") as told:
                rows.check(projection, filled, log.pages, told)


def _diverged(name: str, filled: Any, log: Any, findings: Findings) -> bool:
    """Whether a projection was not filled from this log as it is."""
    (position, event_id), log_id = filled.checkpoint, log.log.identity.log_id.hex()
    if filled.log_id not in ("", log_id):
        findings.differs(
            "LOG_DIVERGED", f"Projection {name} was filled from log {filled.log_id}, and this is {log_id}."
        )
    elif position and log.event_id_at(position) not in (None, event_id):
        findings.differs(
            "LOG_DIVERGED",
            f"Projection {name} has applied event {event_id} at position {position}, and the log has "
            f"{log.event_id_at(position) or 'none'} there.",
        )
    else:
        return False
    return True


def _tell(findings: Findings) -> int:
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
