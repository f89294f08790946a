"""The `diptych` command line.

Each command lies in a module that is imported when the command is asked for: three servers that start at once
on a small machine should not import what they do not need.
"""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple


class _Command(NamedTuple):
    module: str
    function: str


_COMMANDS = {
    "up": _Command("diptych.cli.up", "up"),
    "command-server": _Command("diptych.cli.servers", "command_server"),
    "projector": _Command("diptych.cli.servers", "projector"),
    "query-server": _Command("diptych.cli.servers", "query_server"),
    "status": _Command("diptych.cli.status", "status"),
    "processes": _Command("diptych.cli.processes", "processes"),
    "pause": _Command("diptych.cli.pause", "pause"),
    "resume": _Command("diptych.cli.pause", "resume"),
    "rebuild": _Command("diptych.cli.rebuild", "rebuild"),
    "parked": _Command("diptych.cli.parked", "parked"),
    "events": _Command("diptych.cli.events", "events"),
    "watch": _Command("diptych.cli.watch", "watch"),
    "verify": _Command("diptych.cli.verify", "verify"),
    "backup": _Command("diptych.cli.backup", "backup"),
    "restore": _Command("diptych.cli.backup", "restore"),
    "health": _Command("diptych.cli.health", "health"),
    "contracts": _Command("diptych.cli.contracts", "contracts"),
}

_HELP = "Diptych: CQRS as a running pair of gRPC servers. `diptych up` starts it."


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.append(str(Path.cwd()))  # A domain under development lies here, and need not be installed.
    # Until a program handles these signals itself, they end it like any request to stop: with status 0.
    previous = [(number, signal.signal(number, _stop)) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        _app(arguments)(args=arguments, prog_name="diptych")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        for number, handler in previous:
            signal.signal(number, handler)
    return 0


def _app(arguments: Sequence[str]) -> Callable[..., Any]:
    """The commands that these arguments can mean: the one that they name, or all."""
    import typer

    app = typer.Typer(
        name="diptych",
        help=_HELP,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(help=_HELP)
    def _() -> None:
        """Keeps the commands' names even if only one is declared."""

    wanted = arguments[0] if arguments else ""
    for name, command in _COMMANDS.items():
        if wanted not in _COMMANDS or wanted == name:
            found = getattr(importlib.import_module(command.module), command.function)
            if isinstance(found, typer.Typer):  # It has commands of its own.
                app.add_typer(found, name=name)
            else:
                app.command(name)(found)
    return app


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)
