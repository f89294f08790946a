"""Outputs of a process: commands to send, effects to call, timeouts to set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeAlias, TypeVar

from google.protobuf.message import Message

C = TypeVar("C", bound=Message)
Q = TypeVar("Q", bound=Message)
T = TypeVar("T", bound=Message)


@dataclass(frozen=True)
class Send(Generic[C]):
    """A command to send; made by `send`."""

    command: C
    compensates: bool = False


@dataclass(frozen=True)
class Call(Generic[Q]):
    """An effect to call; made by `call`."""

    request: Q
    compensates: bool = False


@dataclass(frozen=True)
class After(Generic[T]):
    """A timeout to set; made by `after`."""

    delay: timedelta
    timeout: T


Output: TypeAlias = Send[Any] | Call[Any] | After[Any]
Step: TypeAlias = Sequence[Message | Output]
"""The result of a process's handler: events to record, in order, and outputs.

Narrow the return annotation of a handler, as `Sequence[ReservationStarted | Send[HoldCopyRequest]]`. Loading the domain
then checks that each event has an evolver, each command a decider, each effect a port and each timeout a handler.
"""


def send(command: C, *, compensates: bool = False) -> Send[C]:
    """Return the output that sends a command. It takes effect once.

    Args:
        command: The command. Its result or refusal is an input of the process if the process has a handler for it.
        compensates: True if the command undoes a step and must succeed. Refused, it is sent again with backoff
            without limit, and the process is shown as STUCK in the meantime.
    """
    return Send(command, compensates)


def call(request: Q, *, compensates: bool = False) -> Call[Q]:
    """Return the output that calls an effect. It is called at least once, always under the same idempotency key.

    Args:
        request: The request for the port of its type. The answer or the failure is an input of the process if the
            process has a handler for it.
        compensates: True if the effect undoes a step and must succeed. It is then called again with backoff, also
            after `EffectFailed`.
    """
    return Call(request, compensates)


def after(delay: timedelta, timeout: T) -> After[T]:
    """Return the output that sets a timeout.

    A timeout cannot be cancelled: a process ignores one that no longer matters.

    Args:
        delay: The time from the decision until the timeout is due.
        timeout: The input that the process gets then.
    """
    return After(delay, timeout)
