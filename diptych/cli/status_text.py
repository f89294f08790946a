"""Text of `diptych status`: the log, the silent servers, the projections and the processes."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from diptych.cli.processes import processes_table
from diptych.cli.projection_text import describe_lag, state_row
from diptych.cli.server_status import ServerStatus
from diptych.contract.projection_state import PAUSED, UNKNOWN
from diptych.v1.projections_pb2 import ProjectionStatus
from diptych.v1.read_model_pb2 import GetStatusResponse


def status_text(status: ServerStatus) -> RenderableType:
    """Return the status of all servers as text."""
    lines: list[RenderableType] = []
    if status.answer is not None:
        lines.append(_log_line(status.answer))
    lines += [Text(sentence, style="bold red") for sentence in status.silent.values()]
    if status.projections:
        lines.append(_projections_table(status.projections))
    for projection in status.projections:
        lines += [Text(line) for line in _notes(projection)]
    if status.processes is not None and status.processes.processes:
        lines.append(processes_table(status.processes))
    return Group(*lines)


def _log_line(answer: GetStatusResponse) -> str:
    age = "unknown"
    if answer.HasField("head_age"):
        age = f"received {answer.head_age.ToNanoseconds() / 1e9:.1f} s ago"
    return f"log {answer.log_id or '(unknown)'}, epoch {answer.epoch}, head {answer.head_position:,} ({age})"


def _projections_table(projections: list[ProjectionStatus]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("projection", "state", "version", "generation", "position", "lag", "parked"):
        table.add_column(title, justify="left" if title in ("projection", "state", "lag") else "right")
    for projection in projections:
        row = state_row(projection.state)
        table.add_row(
            projection.name,
            Text("UNKNOWN" if projection.state == UNKNOWN else row.label, style=row.colour),
            str(projection.version),
            str(projection.generation),
            f"{projection.progress.applied_position:,}",
            describe_lag(projection),
            Text(str(projection.parked_streams), style="red" if projection.parked_streams else ""),
        )
    return table


def _notes(projection: ProjectionStatus) -> list[str]:
    """Return lines on the causes why a projection has stopped or leaves events out."""
    lines = []
    name = projection.name
    if projection.state == PAUSED:
        lines.append(f"{name}: paused by an operator; `diptych resume {name}` lets it go on")
    if projection.reason:
        lines.append(f"{name}: {projection.reason}")
    if projection.HasField("stalled_event"):
        event = projection.stalled_event
        lines.append(
            f"{name}: it stands on event {event.position}, {event.event.TypeName()}, version "
            f"{event.version} of {event.aggregate.type}/{event.aggregate.id}"
        )
    if projection.code_changed:
        lines.append(
            f"{name}: its folds have changed, and its version is still {projection.version}; `diptych rebuild {name}` "
            "makes the rows of the present code"
        )
    if projection.left_out_events:
        streams = projection.parked_streams
        parked = f"{streams} {'stream is' if streams == 1 else 'streams are'} parked, and " if streams else ""
        left_out = f"{projection.left_out_events:,} event{'' if projection.left_out_events == 1 else 's'} left out"
        lines.append(f"{name}: {parked}{left_out}; `{_list_command(projection)}` shows why")
    return lines


def _list_command(projection: ProjectionStatus) -> str:
    """Return the command that lists the streams of the events that a projection leaves out."""
    discarded = "" if projection.parked_streams else " --discarded"
    return f"diptych parked list {projection.name}{discarded}"
