"""`diptych backup` and `diptych restore`: copy the log's file while it is in use, and restore a copy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from diptych.cli.progress import show_progress
from diptych.server.dsn import Dsn, sqlite_path
from diptych.server.options import fail

Log = Annotated[str, typer.Option(envvar="DIPTYCH_LOG", metavar="DSN", help="DSN of the log.")]
LOG = "sqlite:///data/log.db"


def backup(
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="File to write the backup to.")],
    log: Log = LOG,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Copy the log to a file, consistently, while the command server runs."""
    from command_server.maintenance import backup as log_backup
    from command_server.maintenance.log_file import LogFileError

    path = path_of("backup", "--log", log)
    try:
        with show_progress("Copying the log") as report:
            result = log_backup.back_up(path, to, report, force=force)
    except LogFileError as error:
        fail("backup", str(error), status=1)
    identity, head = result.log
    typer.echo(
        f"{to} holds the log {identity.log_id.hex()} up to position {head:,}, in epoch {identity.epoch}: "
        f"{result.size_bytes:,} bytes."
    )


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A backup.")],
    log: Log = LOG,
    force: Annotated[bool, typer.Option("--force", help="Replace a log that exists.")] = False,
    after_epoch: Annotated[
        int,
        typer.Option(
            min=0,
            help="Last epoch of the log that is replaced, if that log is lost; the restored log begins a later one.",
        ),
    ] = 0,
) -> None:
    """Make a backup the log, in a new epoch; stop the command server first."""
    from command_server.maintenance import backup as log_backup
    from command_server.maintenance.log_file import LogFileError

    path = path_of("restore", "--log", log)
    try:
        with show_progress("Copying the backup") as report:
            result = log_backup.restore(file, path, report, force=force, after_epoch=after_epoch)
    except LogFileError as error:
        fail("restore", str(error), status=1)
    identity, head = result.log
    if result.unreadable:
        typer.echo(
            f"diptych restore: the log that was replaced could not be read ({result.unreadable}), so its epoch is not "
            f"known. If it was later than {identity.epoch - 1}, restore again with --after-epoch.",
            err=True,
        )
    lost = "" if not result.lost else f" {result.lost:,} later events of the log that was replaced are gone."
    typer.echo(
        f"The log {identity.log_id.hex()} is restored up to position {head:,}; epoch {identity.epoch} begins at "
        f"{head + 1:,}.{lost}"
    )
    # Only a projection that applied lost events has diverged.
    diverged = "" if result.lost == 0 else " Rebuild each that is STALLED with LOG_DIVERGED: `diptych rebuild NAME`."
    typer.echo(f"Next: start the command server, and look at the projections with `diptych status`.{diverged}")


def path_of(command: str, option: str, dsn: str) -> Path:
    """Return the file that a DSN names. End the program with a sentence and status 2 if it names none."""
    try:
        return sqlite_path(TypeAdapter(Dsn).validate_python(dsn))
    except ValidationError as error:
        message = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        fail(command, f"{option}: {message}, not {dsn!r}.")
