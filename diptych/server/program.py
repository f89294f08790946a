"""Programs: the frame in which every `diptych` command runs, from its arguments to its exit status."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version as distribution_version
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

HELP = "Diptych: CQRS as a running pair of gRPC servers. `diptych up` starts it."

Command = Callable[..., Any] | typer.Typer
"""Function that typer makes a command of, or a group of commands."""


def run_program(commands: Mapping[str, Command], arguments: Sequence[str]) -> int:
    """Run the command that the arguments name, and return the exit status.

    SIGTERM and SIGINT end the program with status 0 until the command handles them itself.

    Args:
        commands: Commands by their names, in the order of the help.
        arguments: The name of a command and its own arguments; none prints the help, with status 2.
    """
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.append(str(Path.cwd()))  # A domain in the working directory need not be installed.
    if sys.stdout is None:  # The caller closed it.
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open until the end
    _escape_unprintable_text()
    previous = [(number, signal.signal(number, _exit)) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        _app(commands)(args=list(arguments), prog_name="diptych")
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        discard_output()
        print(f"diptych: the output cannot be written: {error.strerror}.", file=sys.stderr)
        return 1
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        for number, handler in previous:
            signal.signal(number, handler)
    return 0


def discard_output() -> None:
    """Send stdout to nowhere, after its reader, such as `head`, has ended. Later writes and the exit raise nothing."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _escape_unprintable_text() -> None:
    """Make stdout and stderr escape characters that their encoding lacks, so that no name of a user ends a program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _app(commands: Mapping[str, Command]) -> typer.Typer:
    app = typer.Typer(
        name="diptych",
        help=HELP,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(help=HELP)
    def _(
        version: Annotated[
            bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
        ] = False,
    ) -> None:
        """Make typer expect the name of a command even if there is only one."""

    for name, command in commands.items():
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"diptych {distribution_version('diptych')}")
        raise typer.Exit


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)
