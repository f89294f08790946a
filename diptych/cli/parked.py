"""`diptych parked`: list the streams that a projection has parked, refold or discard them."""

from __future__ import annotations

import asyncio
import json as jsonlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

import typer
from google.protobuf import json_format

from diptych.cli.addresses import PROJECTOR, Domain, Projector
from diptych.cli.calls import call
from diptych.cli.events import event_fields
from diptych.cli.pause import ProjectionName
from diptych.cli.reflected_types import ReflectedTypes, import_domain
from diptych.cli.similar_names import projector_refusal
from diptych.client import CallRefused
from diptych.server.channels import CallError, Channel, open_client_channel
from diptych.server.options import fail
from diptych.v1.commands_pb2 import AggregateRef
from diptych.v1.projections_pb2 import (
    RETRY_MODE_NEW_GENERATION,
    DiscardParkedRequest,
    DiscardParkedResponse,
    ListParkedRequest,
    ListParkedResponse,
    ListProjectionsRequest,
    ListProjectionsResponse,
    ParkedStream,
    RetryParkedRequest,
    RetryParkedResponse,
)

parked = typer.Typer(
    no_args_is_help=True,
    help="Show the streams that a projection leaves out because it could not fold an event; retry or discard them.",
)

_SERVICE = "diptych.v1.ProjectionService"
_ANSWER_SECONDS = 30.0
_Aggregate = Annotated[str, typer.Argument(metavar="TYPE/ID", help="The aggregate whose stream is parked.")]


@parked.command("list")
def show(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="The projection's name. Without it: every projection.")
    ] = "",
    projector: Projector = PROJECTOR,
    domain: Domain = "",
    discarded: Annotated[bool, typer.Option("--discarded", help="List discarded streams too.")] = False,
    trace: Annotated[bool, typer.Option("--trace", help="Print the end of the Python trace.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print every stream as a line of JSON.")] = False,
) -> None:
    """List parked streams: the error, and the event that could not be folded."""
    import_domain("parked list", domain)

    async def show_parked(channel: Channel) -> None:
        types = ReflectedTypes(channel, f"projector at {projector}")
        count = 0
        for projection in [name] if name else await _projection_names(channel):
            async for stream in _parked_streams(channel, projection, discarded):
                count += 1
                if json:
                    typer.echo(jsonlib.dumps(await _fields(stream, types), ensure_ascii=False))
                else:
                    typer.echo(await _describe(stream, trace, types))
        if not count and not json:
            hint = "" if discarded else " Give --discarded to list discarded streams."
            typer.echo(f"Nothing is parked in {f'projection {name}' if name else 'any projection'}.{hint}")

    _run("list", projector, show_parked)


@parked.command()
def retry(
    name: ProjectionName,
    aggregate: Annotated[
        str, typer.Argument(metavar="[TYPE/ID]", help="The aggregate whose stream is parked. Without it: give --all.")
    ] = "",
    every: Annotated[bool, typer.Option("--all", help="Retry every stream that is parked in the projection.")] = False,
    projector: Projector = PROJECTOR,
) -> None:
    """Fold parked events again, in place or in a new generation, and let the stream continue."""
    if bool(aggregate) == every:
        fail("parked retry", "give either an aggregate as TYPE/ID or --all.")
    refusals: list[str] = []

    async def retry_all(channel: Channel) -> None:
        streams = [_reference("retry", aggregate)]
        if every:
            streams = [stream.aggregate async for stream in _parked_streams(channel, name, False)]
        for stream in streams:
            request = RetryParkedRequest(projection=name, aggregate=stream)
            try:
                # The projector may read much of the log, so the call has no deadline.
                answer = await call(channel, f"{_SERVICE}/RetryParked", request, RetryParkedResponse)
            except CallError as error:
                if not every:
                    raise
                refusals.append(f"{stream.type}/{stream.id}: {CallRefused.of(error)}")
                continue
            if answer.mode == RETRY_MODE_NEW_GENERATION:
                typer.echo(f"{answer.reason} So projection {name} is rebuilt: it folds everything anew.")
                return
            events = "1 event is" if answer.events == 1 else f"{answer.events:,} events are"
            typer.echo(f"{stream.type}/{stream.id} goes on in projection {name}: {events} folded in place")

    _run("retry", projector, retry_all)
    for sentence in refusals:
        typer.echo(f"diptych parked retry: {sentence}", err=True)
    raise typer.Exit(1 if refusals else 0)


@parked.command()
def discard(name: ProjectionName, aggregate: _Aggregate, projector: Projector = PROJECTOR) -> None:
    """Let a stream continue with its next event. The views still leave out its parked events."""

    async def discard_one(channel: Channel) -> None:
        request = DiscardParkedRequest(projection=name, aggregate=_reference("discard", aggregate))
        answer = await call(channel, f"{_SERVICE}/DiscardParked", request, DiscardParkedResponse, _ANSWER_SECONDS)
        events = "1 event stays" if answer.events == 1 else f"{answer.events:,} events stay"
        typer.echo(
            f"{aggregate} goes on in projection {name}: {events} left out. `diptych parked list {name} --discarded` "
            f"lists them; `diptych rebuild {name}` folds them again."
        )

    _run("discard", projector, discard_one)


def _run(command: str, projector: str, work: Callable[[Channel], Awaitable[None]]) -> None:
    """Run a coroutine on a channel to the projector; end the program with a sentence if a call is refused."""

    async def run() -> None:
        async with open_client_channel(projector) as channel:
            await work(channel)

    try:
        asyncio.run(run())
    except CallError as error:
        fail(f"parked {command}", projector_refusal(projector, error), status=1)


def _reference(command: str, aggregate: str) -> AggregateRef:
    kind, slash, id = aggregate.partition("/")
    if aggregate and not (kind and slash and id):
        fail(f"parked {command}", f"{aggregate!r} is no aggregate: give TYPE/ID, such as user/ada.")
    return AggregateRef(type=kind, id=id)


async def _projection_names(channel: Channel) -> list[str]:
    request = ListProjectionsRequest()
    answer = await call(channel, f"{_SERVICE}/ListProjections", request, ListProjectionsResponse, _ANSWER_SECONDS)
    return [projection.name for projection in answer.projections]


async def _parked_streams(channel: Channel, projection: str, discarded: bool) -> AsyncIterator[ParkedStream]:
    """Yield the parked streams of a projection, page by page."""
    request = ListParkedRequest(projection=projection, include_discarded=discarded)
    while True:
        answer = await call(channel, f"{_SERVICE}/ListParked", request, ListParkedResponse, _ANSWER_SECONDS)
        for stream in answer.parked:
            yield stream
        if not answer.next_page_token:
            return
        request.page_token = answer.next_page_token


async def _describe(stream: ParkedStream, trace: bool, types: ReflectedTypes) -> str:
    """Return a parked stream as a few lines of text."""
    aggregate = f"{stream.aggregate.type}/{stream.aggregate.id}"
    events = "1 event" if stream.events == 1 else f"{stream.events:,} events"
    time = stream.park_time.ToDatetime().isoformat(" ", "seconds")
    state = f"parked {time} UTC after {stream.attempts} attempt{'' if stream.attempts == 1 else 's'}"
    if stream.HasField("discard_time"):
        state += f", discarded {stream.discard_time.ToDatetime().isoformat(' ', 'seconds')} UTC"
    lines = [
        f"{stream.projection}: {aggregate}, {events} from position {stream.first_position:,} left out, {state}",
        f"  {stream.error}",
        f"  {jsonlib.dumps(await event_fields(stream.event, types), ensure_ascii=False)}",
    ]
    if trace:
        lines += [f"  {line}" for line in stream.trace.splitlines()]
    return "\n".join(lines)


async def _fields(stream: ParkedStream, types: ReflectedTypes) -> dict[str, Any]:
    """Return a parked stream as JSON fields."""
    event = await event_fields(stream.event, types)
    rest = ParkedStream()
    rest.CopyFrom(stream)
    rest.ClearField("event")
    return {**json_format.MessageToDict(rest, always_print_fields_with_no_presence=True), "event": event}
