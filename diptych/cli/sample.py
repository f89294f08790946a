"""A domain's sample: what `diptych up` loads the first time, and the calls that it shows to try.

Both belong to the domain. A domain `shop` that has a sample has a module `shop.sample` with

- `COMMANDS`, commands in the order to execute them, each with a request id of its own, so that loading them
  twice does no harm;
- `CALLS`, pairs of a title and a request of one of the domain's rpcs.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from google.protobuf import json_format
from google.protobuf.message import Message

from diptych.client import Connection, method_of


class Sample(NamedTuple):
    """A domain's sample."""

    commands: Sequence[Message] = ()
    calls: Sequence[tuple[str, Message]] = ()


def find(domain: str) -> Sample:
    """The sample of a domain; empty if it has none."""
    if importlib.util.find_spec(domain) is None or importlib.util.find_spec(f"{domain}.sample") is None:
        return Sample()
    module = importlib.import_module(f"{domain}.sample")
    return Sample(getattr(module, "COMMANDS", ()), getattr(module, "CALLS", ()))


async def load(connection: Connection, sample: Sample) -> None:
    """Loads a sample and waits until it can be read; raises `CallRefused`."""
    for command in sample.commands:
        await connection.execute(command)
    if connection.token:
        await connection.wait_for(connection.token)


def calls(sample: Sample, *, commands: str, queries: str, token: str) -> Iterator[tuple[str, str]]:
    """Titles and shell commands that make the sample's calls, and what every domain can be asked."""
    first: tuple[str, Message] | None = None
    for title, request in sample.calls:
        is_query = method_of(type(request)).service.endswith(".QueryService")
        yield title, _shell_command(queries if is_query else commands, request)
        if is_query and first is None:
            first = (title, request)
    if first is not None and token:
        title, request = first
        yield f"{title}, at least as fresh as a token", _shell_command(queries, request, token)
    yield "See how far each projection is", _buf_curl(queries, "/diptych.v1.ReadModelService/GetStatus", "")


def _shell_command(address: str, request: Message, token: str = "") -> str:
    content = json_format.MessageToJson(request, indent=None)
    return _buf_curl(address, method_of(type(request)).path, content, token)


def _buf_curl(address: str, path: str, content: str, token: str = "") -> str:
    """A call with `buf curl`, which asks the server itself for the contract."""
    options = ["--protocol", "grpc", "--http2-prior-knowledge"]
    if token:
        options += ["-H", f"diptych-token: {token}"]
    if content:
        options += ["-d", content]
    return shlex.join([_buf(), "curl", *options, f"http://{address}{path}"])


def _buf() -> str:
    """How to call buf here: it may lie beside this Python, in an environment that is not activated."""
    beside = Path(sys.executable).with_name("buf")
    if shutil.which("buf") is None and beside.exists():
        relative = os.path.relpath(beside)
        return str(beside) if relative.startswith("..") else relative
    return "buf"
