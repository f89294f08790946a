"""`diptych rebuild`: filling a projection anew beside what answers, and going back to what was kept."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import contextmanager
from typing import Annotated, Any

import grpc.aio
import typer

from diptych.cli.screen import described, lag
from diptych.client import CallRefused, open_channel
from diptych.server.options import fail
from diptych.v1 import projections_pb2

_LINE_SECONDS = 2.0
"""How often a line is printed where there is no terminal."""

Show = Callable[[projections_pb2.RebuildResponse], None]


def rebuild(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The projection's name, as `diptych status` shows it.")],
    projector: Annotated[
        str, typer.Option(envvar="DIPTYCH_PROJECTOR", metavar="HOST:PORT", help="The projector that runs it.")
    ] = "127.0.0.1:50053",
    cancel: Annotated[bool, typer.Option("--cancel", help="Stop the rebuild that is under way.")] = False,
    switch: Annotated[
        int, typer.Option("--switch", metavar="GENERATION", help="Switch to a generation that is kept.")
    ] = 0,
) -> None:
    """Fills a projection anew beside the one that answers, and switches to it when it has caught up.

    The rebuild goes on when this command is stopped, and can be watched by the same command again.
    """
    if cancel and switch:
        fail("rebuild", "--cancel and --switch do not go together.")
    if cancel:
        asked: Any = _answered(projector, "CancelRebuild", projections_pb2.CancelRebuildRequest(projection=name))
    elif switch:
        request = projections_pb2.SwitchGenerationRequest(projection=name, generation=switch)
        asked = _answered(projector, "SwitchGeneration", request)
    else:
        asked = _followed(projector, name)
    try:
        asyncio.run(asked)
    except grpc.aio.AioRpcError as error:
        fail("rebuild", f"the projector at {projector} did not do it: {CallRefused.of(error)}", status=1)


async def _answered(projector: str, method: str, request: Any) -> None:
    response: Any = getattr(projections_pb2, f"{method}Response")
    async with open_channel(projector) as channel:
        call = channel.unary_unary(
            f"/diptych.v1.ProjectionService/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        status: projections_pb2.ProjectionStatus = (await call(request)).status
    position = f"{status.progress.applied_position:,}"
    typer.echo(
        f"projection {status.name}, generation {status.generation}, is {described(status)} at position {position} "
        f"({lag(status)})"
    )


async def _followed(projector: str, name: str) -> None:
    last: projections_pb2.RebuildResponse | None = None
    async with open_channel(projector) as channel:
        with _shown(name) as show:
            async for last in _told(channel, name):
                show(last)
    if last is None or not last.switched:
        fail(
            "rebuild",
            f"the projector at {projector} ended before the rebuild did; it goes on when it is back.",
            status=1,
        )
    typer.echo(f"generation {last.generation} of projection {name} answers, at position {last.position:,}")


async def _told(channel: grpc.aio.Channel, name: str) -> AsyncIterator[projections_pb2.RebuildResponse]:
    call: Any = channel.unary_stream(
        "/diptych.v1.ProjectionService/Rebuild",
        request_serializer=projections_pb2.RebuildRequest.SerializeToString,
        response_deserializer=projections_pb2.RebuildResponse.FromString,
    )
    async for told in call(projections_pb2.RebuildRequest(projection=name)):
        yield told


@contextmanager
def _shown(name: str) -> Any:
    """What shows how far it is: a bar on a terminal, and a line now and then elsewhere."""
    if not sys.stdout.isatty():
        yield _lines(name)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"))
    with Progress(*columns) as progress:
        task = progress.add_task(f"filling {name}", total=None, speed="")

        def show(told: projections_pb2.RebuildResponse) -> None:
            progress.update(task, completed=told.position, total=told.head_position, speed=_speed(told))

        yield show


def _lines(name: str) -> Show:
    due = 0.0

    def show(told: projections_pb2.RebuildResponse) -> None:
        nonlocal due
        if time.monotonic() >= due and not told.switched:
            due = time.monotonic() + _LINE_SECONDS
            typer.echo(
                f"filling {name}, generation {told.generation}: {told.position:,} of {told.head_position:,} "
                f"{_speed(told)}".rstrip()
            )

    return show


def _speed(told: projections_pb2.RebuildResponse) -> str:
    if not told.events_per_second:
        return ""
    seconds = told.remaining.ToNanoseconds() / 1e9
    left = f"{seconds // 60:.0f} min {seconds % 60:.0f} s" if seconds >= 60 else f"{seconds:.0f} s"
    return f"({told.events_per_second:,.0f} events/s, {left} left)"
