"""Status of all servers, collected from the query server, the projector and the command server."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf import json_format

from diptych.cli.calls import call_at
from diptych.cli.processes import list_processes
from diptych.client import CallRefused
from diptych.server.channels import CallError
from diptych.v1.processes_pb2 import ListProcessesResponse
from diptych.v1.projections_pb2 import ListProjectionsRequest, ListProjectionsResponse
from diptych.v1.read_model_pb2 import GetStatusRequest, GetStatusResponse

_ANSWER_SECONDS = 10.0

_SILENT_SECONDS = 3.0
"""Age of the last message from a server above which the server counts as silent."""


class ServerStatus:
    """Answers of the servers, and the names of those that do not answer."""

    def __init__(self, answer: GetStatusResponse | None) -> None:
        self.answer = answer
        """Answer of the query server; None if it does not answer."""
        self.projections = list(answer.projections) if answer is not None else []
        self.silent: dict[str, str] = {}
        """A sentence about each server that does not answer, by the server's name."""
        self.processes: ListProcessesResponse | None = None
        """Answer of the command server; None if it does not answer."""

    def as_json(self, problems: list[str], indent: int | None = None) -> str:
        """Return a JSON object: the fields of the answer, `processes`, `silent` and `problems`."""
        answer = GetStatusResponse()
        if self.answer is not None:
            answer.CopyFrom(self.answer)
        del answer.projections[:]
        answer.projections.extend(self.projections)
        for projection in answer.projections:
            # A program without the domain's contracts cannot print an event as JSON.
            projection.stalled_event.ClearField("event")
        fields: dict[str, Any] = json_format.MessageToDict(answer, always_print_fields_with_no_presence=True)
        if self.processes is not None:
            listed = json_format.MessageToDict(self.processes, always_print_fields_with_no_presence=True)
            fields["processes"] = listed["processes"]
        return json.dumps({**fields, "silent": self.silent, "problems": problems}, indent=indent)


async def read_status(query: str, projector: str, commands: str) -> ServerStatus:
    """Return the status of all servers.

    Args:
        query: Address of the query server.
        projector: Address of the projector, which is called if the query server does not answer.
        commands: Address of the command server, which is called for its processes.
    """
    status = await _read_projections(query, projector)
    try:
        status.processes = await list_processes(commands, _ANSWER_SECONDS)
    except CallError as error:
        sentence = f"The command server at {commands} did not answer, so its processes are not known"
        status.silent.setdefault("command-server", f"{sentence}: {CallRefused.of(error)}")
    return status


async def _read_projections(query: str, projector: str) -> ServerStatus:
    try:
        answer = await call_at(
            query, "diptych.v1.ReadModelService/GetStatus", GetStatusRequest(), GetStatusResponse, _ANSWER_SECONDS
        )
    except CallError as error:
        status = ServerStatus(None)
        status.silent["query-server"] = f"The query server at {query} did not answer: {CallRefused.of(error)}"
        await _read_projector(status, projector)
        return status
    status = ServerStatus(answer)
    for server, age in (("command-server", "head_age"), ("projector", "projector_age")):
        name = server.replace("-", " ")
        if not answer.HasField(age):
            status.silent[server] = f"The {name} does not answer; the query server has received nothing from it."
        elif (seconds := getattr(answer, age).ToNanoseconds() / 1e9) >= _SILENT_SECONDS:
            last = f"its last message reached the query server {seconds:.1f} s ago"
            status.silent[server] = f"The {name} does not answer; {last}."
    return status


async def _read_projector(status: ServerStatus, projector: str) -> None:
    method = "diptych.v1.ProjectionService/ListProjections"
    try:
        listed = await call_at(projector, method, ListProjectionsRequest(), ListProjectionsResponse, _ANSWER_SECONDS)
        status.projections = list(listed.projections)
    except CallError as error:
        status.silent["projector"] = f"The projector at {projector} did not answer either: {CallRefused.of(error)}"
