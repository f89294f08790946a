"""The `diptych` command line, above the servers.

Each command is a module that is imported only when its command runs: the three servers start at once on a small
machine and should not import modules that they do not need.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from diptych.server.program import Command, run_program

COMMANDS = (
    *("up", "command-server", "projector", "query-server"),
    *("status", "processes", "pause", "resume", "rebuild", "parked", "events", "watch", "call"),
    *("verify", "backup", "restore", "health", "contracts", "generate"),
)
"""Names of all commands, in the order of the help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Args:
        argv: Arguments without the program's name. None: those of this process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    named = arguments[:1] if arguments and arguments[0] in COMMANDS else COMMANDS
    return run_program({name: _command(name) for name in named}, arguments)


def _command(name: str) -> Command:
    """Import and return a command."""
    match name:
        case "up":
            from diptych.cli.up import up

            return up
        case "command-server":
            from command_server.program import command_server

            return command_server
        case "projector":
            from projector.program import projector

            return projector
        case "query-server":
            from query_server.program import query_server

            return query_server
        case "status":
            from diptych.cli.status import status

            return status
        case "processes":
            from diptych.cli.processes import processes

            return processes
        case "pause":
            from diptych.cli.pause import pause

            return pause
        case "resume":
            from diptych.cli.pause import resume

            return resume
        case "rebuild":
            from diptych.cli.rebuild import rebuild

            return rebuild
        case "parked":
            from diptych.cli.parked import parked

            return parked
        case "events":
            from diptych.cli.events import events

            return events
        case "watch":
            from diptych.cli.watch import watch

            return watch
        case "call":
            from diptych.cli.call import call

            return call
        case "verify":
            from diptych.cli.verify import verify

            return verify
        case "backup":
            from diptych.cli.backup import backup

            return backup
        case "restore":
            from diptych.cli.backup import restore

            return restore
        case "health":
            from diptych.cli.health import health

            return health
        case "contracts":
            from diptych.cli.contracts import contracts

            return contracts
        case "generate":
            from diptych.cli.generate import generate

            return generate
    raise ValueError(f"There is no command {name!r}.")
