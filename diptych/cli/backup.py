"""`diptych backup` and `diptych restore`: the log's file, copied while it is in use, and put back.

What they do is done by the command server's package, which is found by name: nothing here depends on it.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from diptych.cli.options import fail
from diptych.cli.progress import progress
from diptych.server.settings import Dsn, sqlite_path

Log = Annotated[str, typer.Option(envvar="DIPTYCH_LOG", metavar="DSN", help="DSN of the log.")]
LOG = "sqlite:///data/log.db"


def backup(
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="File to write the backup to.")],
    log: Log = LOG,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Copies the log to a file, consistently, while the command server runs."""
    with progress("Copying the log") as told:
        done = _run("backup", "back_up", path_of("backup", "--log", log), to, told, force=force)
    identity, head = done.log
    typer.echo(
        f"{to} holds the log {identity.log_id.hex()} up to position {head:,}, in epoch {identity.epoch}: "
        f"{done.size_bytes:,} bytes."
    )


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A backup.")],
    log: Log = LOG,
    force: Annotated[bool, typer.Option("--force", help="Replace a log that exists.")] = False,
    after_epoch: Annotated[
        int,
        typer.Option(
            min=0,
            help="Begin an epoch after this one: the last that was known, where the log that is replaced is lost.",
        ),
    ] = 0,
) -> None:
    """Makes a backup the log, in a new epoch; the command server must not run."""
    with progress("Copying the backup") as told:
        done = _run(
            "restore", "restore", file, path_of("restore", "--log", log), told, force=force, after_epoch=after_epoch
        )
    identity, head = done.log
    if done.unreadable:
        typer.echo(
            f"diptych restore: the log that was replaced could not be read ({done.unreadable}), so its epoch is not "
            f"known. If it was later than {identity.epoch - 1}, restore again with --after-epoch.",
            err=True,
        )
    lost = "" if not done.lost else f" {done.lost:,} later events of the log that was replaced are gone."
    typer.echo(
        f"The log {identity.log_id.hex()} is restored up to position {head:,}; epoch {identity.epoch} begins at "
        f"{head + 1:,}.{lost}"
    )


def path_of(command: str, option: str, dsn: str) -> Path:
    """The file that a DSN names; ends the program with a sentence if it names none."""
    try:
        return sqlite_path(TypeAdapter(Dsn).validate_python(dsn))
    except ValidationError as error:
        message = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        fail(command, f"{option}: {message}, not {dsn!r}.")


def _run(command: str, function: str, *arguments: Any, **options: Any) -> Any:
    module = importlib.import_module("command_server.maintenance.backup")
    try:
        return getattr(module, function)(*arguments, **options)
    except module.LogFileError as error:
        fail(command, str(error), status=1)
