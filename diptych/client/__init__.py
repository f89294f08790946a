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
    open_channel,
    with_context,
)
from diptych.client.watch import Watching

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
