"""Observation of the three servers, for the screen of `diptych up`."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from diptych.cli.calls import call
from diptych.internal.v1.log_pb2 import GetHeadRequest, GetHeadResponse
from diptych.server.channels import CallError, Channel
from diptych.v1.projections_pb2 import ListProjectionsRequest, ListProjectionsResponse, ProjectionStatus

_ANSWER_SECONDS = 1.0
# Metrics are on this machine; a proxy that the environment names is for other networks.
_without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Observation(NamedTuple):
    """State of the servers at one time. None: the server did not answer."""

    head: int | None = None
    """Position of the last event in the log."""
    commands: int | None = None
    """Number of commands that the command server has answered since its start."""
    projections: Sequence[ProjectionStatus] | None = None


async def observe(commands: Channel, projector: Channel, metrics: str = "") -> Observation:
    """Return the state of the servers.

    Args:
        commands: Channel to the command server.
        projector: Channel to the projector.
        metrics: Address of the command server's metrics, read for the number of commands; empty to leave it out.
    """
    head = answered = projections = None
    with suppress(CallError):
        head = (await get_head(commands, _ANSWER_SECONDS)).head_position
    with suppress(CallError):
        method = "diptych.v1.ProjectionService/ListProjections"
        answer = await call(projector, method, ListProjectionsRequest(), ListProjectionsResponse, _ANSWER_SECONDS)
        projections = tuple(answer.projections)
    if metrics and head is not None:
        answered = await asyncio.to_thread(_commands_answered, f"http://{metrics}/metrics")
    return Observation(head, answered, projections)


async def get_head(commands: Channel, seconds: float) -> GetHeadResponse:
    """Return the log's identity and head. Raise `CallError` if the command server does not answer in `seconds`."""
    return await call(commands, "diptych.internal.v1.LogService/GetHead", GetHeadRequest(), GetHeadResponse, seconds)


def _commands_answered(url: str) -> int | None:
    """Return the number of commands in the command server's metrics; None if they cannot be read."""
    try:
        with _without_proxy.open(url, timeout=_ANSWER_SECONDS) as answer:
            lines = answer.read().decode("utf-8").splitlines()
    except OSError:
        return None
    return round(sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("diptych_commands_total{")))
