"""`diptych call`: call any rpc of a server with a request in JSON, and print the answer as JSON."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Iterator
from typing import Annotated, Any, cast

import grpc
import typer
from google.protobuf import json_format
from google.protobuf.message import Message

from diptych.cli.addresses import COMMANDS, PROJECTOR, QUERY, Commands, Projector, Query
from diptych.cli.reflected import Rpc, UnknownRpc, find_rpc
from diptych.client import CallRefused
from diptych.client.errors import token_in
from diptych.contract.token import TOKEN_KEY
from diptych.server.channels import CallError, open_blocking_channel
from diptych.server.options import fail
from diptych.server.request_context import REQUEST_ID_KEY

_QUERY_SERVICES = ("QueryService", "ReadModelService")
_PROJECTOR_SERVICES = ("ProjectionService",)


def call(
    method: Annotated[
        str, typer.Argument(metavar="SERVICE/METHOD", help="The rpc, such as shop.v1.CommandService/RegisterUser.")
    ],
    request: Annotated[
        str,
        typer.Argument(
            metavar="[JSON]",
            help='The request, such as \'{"user_id": "ada"}\'; a list of requests for an rpc that takes a stream. '
            "`-` reads it from stdin.",
        ),
    ] = "{}",
    address: Annotated[
        str,
        # Without an environment variable: DIPTYCH_ADDRESS is the address at which a server listens.
        typer.Option(metavar="HOST:PORT", help="Address of the server. Unset: by the service's name."),
    ] = "",
    token: Annotated[str, typer.Option(metavar="TOKEN", help="Token that a query's answer must include.")] = "",
    request_id: Annotated[
        str, typer.Option("--request-id", metavar="ID", help="Request id of a command; a repeat has no effect.")
    ] = "",
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds until the call is given up; a stream of answers has no limit.")
    ] = 30.0,
    commands: Commands = COMMANDS,
    query: Query = QUERY,
    projector: Projector = PROJECTOR,
) -> None:
    """Call an rpc. The server's reflection describes it, so no contracts are needed.

    The answer is printed as JSON; its token follows on stderr. If the call is refused, the status, the reason, the
    sentence, the metadata and the violations are printed on stderr, and the exit status is 1.
    """
    service, slash, name = method.strip("/").rpartition("/")
    if not (service and slash and name):
        fail("call", f"{method!r} is no rpc: give SERVICE/METHOD, such as shop.v1.CommandService/RegisterUser.")
    server = address or _server_of(service, commands, query, projector)
    metadata = [(key, value) for key, value in ((TOKEN_KEY, token), (REQUEST_ID_KEY, request_id)) if value]
    try:
        with open_blocking_channel(server) as channel:
            rpc = find_rpc(channel, service, name)
            _call(channel, rpc, _requests(rpc, request), metadata, timeout)
    except UnknownRpc as error:
        fail("call", f"at {server} {error}")
    except grpc.RpcError as error:
        # Errors of calls have code, details and trailers here as on an asynchronous channel.
        _print_error(server, CallRefused.of(cast("CallError", error)))
        raise typer.Exit(1) from None


def _server_of(service: str, commands: str, query: str, projector: str) -> str:
    """Return the address of the server that has a service, by the last part of its name."""
    name = service.rpartition(".")[2]
    if name in _QUERY_SERVICES:
        return query
    return projector if name in _PROJECTOR_SERVICES else commands


def _requests(rpc: Rpc, text: str) -> list[Message]:
    """Return the request, or the requests for an rpc that takes a stream; end the program if they are malformed."""
    if text == "-":
        text = sys.stdin.read()
    try:
        content = jsonlib.loads(text)
    except ValueError as error:
        fail("call", f"the request is no JSON: {error}.")
    if isinstance(content, list) and not rpc.client_streaming:
        fail("call", "the request is a list, and the rpc takes one message.")
    contents = content if isinstance(content, list) else [content]
    if not all(isinstance(each, dict) for each in contents):
        fail("call", "the request is no JSON object.")
    try:
        return [json_format.ParseDict(each, rpc.request(), descriptor_pool=rpc.pool) for each in contents]
    except (json_format.ParseError, TypeError, AttributeError) as error:
        fail("call", f"the request is no {rpc.request.DESCRIPTOR.full_name}: {error}")


def _call(
    channel: grpc.Channel, rpc: Rpc, requests: list[Message], metadata: list[tuple[str, str]], timeout: float
) -> None:
    """Call an rpc, and print its answers and the token."""
    open_call: Any = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }[rpc.client_streaming, rpc.server_streaming](
        rpc.path, request_serializer=rpc.request.SerializeToString, response_deserializer=rpc.response.FromString
    )
    argument: Message | Iterator[Message] = iter(requests) if rpc.client_streaming else requests[0]
    if rpc.server_streaming:
        running = open_call(argument, metadata=metadata)
        for answer in running:
            _print_answer(rpc, answer)
    else:
        answer, running = open_call.with_call(argument, metadata=metadata, timeout=timeout)
        _print_answer(rpc, answer)
    if answered := token_in(running.trailing_metadata()):
        typer.echo(f"token: {answered}", err=True)


def _print_answer(rpc: Rpc, answer: Message) -> None:
    print(json_format.MessageToJson(answer, descriptor_pool=rpc.pool, ensure_ascii=False), flush=True)


def _print_error(address: str, refused: CallRefused) -> None:
    """Print an error with its details, one line each."""
    lines = [str(refused)]
    if not refused.reason:
        lines[0] = f"The server at {address} did not answer: {refused}"
    lines += [f"  {key}: {value}" for key, value in refused.metadata.items()]
    lines += [f"  violation of {violation.field}: {violation.description}" for violation in refused.violations]
    if refused.retry_seconds is not None:
        lines.append(f"  retry after {refused.retry_seconds:g} s")
    if refused.token:
        lines.append(f"  token: {refused.token}")
    typer.echo("\n".join(lines), err=True)
