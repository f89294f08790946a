"""Ports: connections to the systems on which a process has effects."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from google.protobuf.message import Message

Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)


class EffectFailed(Exception):
    """Permanent failure of an effect, raised by the effect. The engine reports it to the process and does not retry.

    Any other exception of an effect counts as temporary: the engine calls the effect again with backoff.

    Args:
        reason: The reason in capitals, as CARD_DECLINED.
        message: A sentence for people.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Calling(NamedTuple):
    """Context of one call of an effect: the effect's second argument."""

    key: str
    """The idempotency key: the same for every attempt of this call, different for any other call."""
    attempt: int
    """The number of the attempt, from 1. It begins anew after a restart of the command server."""
    correlation_id: str
    traceparent: str


Effect: TypeAlias = Callable[[Q, Calling], Awaitable[A]]
"""A coroutine function `(request, calling) -> answer`. The engine cancels an attempt at the port's timeout."""


class Port(Generic[Q, A]):
    """The effects of one request type.

    Args:
        request: The request type. A domain has one port for each.
        answer: The answer type.
        connect: Returns a context manager that the command server enters at start and leaves at stop. It gives the
            effect.
        concurrency: The most calls at once.
        timeout: The limit of one attempt. An attempt that exceeds it is cancelled and repeated with backoff.
    """

    def __init__(
        self,
        request: type[Q],
        answer: type[A],
        connect: Callable[[], AbstractAsyncContextManager[Effect[Q, A]]],
        *,
        concurrency: int = 64,
        timeout: timedelta = timedelta(seconds=10),
    ) -> None:
        self.request = request
        self.answer = answer
        self.connect = connect
        self.concurrency = concurrency
        self.timeout = timeout
