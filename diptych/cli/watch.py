"""`diptych watch`: print the rows of a view and every change, one line each."""

from __future__ import annotations

import asyncio
import json as jsonlib
import shlex
import sys
from collections.abc import AsyncIterator
from typing import Annotated, Any

import typer
from google.protobuf import json_format

from diptych.cli.addresses import QUERY, Domain, Query
from diptych.cli.reflected_types import ReflectedTypes, import_domain
from diptych.cli.similar_names import watch_refusal
from diptych.client import CallRefused, Connection
from diptych.server.channels import open_client_channel
from diptych.server.options import fail
from diptych.server.program import discard_output
from diptych.v1.read_model_pb2 import ResetReason, WatchResponse


def watch(
    view: Annotated[str, typer.Argument(help="The view to watch, such as users.")],
    keys: Annotated[list[str] | None, typer.Argument(metavar="[KEY]...", help="Keys of the rows. None: all.")] = None,
    query: Query = QUERY,
    domain: Domain = "",
    resume: Annotated[
        str, typer.Option(metavar="TOKEN", help="Resume token to continue from, without a snapshot.")
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="Print every frame as a line of JSON.")] = False,
) -> None:
    """Print the rows of a view as they are now, then every change, until Ctrl-C."""
    import_domain("watch", domain)
    end = _WatchEnd()
    try:
        asyncio.run(_print_frames(query, view, keys, resume, json, end))
    except CallRefused as refused:
        fail("watch", watch_refusal(query, refused), status=1)
    except BrokenPipeError:  # The reader of the output, such as `head`, has ended.
        discard_output()
    finally:
        if end.resume_token and not json:
            command = shlex.join(["diptych", "watch", view, *(keys or ()), "--resume", end.resume_token])
            typer.echo(f"stopped, run `{command}` to go on", err=True)


class _WatchEnd:
    """End of a watch: its last resume token."""

    resume_token = ""


async def _print_frames(
    address: str, view: str, keys: list[str] | None, resume: str, json: bool, end: _WatchEnd
) -> None:
    async with Connection(queries=address) as connection, open_client_channel(address) as channel:
        types = ReflectedTypes(channel, f"query server at {address}")
        async for frame in connection.watch(view, keys or None, resume_token=resume):
            for line in [await _as_json(frame, types)] if json else [line async for line in _lines(frame, types)]:
                print(line)
            sys.stdout.flush()
            end.resume_token = frame.resume_token or end.resume_token


async def _lines(frame: WatchResponse, types: ReflectedTypes) -> AsyncIterator[str]:
    """Yield a frame as lines of text, without progress marks."""
    for row in frame.rows.rows:
        if row.HasField("deleted"):
            yield f"{row.position:>10}  {row.key}  deleted"
        else:
            fields = await types.packed_fields(row.row)
            yield f"{row.position:>10}  {row.key}  {jsonlib.dumps(fields, ensure_ascii=False)}"
    if frame.HasField("caught_up"):
        yield "-- all rows are printed; changes follow --"
    if frame.HasField("reset"):
        reason = ResetReason.Name(frame.reset.reason).removeprefix("RESET_REASON_").replace("UNSPECIFIED", "LOST")
        yield f"-- from the beginning ({reason}) --"


async def _as_json(frame: WatchResponse, types: ReflectedTypes) -> str:
    """Return a frame as a line of JSON; rows of an unknown type as base64."""
    rest = WatchResponse()
    rest.CopyFrom(frame)
    contents: dict[int, Any] = {}
    for index, row in enumerate(rest.rows.rows):
        if row.HasField("row"):
            contents[index] = {"@type": row.row.type_url, **await types.packed_fields(row.row)}
            row.row.Clear()
    fields = json_format.MessageToDict(rest)
    for index, content in contents.items():
        fields["rows"]["rows"][index]["row"] = content
    return jsonlib.dumps(fields, ensure_ascii=False)
