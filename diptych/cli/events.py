"""`diptych events`: what was recorded, one line of JSON each."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from contextlib import suppress
from typing import Annotated, Any

import grpc.aio
import typer
from google.protobuf import json_format

from diptych.client import CallRefused, import_contracts, open_channel
from diptych.server.options import fail
from diptych.v1 import events_pb2


def events(
    commands: Annotated[
        str, typer.Option(envvar="DIPTYCH_COMMANDS", metavar="HOST:PORT", help="The command server to ask.")
    ] = "127.0.0.1:50051",
    domain: Annotated[
        str,
        typer.Option(envvar="DIPTYCH_DOMAIN", help="Python package of the domain, whose contracts tell the fields."),
    ] = "shop",
    after: Annotated[int, typer.Option(min=0, help="Position after which to start.")] = 0,
    types: Annotated[
        list[str] | None,
        typer.Option(help="Full name of an event type wanted, such as shop.v1.UserRegistered; repeatable. Unset: all."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with events as they are recorded.")] = False,
) -> None:
    """Prints recorded events as lines of JSON."""
    with suppress(ModuleNotFoundError):  # Without the contracts an event's own fields are printed as base64.
        import_contracts(f"{domain}.v1")
    request = events_pb2.SubscribeRequest(position=after, event_types=types or ())
    try:
        asyncio.run(_print(commands, request, follow))
    except grpc.aio.AioRpcError as error:
        fail("events", f"the command server at {commands} refused: {CallRefused.of(error)}", status=1)
    except BrokenPipeError:  # Whoever read our lines, such as `head`, has read enough.
        sys.stderr.close()


async def _print(address: str, request: events_pb2.SubscribeRequest, follow: bool) -> None:
    async with open_channel(address) as channel:
        subscribe = channel.unary_stream(
            "/diptych.v1.EventService/Subscribe",
            request_serializer=events_pb2.SubscribeRequest.SerializeToString,
            response_deserializer=events_pb2.SubscribeResponse.FromString,
        )
        async for response in subscribe(request):
            for event in response.batch.events:
                print(json.dumps(fields_of(event), ensure_ascii=False))
            sys.stdout.flush()
            if response.HasField("caught_up") and not follow:
                return


def fields_of(event: events_pb2.RecordedEvent) -> dict[str, Any]:
    """An event as JSON has it; its own fields as base64 if its type is not known here."""
    try:
        return json_format.MessageToDict(event)
    except TypeError:  # The event's type is not known here.
        packed = events_pb2.RecordedEvent()
        packed.CopyFrom(event)
        packed.ClearField("event")
        value = base64.b64encode(event.event.value).decode("ascii")
        return {**json_format.MessageToDict(packed), "event": {"@type": event.event.type_url, "value": value}}
