"""`diptych processes`: the processes of a command server, and what an operator can do for an instance."""

from __future__ import annotations

import asyncio
import enum
from typing import TYPE_CHECKING, Annotated, Any

import grpc.aio
import typer
from google.protobuf import json_format

from diptych.client import CallRefused, open_channel
from diptych.server.options import fail
from diptych.v1 import processes_pb2

if TYPE_CHECKING:
    from rich.console import RenderableType

_ANSWER_SECONDS = 30.0


class Action(enum.StrEnum):
    """What to do."""

    LIST = "list"
    RETRY = "retry"
    DISCARD = "discard"


def processes(
    action: Annotated[
        Action,
        typer.Argument(
            help="`list` shows all; `retry` has a STUCK or PARKED instance try again now; `discard` drops the input "
            "that a PARKED one cannot take."
        ),
    ] = Action.LIST,
    process: Annotated[str, typer.Argument(help="The type of the process.")] = "",
    id: Annotated[str, typer.Argument(help="The instance's id, as it is listed.")] = "",
    commands: Annotated[
        str, typer.Option(envvar="DIPTYCH_COMMANDS", metavar="HOST:PORT", help="The command server to ask.")
    ] = "127.0.0.1:50051",
    json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
) -> None:
    """Shows the processes, those that are STUCK or PARKED, and has one try again."""
    if action is not Action.LIST and not (process and id):
        fail("processes", f"say which: `diptych processes {action} PROCESS ID`", status=2)
    try:
        match action:
            case Action.LIST:
                _show(asyncio.run(listed(commands)), json)
            case Action.RETRY:
                _retry(commands, process, id)
            case Action.DISCARD:
                _discard(commands, process, id)
    except grpc.aio.AioRpcError as error:
        fail("processes", f"the command server at {commands} did not do it: {CallRefused.of(error)}", status=1)


async def listed(address: str, seconds: float = _ANSWER_SECONDS) -> processes_pb2.ListProcessesResponse:
    """The processes of a command server; raises `grpc.aio.AioRpcError`."""
    request, response = processes_pb2.ListProcessesRequest(), processes_pb2.ListProcessesResponse
    answer: processes_pb2.ListProcessesResponse = await _call(address, "ListProcesses", request, response, seconds)
    return answer


def processes_as_text(answer: processes_pb2.ListProcessesResponse) -> RenderableType:
    """A line for each type of process, and one for each instance that needs an operator."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("process", "state", "running", "commands", "effects", "timeouts", "oldest", "stuck", "parked"):
        table.add_column(title, justify="left" if title in ("process", "state") else "right")
    for status in answer.processes:
        table.add_row(*_cells(status))
    troubles = [trouble for status in answer.processes for trouble in status.troubles]
    return Group(table, *(Text(_described(trouble), style="red") for trouble in troubles))


def _cells(status: processes_pb2.ProcessStatus) -> tuple[str, ...]:
    states = [name for name, count in (("PARKED", status.parked_instances), ("STUCK", status.stuck_instances)) if count]
    oldest = f"{status.oldest_age.ToNanoseconds() / 1e9:.1f} s" if status.HasField("oldest_age") else "-"
    numbers = (status.running_instances, status.open_commands, status.open_effects, status.open_timeouts)
    return (
        status.process,
        f"[red]{', '.join(states)}[/]" if states else "[green]RUNNING[/]",
        *(f"{number:,}" for number in numbers),
        oldest,
        str(status.stuck_instances),
        str(status.parked_instances),
    )


def _described(trouble: processes_pb2.ProcessTrouble) -> str:
    kind = processes_pb2.ProcessTroubleKind.Name(trouble.kind).removeprefix("PROCESS_TROUBLE_KIND_")
    since = trouble.since_time.ToDatetime().isoformat(" ", "seconds")
    waiting = f", {trouble.waiting_inputs} wait behind it" if trouble.waiting_inputs else ""
    return (
        f"{trouble.process} {trouble.id}: {kind} since {since} on {trouble.input_type} of position "
        f"{trouble.position}, {trouble.attempts} attempt(s){waiting}: {trouble.reason}"
    )


def _show(answer: processes_pb2.ListProcessesResponse, json: bool) -> None:
    if json:
        typer.echo(json_format.MessageToJson(answer, always_print_fields_with_no_presence=True))
        return
    from rich.console import Console

    Console().print(processes_as_text(answer), soft_wrap=True)


def _retry(address: str, process: str, id: str) -> None:
    request = processes_pb2.RetryProcessRequest(process=process, id=id)
    answer = asyncio.run(_call(address, "RetryProcess", request, processes_pb2.RetryProcessResponse))
    if answer.parked:
        fail("processes", f"{process} {id} is parked again: {answer.reason}", status=1)
    typer.echo(f"{process} {id} goes on")


def _discard(address: str, process: str, id: str) -> None:
    request = processes_pb2.DiscardParkedInputRequest(process=process, id=id)
    answer = asyncio.run(_call(address, "DiscardParkedInput", request, processes_pb2.DiscardParkedInputResponse))
    typer.echo(f"{process} {id} goes on without that input; {answer.waiting_inputs} waited behind it")


async def _call(address: str, method: str, request: Any, response: type[Any], seconds: float = _ANSWER_SECONDS) -> Any:
    async with open_channel(address) as channel:
        call = channel.unary_unary(
            f"/diptych.v1.ProcessService/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        return await call(request, timeout=seconds)
