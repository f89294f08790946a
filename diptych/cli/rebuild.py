"""`diptych rebuild`: fill a new generation of a projection, or switch back to a retired one."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from diptych.cli.addresses import PROJECTOR, Projector
from diptych.cli.backup import LOG, Log, path_of
from diptych.cli.calls import call_at, stream
from diptych.cli.projection_text import describe_lag, describe_state
from diptych.cli.similar_names import projector_refusal
from diptych.cli.unique_values import rebuild_uniques
from diptych.client import CallRefused
from diptych.server.channels import CallError, open_client_channel
from diptych.server.options import fail
from diptych.server.program import discard_output
from diptych.v1.projections_pb2 import (
    CancelRebuildRequest,
    CancelRebuildResponse,
    GenerationState,
    ListProjectionsRequest,
    ListProjectionsResponse,
    ProjectionStatus,
    RebuildRequest,
    RebuildResponse,
    SwitchGenerationRequest,
    SwitchGenerationResponse,
)

_SERVICE = "diptych.v1.ProjectionService"
_LINE_SECONDS = 2.0
"""Time between two lines without a terminal."""

Show = Callable[[RebuildResponse], None]


def rebuild(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="The projection's name, as `diptych status` shows it.")
    ] = "",
    projector: Projector = PROJECTOR,
    cancel: Annotated[bool, typer.Option("--cancel", help="Stop the running rebuild.")] = False,
    switch: Annotated[
        int, typer.Option("--switch", metavar="GENERATION", help="Switch to a generation that is kept.")
    ] = 0,
    everything: Annotated[bool, typer.Option("--all", help="Rebuild every projection, one after the other.")] = False,
    show_list: Annotated[
        bool, typer.Option("--list", help="List the generations of the projection, or of every one.")
    ] = False,
    uniques: Annotated[
        bool,
        typer.Option(
            "--uniques", help="Fold all unique values again, in the file of --log. Stop the command server first."
        ),
    ] = False,
    log: Log = LOG,
    domain: Annotated[
        str, typer.Option(envvar="DIPTYCH_DOMAIN", help="Python package of the domain; for --uniques.")
    ] = "shop",
) -> None:
    """Fill a new generation beside the active one, and switch to it when it has caught up.

    The rebuild continues when this command is stopped. The same command shows it again.
    """
    if uniques:
        if name or cancel or switch or everything or show_list:
            fail("rebuild", "--uniques takes no projection and no other operation.")
        rebuild_uniques(path_of("rebuild", "--log", log), domain)
        return
    if not (name or everything or show_list):
        fail("rebuild", "Name a projection, as `diptych status` shows it, or give --all or --uniques.")
    if sum(map(bool, (cancel, switch, everything, show_list))) > 1 or (everything and name):
        fail("rebuild", "--cancel, --switch, --list and --all exclude each other, and --all takes no projection.")
    work: Coroutine[Any, Any, None]
    if show_list:
        work = _print_generations(projector, name)
    elif everything:
        work = _follow_all(projector)
    elif cancel:
        work = _cancel(projector, name)
    elif switch:
        work = _switch(projector, name, switch)
    else:
        work = _follow(projector, name)
    try:
        asyncio.run(work)
    except SystemExit:  # A signal.
        if not (cancel or switch):
            typer.echo(_continues(name), err=True)
        raise
    except BrokenPipeError:  # The reader of the output, such as `head`, has ended.
        discard_output()
        typer.echo(_continues(name), err=True)
    except CallError as error:
        fail("rebuild", projector_refusal(projector, error), status=1)


def _continues(name: str) -> str:
    return (
        f"The rebuild of {name} goes on in the projector: `diptych rebuild {name}` shows it again, "
        f"`diptych rebuild {name} --cancel` stops it."
    )


async def _cancel(projector: str, name: str) -> None:
    request = CancelRebuildRequest(projection=name)
    _print_status((await call_at(projector, f"{_SERVICE}/CancelRebuild", request, CancelRebuildResponse)).status)


async def _switch(projector: str, name: str, generation: int) -> None:
    request = SwitchGenerationRequest(projection=name, generation=generation)
    try:
        response = await call_at(projector, f"{_SERVICE}/SwitchGeneration", request, SwitchGenerationResponse)
    except CallError as error:
        refused = CallRefused.of(error)
        if refused.reason != "GENERATION_NOT_FOUND":
            raise
        fail("rebuild", f"{refused} {await _generations_hint(projector, name, generation)}", status=1)
    _print_status(response.status)


async def _generations_hint(projector: str, name: str, generation: int) -> str:
    """Return a sentence with the remedy for a generation that the projector's code cannot switch to."""
    (status,) = [one for one in await _list(projector) if one.name == name]
    for one in status.generations:
        if one.generation == generation and one.version < status.version:
            return (
                f"It is of version {one.version}, and this code of version {status.version}: stop this projector, and "
                "start that of the older code with --roll-back."
            )
    return f"`diptych rebuild {name} --list` shows its generations."


async def _list(projector: str) -> list[ProjectionStatus]:
    method = f"{_SERVICE}/ListProjections"
    return list((await call_at(projector, method, ListProjectionsRequest(), ListProjectionsResponse)).projections)


async def _print_generations(projector: str, name: str) -> None:
    for status in await _list(projector):
        if name in ("", status.name):
            for one in status.generations:
                state = GenerationState.Name(one.state).removeprefix("GENERATION_STATE_").lower()
                typer.echo(
                    f"{status.name}: generation {one.generation} of version {one.version} is {state} at position "
                    f"{one.position:,}"
                )


async def _follow_all(projector: str) -> None:
    for status in await _list(projector):
        await _follow(projector, status.name)


def _print_status(status: ProjectionStatus) -> None:
    position = f"{status.progress.applied_position:,}"
    typer.echo(
        f"projection {status.name}, generation {status.generation}, is {describe_state(status)} at position {position} "
        f"({describe_lag(status)})"
    )


async def _follow(projector: str, name: str) -> None:
    """Start a rebuild, or join the running one, and show its progress until the switch."""
    last: RebuildResponse | None = None
    async with open_client_channel(projector) as channel:
        with _progress(name) as show:
            async for last in stream(channel, f"{_SERVICE}/Rebuild", RebuildRequest(projection=name), RebuildResponse):
                show(last)
    if last is None or not last.switched:
        fail(
            "rebuild",
            f"the projector at {projector} ended before the rebuild did; it goes on when the projector is back.",
            status=1,
        )
    typer.echo(f"generation {last.generation} of projection {name} answers, at position {last.position:,}")


@contextmanager
def _progress(name: str) -> Iterator[Show]:
    """Show the progress of a rebuild: a bar on a terminal, a line every 2 s elsewhere."""
    if not sys.stdout.isatty():
        yield _lines(name)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"))
    with Progress(*columns) as progress:
        task = progress.add_task(f"filling {name}", total=None, speed="")

        def show(answer: RebuildResponse) -> None:
            progress.update(task, completed=answer.position, total=answer.head_position, speed=_speed(answer))

        yield show


def _lines(name: str) -> Show:
    due = 0.0

    def show(answer: RebuildResponse) -> None:
        nonlocal due
        if time.monotonic() >= due and not answer.switched:
            due = time.monotonic() + _LINE_SECONDS
            typer.echo(
                f"filling {name}, generation {answer.generation}: {answer.position:,} of {answer.head_position:,} "
                f"{_speed(answer)}".rstrip()
            )

    return show


def _speed(answer: RebuildResponse) -> str:
    """Return events per second and the remaining time; empty before they are measured."""
    if not answer.events_per_second:
        return ""
    seconds = answer.remaining.ToNanoseconds() / 1e9
    left = f"{seconds // 60:.0f} min {seconds % 60:.0f} s" if seconds >= 60 else f"{seconds:.0f} s"
    return f"({answer.events_per_second:,.0f} events/s, {left} left)"
