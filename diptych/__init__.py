"""Diptych: CQRS as a running pair of gRPC servers.

A domain imports the names below from here and needs nothing else but its own generated messages:

- Decisions: `Aggregate`, `AggregateRef`, `Deciding`, and the refusals, such as `FailedPrecondition`.
- Read models: `Projection`, `View`, `Column`, `Recorded`, `Find`, `Selection`.
- Processes: `Process`, `Step`, their outputs by `send`, `call` and `after`, and their inputs, such as `Accepted`.
- Effects: `Port`, `Effect`, `Calling`, `EffectFailed`.
- `Domain`, which lists all of them.

`diptych.testing` tests a domain without a server; `diptych.client` calls a running pair.
"""

from diptych.domain.aggregate import Aggregate, AggregateRef, Deciding
from diptych.domain.domain import Domain
from diptych.domain.inputs import Accepted, Answered, Failed, Refused
from diptych.domain.outputs import After, Call, Send, Step, after, call, send
from diptych.domain.port import Calling, Effect, EffectFailed, Port
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
    "Effect",
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
