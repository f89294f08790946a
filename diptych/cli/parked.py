"""`diptych parked`: what projections leave out as it could not be folded, and what to do about it."""

from __future__ import annotations

import asyncio
import json as jsonlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Annotated, Any

import grpc.aio
import typer
from google.protobuf import json_format

from diptych.cli.events import fields_of
from diptych.client import CallRefused, import_contracts, open_channel
from diptych.server.options import fail
from diptych.v1 import projections_pb2
from diptych.v1.commands_pb2 import AggregateRef

parked = typer.Typer(
    no_args_is_help=True,
    help="Shows the streams that a projection leaves out as it could not fold an event, retries or discards them.",
)

_Name = Annotated[str, typer.Argument(metavar="NAME", help="The projection's name, as `diptych status` shows it.")]
_Aggregate = Annotated[str, typer.Argument(metavar="TYPE/ID", help="The aggregate whose stream is parked.")]
_Projector = Annotated[
    str, typer.Option(envvar="DIPTYCH_PROJECTOR", metavar="HOST:PORT", help="The projector that runs it.")
]
_HERE = "127.0.0.1:50053"
_ANSWER_SECONDS = 30.0


@parked.command("list")
def show(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="The projection's name. Without it: every projection.")
    ] = "",
    projector: _Projector = _HERE,
    domain: Annotated[
        str,
        typer.Option(envvar="DIPTYCH_DOMAIN", help="Python package of the domain, whose contracts tell the fields."),
    ] = "shop",
    discarded: Annotated[bool, typer.Option("--discarded", help="List what was discarded, too.")] = False,
    trace: Annotated[bool, typer.Option("--trace", help="Print where in the code it went wrong.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print every stream as a line of JSON.")] = False,
) -> None:
    """Lists parked streams: the error, and the event that could not be folded."""
    with suppress(ModuleNotFoundError):  # Without the contracts an event's own fields are printed as base64.
        import_contracts(f"{domain}.v1")

    async def ask(channel: grpc.aio.Channel) -> None:
        found = 0
        names = [name] if name else await _projections(channel)
        for projection in names:
            async for stream in _parked(channel, projection, discarded):
                found += 1
                typer.echo(jsonlib.dumps(_fields(stream), ensure_ascii=False) if json else _described(stream, trace))
        if not found and not json:
            typer.echo(f"Nothing is parked in {f'projection {name}' if name else 'any projection'}.")

    _run("list", projector, ask)


@parked.command()
def retry(
    name: _Name,
    aggregate: Annotated[
        str, typer.Argument(metavar="[TYPE/ID]", help="The aggregate whose stream is parked. Without it: give --all.")
    ] = "",
    every: Annotated[bool, typer.Option("--all", help="Retry every stream that is parked in the projection.")] = False,
    projector: _Projector = _HERE,
) -> None:
    """Folds what is parked, in place or by a new generation, whichever is right, and lets the stream go on."""
    if bool(aggregate) == every:
        fail("parked retry", "give either an aggregate as TYPE/ID or --all.")
    refused: list[str] = []

    async def ask(channel: grpc.aio.Channel) -> None:
        streams = [_reference("retry", aggregate)]
        if every:
            streams = [stream.aggregate async for stream in _parked(channel, name, False)]
        call = channel.unary_unary(
            "/diptych.v1.ProjectionService/RetryParked",
            request_serializer=projections_pb2.RetryParkedRequest.SerializeToString,
            response_deserializer=projections_pb2.RetryParkedResponse.FromString,
        )
        for stream in streams:
            try:
                # It may read much of the log, so it has no time limit.
                answer = await call(projections_pb2.RetryParkedRequest(projection=name, aggregate=stream))
            except grpc.aio.AioRpcError as error:
                if not every:
                    raise
                refused.append(f"{stream.type}/{stream.id}: {CallRefused.of(error)}")
                continue
            if answer.mode == projections_pb2.RETRY_MODE_NEW_GENERATION:
                typer.echo(f"{answer.reason} So projection {name} is rebuilt: it folds everything anew.")
                return
            events = "1 event is" if answer.events == 1 else f"{answer.events:,} events are"
            typer.echo(f"{stream.type}/{stream.id} goes on in projection {name}: {events} folded in place")

    _run("retry", projector, ask)
    for sentence in refused:
        typer.echo(f"diptych parked retry: {sentence}", err=True)
    raise typer.Exit(1 if refused else 0)


@parked.command()
def discard(name: _Name, aggregate: _Aggregate, projector: _Projector = _HERE) -> None:
    """Lets a stream go on with its next event. What was left out of the views stays left out."""

    async def ask(channel: grpc.aio.Channel) -> None:
        call = channel.unary_unary(
            "/diptych.v1.ProjectionService/DiscardParked",
            request_serializer=projections_pb2.DiscardParkedRequest.SerializeToString,
            response_deserializer=projections_pb2.DiscardParkedResponse.FromString,
        )
        request = projections_pb2.DiscardParkedRequest(projection=name, aggregate=_reference("discard", aggregate))
        answer = await call(request, timeout=_ANSWER_SECONDS)
        events = "1 event stays" if answer.events == 1 else f"{answer.events:,} events stay"
        typer.echo(f"{aggregate} goes on in projection {name}: {events} left out")

    _run("discard", projector, ask)


def _run(command: str, projector: str, ask: Callable[[grpc.aio.Channel], Awaitable[None]]) -> None:
    async def run() -> None:
        async with open_channel(projector) as channel:
            await ask(channel)

    try:
        asyncio.run(run())
    except grpc.aio.AioRpcError as error:
        fail(f"parked {command}", f"the projector at {projector} did not do it: {CallRefused.of(error)}", status=1)


def _reference(command: str, aggregate: str) -> AggregateRef:
    kind, slash, id = aggregate.partition("/")
    if aggregate and not (kind and slash and id):
        fail(f"parked {command}", f"{aggregate!r} is no aggregate: give TYPE/ID, such as user/ada.")
    return AggregateRef(type=kind, id=id)


async def _projections(channel: grpc.aio.Channel) -> list[str]:
    call = channel.unary_unary(
        "/diptych.v1.ProjectionService/ListProjections",
        request_serializer=projections_pb2.ListProjectionsRequest.SerializeToString,
        response_deserializer=projections_pb2.ListProjectionsResponse.FromString,
    )
    answer = await call(projections_pb2.ListProjectionsRequest(), timeout=_ANSWER_SECONDS)
    return [projection.name for projection in answer.projections]


async def _parked(
    channel: grpc.aio.Channel, projection: str, discarded: bool
) -> AsyncIterator[projections_pb2.ParkedStream]:
    call = channel.unary_unary(
        "/diptych.v1.ProjectionService/ListParked",
        request_serializer=projections_pb2.ListParkedRequest.SerializeToString,
        response_deserializer=projections_pb2.ListParkedResponse.FromString,
    )
    request = projections_pb2.ListParkedRequest(projection=projection, include_discarded=discarded)
    while True:
        answer = await call(request, timeout=_ANSWER_SECONDS)
        for stream in answer.parked:
            yield stream
        if not answer.next_page_token:
            return
        request.page_token = answer.next_page_token


def _described(stream: projections_pb2.ParkedStream, trace: bool) -> str:
    """A stream for people, in a few lines."""
    aggregate = f"{stream.aggregate.type}/{stream.aggregate.id}"
    events = "1 event" if stream.events == 1 else f"{stream.events:,} events"
    time = stream.park_time.ToDatetime().isoformat(" ", "seconds")
    state = f"parked {time} UTC after {stream.attempts} attempt{'' if stream.attempts == 1 else 's'}"
    if stream.HasField("discard_time"):
        state += f", discarded {stream.discard_time.ToDatetime().isoformat(' ', 'seconds')} UTC"
    lines = [
        f"{stream.projection}: {aggregate}, {events} from position {stream.first_position:,} left out, {state}",
        f"  {stream.error}",
        f"  {jsonlib.dumps(fields_of(stream.event), ensure_ascii=False)}",
    ]
    if trace:
        lines += [f"  {line}" for line in stream.trace.splitlines()]
    return "\n".join(lines)


def _fields(stream: projections_pb2.ParkedStream) -> dict[str, Any]:
    event = fields_of(stream.event)
    rest = projections_pb2.ParkedStream()
    rest.CopyFrom(stream)
    rest.ClearField("event")
    return {**json_format.MessageToDict(rest, always_print_fields_with_no_presence=True), "event": event}
