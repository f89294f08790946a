"""Diptych: CQRS as a running pair of gRPC servers.

This package is what a domain is written against, and what the servers share. A domain imports the names
below from here; it needs nothing else but its own generated messages.
"""

from diptych.domain.aggregate import Aggregate, AggregateRef, Deciding
from diptych.domain.loading import Domain
from diptych.domain.process import (
    Accepted,
    After,
    Answered,
    Call,
    Calling,
    EffectFailed,
    Failed,
    Port,
    Process,
    Refused,
    Send,
    Step,
    after,
    call,
    send,
)
from diptych.domain.projection import Column, Projection, Recorded, View
from diptych.domain.query import Find, Selection
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
