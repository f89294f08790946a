"""Diptych: CQRS as a running pair of gRPC servers.

This package is what a domain is written against, and what the servers share. A domain imports the names
below from here; it needs nothing else but its own generated messages.
"""

from diptych.domain.aggregate import Aggregate, AggregateRef, Deciding
from diptych.domain.domain import Domain
from diptych.domain.inputs import Accepted, Answered, Failed, Refused
from diptych.domain.outputs import After, Call, Send, Step, after, call, send
from diptych.domain.port import Calling, EffectFailed, Port
from diptych.domain.process import Process
from diptych.domain.projection import Projection, Selection, View
from diptych.domain.query import Column, Find
from diptych.domain.recorded import Recorded
from diptych.domain.refusal import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Refusal,
    ResourceExhausted,
)

__all__ = [
    "Aborted",
    "Accepted",
    "After",
    "Aggregate",
    "AggregateRef",
    "AlreadyExists",
    "Answered",
    "Call",
    "Calling",
    "Column",
    "Deciding",
    "Domain",
    "EffectFailed",
    "Failed",
    "FailedPrecondition",
    "Find",
    "InvalidArgument",
    "NotFound",
    "Port",
    "Process",
    "Projection",
    "Recorded",
    "Refusal",
    "Refused",
    "ResourceExhausted",
    "Selection",
    "Send",
    "Step",
    "View",
    "after",
    "call",
    "send",
]
