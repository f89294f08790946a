"""`diptych events`: print recorded events, one line of JSON each."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from contextlib import suppress
from typing import Annotated, Any

import typer
from google.protobuf import json_format

from diptych.cli.addresses import COMMANDS, Commands, Domain
from diptych.cli.calls import stream
from diptych.client import CallRefused, import_contracts
from diptych.server.channels import CallError, open_client_channel
from diptych.server.options import fail
from diptych.v1.events_pb2 import RecordedEvent, SubscribeRequest, SubscribeResponse


def events(
    commands: Commands = COMMANDS,
    domain: Domain = "shop",
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
    with suppress(ModuleNotFoundError):  # Without the contracts the event's own fields are printed as base64.
        import_contracts(f"{domain}.v1")
    request = SubscribeRequest(position=after, event_types=types or ())
    try:
        asyncio.run(_print_events(commands, request, follow))
    except CallError as error:
        fail("events", f"the command server at {commands} refused: {CallRefused.of(error)}", status=1)
    except BrokenPipeError:  # The reader of the output, such as `head`, has ended.
        sys.stderr.close()


async def _print_events(address: str, request: SubscribeRequest, follow: bool) -> None:
    async with open_client_channel(address) as channel:
        async for response in stream(channel, "diptych.v1.EventService/Subscribe", request, SubscribeResponse):
            for event in response.batch.events:
                print(json.dumps(event_fields(event), ensure_ascii=False))
            sys.stdout.flush()
            if response.HasField("caught_up") and not follow:
                return


def event_fields(event: RecordedEvent) -> dict[str, Any]:
    """Return an event as JSON fields; its own fields as base64 if this program does not know its type."""
    try:
        return json_format.MessageToDict(event)
    except TypeError:  # The type is unknown.
        packed = RecordedEvent()
        packed.CopyFrom(event)
        packed.ClearField("event")
        value = base64.b64encode(event.event.value).decode("ascii")
        return {**json_format.MessageToDict(packed), "event": {"@type": event.event.type_url, "value": value}}
