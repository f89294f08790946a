"""`diptych health`: the answer of a server's health service, for health checks."""

from __future__ import annotations

from typing import Annotated

import grpc
import typer
from grpc_health.v1 import health_pb2

from diptych.server.channels import open_blocking_channel
from diptych.server.options import fail

_ANSWER_SECONDS = 5.0


def health(
    address: Annotated[str, typer.Option(envvar="DIPTYCH_ADDRESS", metavar="HOST:PORT", help="Address of the server.")],
    service: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Full name of a service, or diptych.projection.NAME for a projection. Unset: the whole server.",
        ),
    ] = "",
) -> None:
    """End with status 0 if a server is SERVING, else with 1."""
    subject = f"{service} at {address}" if service else f"the server at {address}"
    with open_blocking_channel(address) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(health_pb2.HealthCheckRequest(service=service), timeout=_ANSWER_SECONDS)
        except grpc.RpcError as error:
            fail("health", f"{subject} did not answer: {error.code().name}: {error.details()}", status=1)
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        fail("health", f"{subject} is {status}.", status=1)
    typer.echo(status)
