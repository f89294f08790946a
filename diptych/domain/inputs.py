"""Inputs of a process that report on its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar

from google.protobuf.message import Message

from diptych.domain.aggregate import AggregateRef

C = TypeVar("C", bound=Message)
Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)


class Accepted(NamedTuple, Generic[C]):
    """The acceptance of a command that the process sent."""

    command: C
    aggregate: AggregateRef
    version: int
    """The aggregate's version after the command."""


class Refused(NamedTuple, Generic[C]):
    """The refusal of a command that the process sent."""

    command: C
    reason: str
    """The reason of `ErrorInfo`, as STOCK_TOO_LOW."""
    message: str
    metadata: Mapping[str, str]


class Answered(NamedTuple, Generic[Q, A]):
    """The answer to an effect that the process requested."""

    request: Q
    answer: A


class Failed(NamedTuple, Generic[Q]):
    """The permanent failure of an effect that the process requested."""

    request: Q
    reason: str
    """The reason of `EffectFailed`, as CARD_DECLINED."""
    message: str
