"""A client for Python programs: commands on one side, queries as fresh as their tokens on the other."""

from diptych.client.connection import (
    CallRefused,
    CommandStream,
    Connection,
    Method,
    Outcome,
    Violation,
    import_contracts,
    method_of,
    with_context,
)
from diptych.client.watch import Watching
from diptych.server.channels import open_client_channel as open_channel

__all__ = [
    "CallRefused",
    "CommandStream",
    "Connection",
    "Method",
    "Outcome",
    "Violation",
    "Watching",
    "import_contracts",
    "method_of",
    "open_channel",
    "with_context",
]
