"""`diptych pause` and `diptych resume`: stop a projection, and let it continue."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from diptych.cli.addresses import PROJECTOR, Projector
from diptych.cli.calls import call_at
from diptych.cli.projection_text import describe_lag, describe_state
from diptych.cli.similar_names import projector_refusal
from diptych.server.channels import CallError
from diptych.server.options import fail
from diptych.v1.projections_pb2 import PauseRequest, PauseResponse, ResumeRequest, ResumeResponse

_ANSWER_SECONDS = 30.0

ProjectionName = Annotated[
    str, typer.Argument(metavar="NAME", help="The projection's name, as `diptych status` shows it.")
]


def pause(name: ProjectionName, projector: Projector = PROJECTOR) -> None:
    """Pause a projection until it is resumed, across restarts too."""
    _change("pause", projector, PauseRequest(projection=name), PauseResponse)


def resume(name: ProjectionName, projector: Projector = PROJECTOR) -> None:
    """Let a paused projection continue, or a stalled one try again."""
    _change("resume", projector, ResumeRequest(projection=name), ResumeResponse)


def _change(
    command: str,
    projector: str,
    request: PauseRequest | ResumeRequest,
    response: type[PauseResponse] | type[ResumeResponse],
) -> None:
    method = f"diptych.v1.ProjectionService/{command.capitalize()}"
    try:
        status = asyncio.run(call_at(projector, method, request, response, _ANSWER_SECONDS)).status
    except CallError as error:
        fail(command, projector_refusal(projector, error), status=1)
    position = f"{status.progress.applied_position:,}"
    typer.echo(f"projection {status.name} is {describe_state(status)} at position {position} ({describe_lag(status)})")
