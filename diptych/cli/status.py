"""`diptych status`: the log and every projection, as a query server knows them, and the command server's processes."""

from __future__ import annotations

import asyncio
from typing import Annotated

import grpc.aio
import typer
from google.protobuf import json_format

from diptych.cli.options import fail
from diptych.cli.processes import listed, print_processes
from diptych.cli.screen import lag
from diptych.client import CallRefused, open_channel
from diptych.v1 import projections_pb2, read_model_pb2


def status(
    query: Annotated[
        str, typer.Option(envvar="DIPTYCH_QUERY", metavar="HOST:PORT", help="The query server to ask.")
    ] = "127.0.0.1:50052",
    commands: Annotated[
        str, typer.Option(envvar="DIPTYCH_COMMANDS", metavar="HOST:PORT", help="The command server to ask.")
    ] = "127.0.0.1:50051",
    json: Annotated[bool, typer.Option("--json", help="Print the query server's answer as JSON.")] = False,
) -> None:
    """Shows how far each projection is, what the processes wait for, and what has stopped."""
    try:
        answer = asyncio.run(_ask(query))
    except grpc.aio.AioRpcError as error:
        fail("status", f"the query server at {query} did not answer: {CallRefused.of(error)}", status=1)
    if json:
        for projection in answer.projections:
            # Whoever has not the domain's contracts cannot print its events as JSON.
            projection.stalled_event.ClearField("event")
        typer.echo(json_format.MessageToJson(answer, always_print_fields_with_no_presence=True))
    else:
        _print(answer)
        _print_processes(commands)


async def _ask(address: str) -> read_model_pb2.GetStatusResponse:
    async with open_channel(address) as channel:
        get_status = channel.unary_unary(
            "/diptych.v1.ReadModelService/GetStatus",
            request_serializer=read_model_pb2.GetStatusRequest.SerializeToString,
            response_deserializer=read_model_pb2.GetStatusResponse.FromString,
        )
        return await get_status(read_model_pb2.GetStatusRequest(), timeout=10)


def _print(answer: read_model_pb2.GetStatusResponse) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    heard = f"heard {answer.head_age.ToNanoseconds() / 1e9:.1f} s ago"
    age = heard if answer.HasField("head_age") else "never heard of"
    console.print(
        f"log {answer.log_id or '(unknown)'}, epoch {answer.epoch}, head {answer.head_position:,} ({age})",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("projection", "state", "version", "generation", "position", "lag", "parked"):
        table.add_column(title, justify="left" if title in ("projection", "state", "lag") else "right")
    for projection in answer.projections:
        table.add_row(*_cells(projection))
    console.print(table)
    for projection in answer.projections:
        for line in _why(projection):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def _print_processes(address: str) -> None:
    from rich.console import Console

    console = Console()
    try:
        answer = asyncio.run(listed(address))
    except grpc.aio.AioRpcError:
        console.print(f"processes: not known, as the command server at {address} did not answer", soft_wrap=True)
        return
    if answer.processes:
        console.print()
        print_processes(console, answer)


def _cells(projection: projections_pb2.ProjectionStatus) -> tuple[str, ...]:
    state = projections_pb2.ProjectionState.Name(projection.state).removeprefix("PROJECTION_STATE_")
    colour = {"RUNNING": "green", "PAUSED": "magenta", "STALLED": "red", "UNSPECIFIED": "red"}.get(state, "yellow")
    return (
        projection.name,
        f"[{colour}]{'UNKNOWN' if state == 'UNSPECIFIED' else state}[/]",
        str(projection.version),
        str(projection.generation),
        f"{projection.progress.applied_position:,}",
        lag(projection),
        str(projection.parked_streams),
    )


def _why(projection: projections_pb2.ProjectionStatus) -> list[str]:
    """Why a projection stands still."""
    lines = []
    if projection.state == projections_pb2.PROJECTION_STATE_PAUSED:
        lines.append(f"{projection.name}: paused by an operator; `diptych resume {projection.name}` lets it go on")
    if projection.reason:
        lines.append(f"{projection.name}: {projection.reason}")
    if projection.HasField("stalled_event"):
        event = projection.stalled_event
        lines.append(
            f"{projection.name}: it stands on event {event.position}, {event.event.TypeName()}, version "
            f"{event.version} of {event.aggregate.type}/{event.aggregate.id}"
        )
    return lines
