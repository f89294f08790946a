"""`diptych status`: the log, every projection, the processes, and the servers that do not answer."""

from __future__ import annotations

import asyncio
import json as jsonlib
import time
from typing import Annotated

import typer

from diptych.cli.addresses import COMMANDS, PROJECTOR, QUERY, Commands, Projector, Query
from diptych.cli.problems import find_problems
from diptych.cli.server_status import read_status
from diptych.cli.whole_tables import print_whole
from diptych.server.options import fail
from diptych.server.program import discard_output


def status(
    query: Query = QUERY,
    projector: Projector = PROJECTOR,
    commands: Commands = COMMANDS,
    check: Annotated[bool, typer.Option("--check", help="Print the problems alone; nothing if there is none.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON, with --watch one line each.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Repeat until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two answers, with --watch.")] = 1.0,
) -> None:
    """Show the progress of projections and processes, all that has stopped or is parked, and silent servers.

    The query server is asked first; the projector is asked if the query server does not answer.

    The exit status is 0 if nothing needs an operator, else 1: a server does not answer, a projection is STALLED or has
    parked streams, or an instance of a process is STUCK or PARKED. A projection that an operator paused is no problem.
    """
    if watch and check:
        fail("status", "--watch and --check exclude each other. Give one of them.")
    if watch:
        _watch(query, projector, commands, json, every)
        return
    current = asyncio.run(read_status(query, projector, commands))
    problems = find_problems(current)
    if json:
        typer.echo(jsonlib.dumps({"problems": problems}) if check else current.as_json(problems, indent=2))
    elif check:
        for problem in problems:
            typer.echo(problem)
    else:
        from diptych.cli.status_text import status_text

        print_whole(status_text(current))
        for sentence in current.silent.values():
            typer.echo(f"diptych status: {sentence}", err=True)
    raise typer.Exit(1 if problems else 0)


def _watch(query: str, projector: str, commands: str, json: bool, every: float) -> None:
    from rich.console import Console
    from rich.live import Live

    from diptych.cli.status_text import status_text

    console = Console()
    live = Live(console=console, auto_refresh=False) if console.is_terminal and not json else None
    if live is not None:
        live.start()
    try:
        while True:
            current = asyncio.run(read_status(query, projector, commands))
            if json:
                print(current.as_json(find_problems(current)), flush=True)
            elif live is not None:
                live.update(status_text(current), refresh=True)
            else:
                print_whole(status_text(current))
            time.sleep(every)
    except BrokenPipeError:  # The reader of the output, such as `head`, has ended.
        discard_output()
    finally:
        if live is not None:
            live.stop()
