"""`diptych pause` and `diptych resume`: stopping a projection, and letting it go on."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import grpc.aio
import typer

from diptych.cli.screen import described, lag
from diptych.client import CallRefused, open_channel
from diptych.server.options import fail
from diptych.v1 import projections_pb2

_Name = Annotated[str, typer.Argument(metavar="NAME", help="The projection's name, as `diptych status` shows it.")]
_Projector = Annotated[
    str, typer.Option(envvar="DIPTYCH_PROJECTOR", metavar="HOST:PORT", help="The projector that runs it.")
]
_HERE = "127.0.0.1:50053"


def pause(name: _Name, projector: _Projector = _HERE) -> None:
    """Pauses a projection until it is resumed, whatever restarts in between."""
    _steer("pause", projector, projections_pb2.PauseRequest(projection=name), projections_pb2.PauseResponse)


def resume(name: _Name, projector: _Projector = _HERE) -> None:
    """Lets a paused projection go on, or a stalled one try again."""
    _steer("resume", projector, projections_pb2.ResumeRequest(projection=name), projections_pb2.ResumeResponse)


def _steer(command: str, projector: str, request: Any, response: type[Any]) -> None:
    async def ask() -> Any:
        async with open_channel(projector) as channel:
            call = channel.unary_unary(
                f"/diptych.v1.ProjectionService/{command.capitalize()}",
                request_serializer=type(request).SerializeToString,
                response_deserializer=response.FromString,
            )
            return await call(request, timeout=30)

    try:
        status: projections_pb2.ProjectionStatus = asyncio.run(ask()).status
    except grpc.aio.AioRpcError as error:
        fail(command, f"the projector at {projector} did not do it: {CallRefused.of(error)}", status=1)
    position = f"{status.progress.applied_position:,}"
    typer.echo(f"projection {status.name} is {described(status)} at position {position} ({lag(status)})")
