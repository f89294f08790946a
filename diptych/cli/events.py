"""`diptych events`: print recorded events, one line of JSON each."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Annotated, Any

import typer
from google.protobuf import json_format

from diptych.cli.addresses import COMMANDS, Commands, Domain
from diptych.cli.calls import describe_failure, stream
from diptych.cli.reflected_types import ReflectedTypes, import_domain
from diptych.client import CallRefused
from diptych.server.channels import CallError, open_client_channel
from diptych.server.options import fail
from diptych.server.program import discard_output
from diptych.v1.events_pb2 import RecordedEvent, SubscribeRequest, SubscribeResponse


def events(
    commands: Commands = COMMANDS,
    domain: Domain = "",
    after: Annotated[int, typer.Option(min=0, help="Position after which to start.")] = 0,
    types: Annotated[
        list[str] | None,
        typer.Option(
            help="Full name of an event type to print, such as shop.v1.UserRegistered; repeatable. Unset: all."
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Continue with events as they are recorded.")] = False,
) -> None:
    """Print recorded events as lines of JSON."""
    import_domain("events", domain)
    request = SubscribeRequest(position=after, event_types=types or ())
    try:
        asyncio.run(_print_events(commands, request, follow))
    except CallError as error:
        fail("events", describe_failure(f"command server at {commands}", CallRefused.of(error)), status=1)
    except BrokenPipeError:  # The reader of the output, such as `head`, has ended.
        discard_output()


async def _print_events(address: str, request: SubscribeRequest, follow: bool) -> None:
    async with open_client_channel(address) as channel:
        types = ReflectedTypes(channel, f"command server at {address}")
        async for response in stream(channel, "diptych.v1.EventService/Subscribe", request, SubscribeResponse):
            for event in response.batch.events:
                print(json.dumps(await event_fields(event, types), ensure_ascii=False))
            sys.stdout.flush()
            if response.HasField("caught_up") and not follow:
                return


async def event_fields(event: RecordedEvent, types: ReflectedTypes) -> dict[str, Any]:
    """Return an event as JSON fields; its own fields as base64 if no contract defines its type."""
    fields = await types.fields(event)
    if fields is not None:
        return fields
    packed = RecordedEvent()
    packed.CopyFrom(event)
    packed.ClearField("event")
    own = {"@type": event.event.type_url, **await types.packed_fields(event.event)}
    return {**json_format.MessageToDict(packed), "event": own}
