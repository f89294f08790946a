"""`diptych processes`: list the processes of a command server; retry, discard or give up inputs and outputs."""

from __future__ import annotations

import asyncio
import enum
from typing import TYPE_CHECKING, Annotated

import typer
from google.protobuf import json_format

from diptych.cli.addresses import COMMANDS, Commands
from diptych.cli.calls import call_at, describe_failure
from diptych.cli.whole_tables import print_whole
from diptych.client import CallRefused
from diptych.server.channels import CallError
from diptych.server.options import fail
from diptych.v1.processes_pb2 import (
    DiscardParkedInputRequest,
    DiscardParkedInputResponse,
    GiveUpOutputRequest,
    GiveUpOutputResponse,
    ListProcessesRequest,
    ListProcessesResponse,
    ProcessStatus,
    ProcessTrouble,
    ProcessTroubleKind,
    RetryProcessRequest,
    RetryProcessResponse,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

_SERVICE = "diptych.v1.ProcessService"
_ANSWER_SECONDS = 30.0


class Action(enum.StrEnum):
    """Action of the command."""

    LIST = "list"
    RETRY = "retry"
    DISCARD = "discard"
    GIVE_UP = "give-up"


def processes(
    action: Annotated[
        Action,
        typer.Argument(
            help="`list` shows all; `retry` has a STUCK or PARKED instance try again now; `discard` drops the input "
            "that a PARKED instance cannot take; `give-up` ends the outputs on which an instance is STUCK as failed, "
            "so that the process runs its compensation."
        ),
    ] = Action.LIST,
    process: Annotated[str, typer.Argument(help="The type of the process.")] = "",
    id: Annotated[str, typer.Argument(help="The instance's id, as it is listed.")] = "",
    commands: Commands = COMMANDS,
    json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
) -> None:
    """Show the processes and their STUCK or PARKED instances, and have an instance try again."""
    if action is not Action.LIST and not (process and id):
        fail("processes", f"the instance is missing: give `diptych processes {action} PROCESS ID`.", status=2)
    try:
        match action:
            case Action.LIST:
                _show(asyncio.run(list_processes(commands)), json)
            case Action.RETRY:
                _retry(commands, process, id)
            case Action.DISCARD:
                _discard(commands, process, id)
            case Action.GIVE_UP:
                _give_up(commands, process, id)
    except CallError as error:
        refused = CallRefused.of(error)
        fail("processes", describe_failure(f"command server at {commands}", refused, verb="did not do it"), status=1)


async def list_processes(address: str, seconds: float = _ANSWER_SECONDS) -> ListProcessesResponse:
    """Return the processes of a command server. Raise `CallError` if it does not answer in `seconds`."""
    return await call_at(address, f"{_SERVICE}/ListProcesses", ListProcessesRequest(), ListProcessesResponse, seconds)


def processes_table(answer: ListProcessesResponse) -> RenderableType:
    """Return a row for each type of process, and a line for each instance that needs an operator."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("process", "state", "running", "commands", "effects", "timeouts", "oldest", "stuck", "parked"):
        table.add_column(title, justify="left" if title in ("process", "state") else "right")
    for status in answer.processes:
        table.add_row(*_cells(status))
    troubles = [trouble for status in answer.processes for trouble in status.troubles]
    return Group(table, *(Text(_describe(trouble), style="red") for trouble in troubles))


def _cells(status: ProcessStatus) -> tuple[str, ...]:
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


def _describe(trouble: ProcessTrouble) -> str:
    kind = ProcessTroubleKind.Name(trouble.kind).removeprefix("PROCESS_TROUBLE_KIND_")
    since = trouble.since_time.ToDatetime().isoformat(" ", "seconds")
    waiting = f", {trouble.waiting_inputs} wait behind it" if trouble.waiting_inputs else ""
    return (
        f"{trouble.process} {trouble.id}: {kind} since {since} on {trouble.input_type} of position "
        f"{trouble.position}, {trouble.attempts} attempt(s){waiting}: {trouble.reason}"
    )


def _show(answer: ListProcessesResponse, json: bool) -> None:
    if json:
        typer.echo(json_format.MessageToJson(answer, always_print_fields_with_no_presence=True))
        return
    print_whole(processes_table(answer))


def _retry(address: str, process: str, id: str) -> None:
    request = RetryProcessRequest(process=process, id=id)
    answer = asyncio.run(call_at(address, f"{_SERVICE}/RetryProcess", request, RetryProcessResponse, _ANSWER_SECONDS))
    if answer.parked:
        fail("processes", f"{process} {id} is parked again: {answer.reason}", status=1)
    typer.echo(f"{process} {id} goes on")


def _discard(address: str, process: str, id: str) -> None:
    request = DiscardParkedInputRequest(process=process, id=id)
    method = f"{_SERVICE}/DiscardParkedInput"
    answer = asyncio.run(call_at(address, method, request, DiscardParkedInputResponse, _ANSWER_SECONDS))
    typer.echo(f"{process} {id} goes on without that input; {answer.waiting_inputs} waited behind it")


def _give_up(address: str, process: str, id: str) -> None:
    request = GiveUpOutputRequest(process=process, id=id)
    answer = asyncio.run(call_at(address, f"{_SERVICE}/GiveUpOutput", request, GiveUpOutputResponse, _ANSWER_SECONDS))
    if answer.parked:
        fail(
            "processes",
            f"{answer.outputs} output(s) of {process} {id} are given up; the failure waits behind the parked input "
            f"({answer.reason}). Retry or discard that input.",
            status=1,
        )
    typer.echo(f"{process} {id} goes on; {answer.outputs} output(s) given up")
