"""Sample of a domain: commands that `diptych up` loads into an empty log, and calls that it shows to try.

A domain `shop` with a sample has a module `shop.sample` with

- `COMMANDS`, commands in the order of their execution, each with its own request id, so that a second load has no
  effect;
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

from diptych.cli.addresses import COMMANDS, QUERY
from diptych.client import Connection, method_of
from diptych.domain.package_origin import working_directory_first


class Sample(NamedTuple):
    """Commands and calls of a domain's sample."""

    commands: Sequence[Message] = ()
    calls: Sequence[tuple[str, Message]] = ()


def find(domain: str) -> Sample:
    """Return the sample of a domain; an empty one if the domain has none."""
    with working_directory_first(domain):
        if importlib.util.find_spec(domain) is None or importlib.util.find_spec(f"{domain}.sample") is None:
            return Sample()
        module = importlib.import_module(f"{domain}.sample")
    return Sample(getattr(module, "COMMANDS", ()), getattr(module, "CALLS", ()))


async def load(connection: Connection, sample: Sample) -> None:
    """Load a sample and wait until queries include it. Raise `CallRefused` if a command or the wait fails."""
    for command in sample.commands:
        await connection.execute(command)
    if connection.token:
        await connection.wait_for(connection.token)


def calls(sample: Sample, *, commands: str, queries: str, token: str) -> Iterator[tuple[str, str]]:
    """Yield titles and shell commands for the sample's calls, and for a call that every domain answers."""
    first: tuple[str, Message] | None = None
    for title, request in sample.calls:
        is_query = method_of(type(request)).service.endswith(".QueryService")
        yield title, _shell_command(queries if is_query else commands, request)
        if is_query and first is None:
            first = (title, request)
    if first is not None and token:
        title, request = first
        yield f"{title}, at least as fresh as a token", _shell_command(queries, request, token)
    yield "See how far each projection is", _shell_call(queries, QUERY, "/diptych.v1.ReadModelService/GetStatus", "")


def _shell_command(address: str, request: Message, token: str = "") -> str:
    content = json_format.MessageToJson(request, indent=None, preserving_proto_field_name=True)
    method = method_of(type(request))
    default = QUERY if method.service.endswith(".QueryService") else COMMANDS
    return _shell_call(address, default, method.path, content, token)


def _shell_call(address: str, default: str, path: str, content: str, token: str = "") -> str:
    """Return a shell command with `diptych call`, which reads the contract from the server."""
    words = [program(), "call", path.removeprefix("/")]
    if content:
        words.append(content)
    if token:
        words += ["--token", token]
    if address != default:
        words += ["--address", address]
    return shlex.join(words)


def program() -> str:
    """Return the path of `diptych`, which may be beside this Python in an environment that is not activated."""
    beside = Path(sys.executable).with_name("diptych")
    if shutil.which("diptych") is None and beside.exists():
        relative = os.path.relpath(beside)
        return str(beside) if relative.startswith("..") else relative
    return "diptych"
