"""Problems that `diptych status` finds: one sentence for each thing that needs an operator."""

from __future__ import annotations

from collections.abc import Iterator

from diptych.cli.projection_text import describe_lag, state_row
from diptych.cli.server_status import ServerStatus
from diptych.contract.projection_state import STALLED, UNKNOWN
from diptych.v1.processes_pb2 import ProcessStatus
from diptych.v1.projections_pb2 import ProjectionStatus


def find_problems(status: ServerStatus) -> list[str]:
    """Return a sentence for each problem; an empty list if nothing needs an operator.

    Problems are a server that does not answer, a projection that is STALLED or in no known state, parked streams, and
    STUCK or PARKED instances of processes. Paused projections, those that catch up, and discarded events
    need no operator and are not listed.
    """
    problems = list(status.silent.values())
    for projection in status.projections:
        problems += _projection_problems(projection)
    if status.processes is not None:
        for process in status.processes.processes:
            problems += _process_problems(process)
    return problems


def _projection_problems(projection: ProjectionStatus) -> Iterator[str]:
    name = projection.name
    row = state_row(projection.state)
    if projection.state == STALLED:
        position = f"{projection.progress.applied_position:,}"
        reason = f": {projection.reason}" if projection.reason else ""
        yield f"Projection {name} is STALLED at position {position} ({describe_lag(projection)}){reason}"
    elif projection.state == UNKNOWN or row.label == "UNSPECIFIED":
        yield f"Projection {name} is UNKNOWN: its projector does not answer."
    if streams := projection.parked_streams:
        parked = "1 parked stream" if streams == 1 else f"{streams:,} parked streams"
        yield f"Projection {name} has {parked}; `diptych parked list {name}` shows why."


def _process_problems(process: ProcessStatus) -> Iterator[str]:
    for state, count in (("STUCK", process.stuck_instances), ("PARKED", process.parked_instances)):
        if count:
            instances = "1 instance that is" if count == 1 else f"{count:,} instances that are"
            yield f"Process {process.process} has {instances} {state}; `diptych processes` shows why."
