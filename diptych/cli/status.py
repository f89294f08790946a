"""`diptych status`: the log and every projection, as a query server knows them, the command server's processes, and
which server does not answer.

A query server that does not answer is no reason to know nothing: the projector is asked for what it runs then.
"""

from __future__ import annotations

import asyncio
import json as jsonlib
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import grpc.aio
import typer
from google.protobuf import json_format

from diptych.cli.processes import listed as listed_processes
from diptych.cli.processes import processes_as_text
from diptych.cli.screen import lag
from diptych.client import CallRefused, open_channel
from diptych.v1 import processes_pb2, projections_pb2, read_model_pb2

if TYPE_CHECKING:
    from rich.console import RenderableType

_ANSWER_SECONDS = 10.0

_HEARD_SECONDS = 3.0
"""A server that was not heard of for so long does not answer."""


def status(
    query: Annotated[
        str, typer.Option(envvar="DIPTYCH_QUERY", metavar="HOST:PORT", help="The query server to ask.")
    ] = "127.0.0.1:50052",
    projector: Annotated[
        str,
        typer.Option(
            envvar="DIPTYCH_PROJECTOR", metavar="HOST:PORT", help="The projector, asked if that does not answer."
        ),
    ] = "127.0.0.1:50053",
    commands: Annotated[
        str,
        typer.Option(envvar="DIPTYCH_COMMANDS", metavar="HOST:PORT", help="The command server, asked for processes."),
    ] = "127.0.0.1:50051",
    json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON, with --watch one line each.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it as it changes, until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks, with --watch.")] = 1.0,
) -> None:
    """Shows how far projections and processes are, what has stopped or is parked, and which server does not answer.

    The exit status is 1 if a server does not answer.
    """
    if watch:
        _watch(query, projector, commands, json, every)
        return
    seen = asyncio.run(_look(query, projector, commands))
    if json:
        typer.echo(seen.as_json(indent=2))
    else:
        from rich.console import Console

        Console().print(seen.as_text(), soft_wrap=True)
    for sentence in seen.silent.values():
        typer.echo(f"diptych status: {sentence}", err=True)
    raise typer.Exit(1 if seen.silent else 0)


def _watch(query: str, projector: str, commands: str, json: bool, every: float) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console()
    live = Live(console=console, auto_refresh=False) if console.is_terminal and not json else None
    if live is not None:
        live.start()
    try:
        while True:
            seen = asyncio.run(_look(query, projector, commands))
            if json:
                print(seen.as_json(), flush=True)
            elif live is not None:
                live.update(seen.as_text(), refresh=True)
            else:
                console.print(seen.as_text(), soft_wrap=True)
            time.sleep(every)
    except BrokenPipeError:  # Whoever read our lines, such as `head`, has read enough.
        with suppress(OSError):
            console.file.close()
    finally:
        if live is not None:
            live.stop()


class _Seen:
    """What the servers said."""

    def __init__(self, answer: read_model_pb2.GetStatusResponse | None) -> None:
        self.answer = answer
        self.projections = list(answer.projections) if answer is not None else []
        self.silent: dict[str, str] = {}
        """Sentences on the servers that do not answer, by their names."""
        self.processes: processes_pb2.ListProcessesResponse | None = None
        """None: not known."""

    def as_json(self, indent: int | None = None) -> str:
        """All of it, as a JSON object: the answer's fields, and `silent`."""
        answer = read_model_pb2.GetStatusResponse()
        if self.answer is not None:
            answer.CopyFrom(self.answer)
        del answer.projections[:]
        answer.projections.extend(self.projections)
        for projection in answer.projections:
            # Whoever has not the domain's contracts cannot print its events as JSON.
            projection.stalled_event.ClearField("event")
        fields: dict[str, Any] = json_format.MessageToDict(answer, always_print_fields_with_no_presence=True)
        if self.processes is not None:
            told = json_format.MessageToDict(self.processes, always_print_fields_with_no_presence=True)
            fields["processes"] = told["processes"]
        return jsonlib.dumps({**fields, "silent": self.silent}, indent=indent)

    def as_text(self) -> RenderableType:
        """All of it, for people."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        lines: list[RenderableType] = []
        answer = self.answer
        if answer is not None:
            age = f"heard {answer.head_age.ToNanoseconds() / 1e9:.1f} s ago" if answer.HasField("head_age") else ""
            lines.append(
                f"log {answer.log_id or '(unknown)'}, epoch {answer.epoch}, head {answer.head_position:,} "
                f"({age or 'never heard of'})"
            )
        lines += [Text(sentence, style="bold red") for sentence in self.silent.values()]
        if self.projections:
            table = Table(box=None, pad_edge=False, header_style="bold")
            for title in ("projection", "state", "version", "generation", "position", "lag", "parked"):
                table.add_column(title, justify="left" if title in ("projection", "state", "lag") else "right")
            for projection in self.projections:
                table.add_row(*_cells(projection))
            lines.append(table)
        for projection in self.projections:
            lines += [Text(line) for line in _why(projection)]
        if self.processes is None:
            lines.append(Text("processes: not known, as the command server was not reached", style="yellow"))
        elif self.processes.processes:
            lines.append(processes_as_text(self.processes))
        return Group(*lines)


async def _look(query: str, projector: str, commands: str) -> _Seen:
    seen = await _look_at_projections(query, projector)
    with suppress(grpc.aio.AioRpcError):
        seen.processes = await listed_processes(commands, _ANSWER_SECONDS)
    return seen


async def _look_at_projections(query: str, projector: str) -> _Seen:
    try:
        answer = await _ask(query, "ReadModelService/GetStatus", read_model_pb2.GetStatusResponse)
    except grpc.aio.AioRpcError as error:
        seen = _Seen(None)
        seen.silent["query-server"] = f"The query server at {query} did not answer: {CallRefused.of(error)}"
        try:
            listed = await _ask(projector, "ProjectionService/ListProjections", projections_pb2.ListProjectionsResponse)
            seen.projections = list(listed.projections)
        except grpc.aio.AioRpcError as failed:
            seen.silent["projector"] = f"The projector at {projector} did not answer either: {CallRefused.of(failed)}"
        return seen
    seen = _Seen(answer)
    for server, age in (("command-server", "head_age"), ("projector", "projector_age")):
        name = server.replace("-", " ")
        if not answer.HasField(age):
            seen.silent[server] = f"The {name} does not answer; the query server has never heard it."
        elif (seconds := getattr(answer, age).ToNanoseconds() / 1e9) >= _HEARD_SECONDS:
            seen.silent[server] = f"The {name} does not answer; the query server heard it {seconds:.1f} s ago."
    return seen


async def _ask(address: str, method: str, response: type[Any]) -> Any:
    async with open_channel(address) as channel:
        call: Any = channel.unary_unary(f"/diptych.v1.{method}", response_deserializer=response.FromString)
        return await call(b"", timeout=_ANSWER_SECONDS)  # The requests have no fields.


def _cells(projection: projections_pb2.ProjectionStatus) -> Iterator[Any]:
    from rich.text import Text

    state = projections_pb2.ProjectionState.Name(projection.state).removeprefix("PROJECTION_STATE_")
    colour = {"RUNNING": "green", "PAUSED": "magenta", "STALLED": "red", "UNSPECIFIED": "red"}.get(state, "yellow")
    yield projection.name
    yield Text("UNKNOWN" if state == "UNSPECIFIED" else state, style=colour)
    yield str(projection.version)
    yield str(projection.generation)
    yield f"{projection.progress.applied_position:,}"
    yield lag(projection)
    yield Text(str(projection.parked_streams), style="red" if projection.parked_streams else "")


def _why(projection: projections_pb2.ProjectionStatus) -> list[str]:
    """Why a projection stands still, or leaves something out."""
    lines = []
    name = projection.name
    if projection.state == projections_pb2.PROJECTION_STATE_PAUSED:
        lines.append(f"{name}: paused by an operator; `diptych resume {name}` lets it go on")
    if projection.reason:
        lines.append(f"{name}: {projection.reason}")
    if projection.HasField("stalled_event"):
        event = projection.stalled_event
        lines.append(
            f"{name}: it stands on event {event.position}, {event.event.TypeName()}, version "
            f"{event.version} of {event.aggregate.type}/{event.aggregate.id}"
        )
    if projection.left_out_events:
        streams = projection.parked_streams
        parked = f"{streams} {'stream is' if streams == 1 else 'streams are'} parked, and " if streams else ""
        left_out = f"{projection.left_out_events:,} event{'' if projection.left_out_events == 1 else 's'} left out"
        lines.append(f"{name}: {parked}{left_out}; `diptych parked list {name}` shows why")
    return lines
