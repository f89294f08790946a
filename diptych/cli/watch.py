"""`diptych watch`: the rows of a view, and every change, one line each."""

from __future__ import annotations

import asyncio
import base64
import json as jsonlib
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any

import typer
from google.protobuf import json_format
from google.protobuf.any_pb2 import Any as AnyMessage

from diptych.client import CallRefused, Connection, import_contracts
from diptych.server.options import fail
from diptych.v1.read_model_pb2 import ResetReason, WatchResponse


def watch(
    view: Annotated[str, typer.Argument(help="The view to watch, such as users.")],
    keys: Annotated[list[str] | None, typer.Argument(metavar="[KEY]...", help="Keys of the rows. None: all.")] = None,
    query: Annotated[
        str, typer.Option(envvar="DIPTYCH_QUERY", metavar="HOST:PORT", help="The query server to ask.")
    ] = "127.0.0.1:50052",
    domain: Annotated[
        str,
        typer.Option(envvar="DIPTYCH_DOMAIN", help="Python package of the domain, whose contracts tell the fields."),
    ] = "shop",
    resume: Annotated[str, typer.Option(metavar="TOKEN", help="Go on from a resume token, without a snapshot.")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print every frame as a line of JSON.")] = False,
) -> None:
    """Prints rows of a view as they stand, then every change, until Ctrl-C."""
    with suppress(ModuleNotFoundError):  # Without the contracts the rows are printed as base64.
        import_contracts(f"{domain}.v1")
    last = _Last()
    try:
        asyncio.run(_print(query, view, keys, resume, json, last))
    except CallRefused as refused:
        fail("watch", f"the query server at {query} refused: {refused}", status=1)
    except BrokenPipeError:  # Whoever read our lines, such as `head`, has read enough.
        sys.stderr.close()
    finally:
        if last.resume_token and not json:
            typer.echo(f"Go on with --resume {last.resume_token}", err=True)


class _Last:
    """Where a watch ended."""

    resume_token = ""


async def _print(address: str, view: str, keys: list[str] | None, resume: str, json: bool, last: _Last) -> None:
    async with Connection(queries=address) as connection:
        async for frame in connection.watch(view, keys or None, resume_token=resume):
            for line in (_as_json(frame),) if json else _lines(frame):
                print(line)
            sys.stdout.flush()
            last.resume_token = frame.resume_token or last.resume_token


def _lines(frame: WatchResponse) -> Iterator[str]:
    """A frame for people; progress marks are left out."""
    for row in frame.rows.rows:
        if row.HasField("deleted"):
            yield f"{row.position:>10}  {row.key}  deleted"
        else:
            yield f"{row.position:>10}  {row.key}  {jsonlib.dumps(_content(row.row), ensure_ascii=False)}"
    if frame.HasField("caught_up"):
        yield "-- these are all; what changes follows --"
    if frame.HasField("reset"):
        reason = ResetReason.Name(frame.reset.reason).removeprefix("RESET_REASON_").replace("UNSPECIFIED", "LOST")
        yield f"-- from the beginning ({reason}) --"


def _as_json(frame: WatchResponse) -> str:
    rest = WatchResponse()
    rest.CopyFrom(frame)
    contents: dict[int, Any] = {}
    for index, row in enumerate(rest.rows.rows):
        if row.HasField("row"):
            contents[index] = {"@type": row.row.type_url, **_content(row.row)}
            row.row.Clear()
    fields = json_format.MessageToDict(rest)
    for index, content in contents.items():
        fields["rows"]["rows"][index]["row"] = content
    return jsonlib.dumps(fields, ensure_ascii=False)


def _content(packed: AnyMessage) -> dict[str, Any]:
    """A row's fields, or its bytes if its type is not known here."""
    try:
        fields: dict[str, Any] = json_format.MessageToDict(packed)
    except TypeError:
        return {"value": base64.b64encode(packed.value).decode("ascii")}
    return {name: value for name, value in fields.items() if name != "@type"}
