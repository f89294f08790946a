"""Similar names of projections and views, for the message about a mistyped one."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from diptych.cli.calls import call_at, describe_failure
from diptych.client import CallRefused
from diptych.contract.suggestions import did_you_mean
from diptych.server.channels import CallError
from diptych.v1.projections_pb2 import ListProjectionsRequest, ListProjectionsResponse
from diptych.v1.read_model_pb2 import GetStatusRequest, GetStatusResponse

_ANSWER_SECONDS = 5.0


def projector_refusal(address: str, error: CallError) -> str:
    """Return a sentence on a call that a projector refused, with a similar name if the projection does not exist."""
    refused = CallRefused.of(error)
    hint = ""
    if refused.reason == "PROJECTION_NOT_FOUND":
        with suppress(CallError):
            method = "diptych.v1.ProjectionService/ListProjections"
            call = call_at(address, method, ListProjectionsRequest(), ListProjectionsResponse, _ANSWER_SECONDS)
            names = [projection.name for projection in asyncio.run(call).projections]
            hint = did_you_mean(refused.metadata.get("projection", ""), names)
    return describe_failure(f"projector at {address}", refused, verb="did not do it") + hint


def watch_refusal(address: str, refused: CallRefused) -> str:
    """Return a sentence on a watch that a query server refused, with a similar name if the view does not exist."""
    hint = ""
    if refused.reason == "UNKNOWN_VIEW":
        with suppress(CallError):
            method = "diptych.v1.ReadModelService/GetStatus"
            status = asyncio.run(call_at(address, method, GetStatusRequest(), GetStatusResponse, _ANSWER_SECONDS))
            names = [view.name for projection in status.projections for view in projection.views]
            hint = did_you_mean(refused.metadata.get("view", ""), names)
    return describe_failure(f"query server at {address}", refused) + hint
