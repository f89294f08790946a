"""Refusals: the errors that a client is told about.

A refusal is a class. Its base gives the gRPC status, its name the reason (`CopyOnLoan` is COPY_ON_LOAN), its
fields the `ErrorInfo` metadata, and `message` the sentence, with the fields filled in::

    class CopyOnLoan(FailedPrecondition):
        message = "Copy {copy_id} is on loan to {member_id}."
        copy_id: str
        member_id: str

The tree::

    Refusal
      InvalidArgument      malformed, or breaks a rule of the contract     do not retry
        InvalidRequest, MalformedMessage, CommandUnknown, TokenMalformed, PageTokenInvalid,
        ResumeTokenMalformed, UnknownView
      NotFound             the target does not exist                       do not retry
        GenerationNotFound, ParkedNotFound, ProcessNotFound, ProjectionNotFound, RowNotFound,
        ServiceUnknown
      AlreadyExists        an id or a unique value is taken                do not retry
      FailedPrecondition   a rule of the domain forbids it                 do not retry
        RequestIdReused, TokenOfAnotherLog, TokenOfOlderEpoch, TokenAheadOfLog, ReadModelParked,
        ReadModelPaused, ReadModelStalled, ReadModelRebuilding, RebuildNotRunning, RebuildFailed,
        RebuildUnderWay, ProjectionPaused, ProjectionLedElsewhere, StillParked
      Aborted              decided on a stale version                      read again, decide again
        VersionConflict, RebuildCancelled
      OutOfRange           beyond the end                                  do not retry
        ResumeTokenExpired
      ResourceExhausted    a limit is reached                              retry after the delay given
        Overloaded
      DeadlineExceeded     not in time                                     retry with a longer deadline
        CommandNotInTime, ReadModelBehind, VersionNotReached
      Unavailable          not now                                         retry with backoff
        LogUnavailable, OutcomeUnknown, ReadModelNotReady, ReadStoreUnavailable
      Unimplemented        no such method                                  do not retry
        MethodUnknown
      Internal             a defect of ours                                report it
        InternalError

The reasons of the engine's own refusals are those of `diptych.v1.ErrorReason`; a test compares the two.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any, ClassVar, Self, dataclass_transform

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

ENGINE_DOMAIN = "diptych.v1"
"""The `ErrorInfo` domain of the engine's own refusals."""


@dataclass_transform(kw_only_default=True)
class Refusal(Exception):
    """The base of all refusals. Subclass one of the status classes below, not this.

    Two refusals are equal when their class and fields are. `token` is the engine's: what the trailers carry.
    """

    status: ClassVar[grpc.StatusCode]
    message: ClassVar[str]
    reason: ClassVar[str] = ""
    fields: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.reason = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).upper()
        own = [name for name, hint in inspect.get_annotations(cls).items() if "ClassVar" not in str(hint)]
        for name in own:
            if hasattr(Refusal, name):
                raise TypeError(f"{cls.__name__} has a field {name}, which every refusal has; give it another name.")
        cls.fields = (*cls.fields, *(name for name in own if name not in cls.fields))

    def __init__(self, **values: object) -> None:
        if set(values) != set(self.fields):
            raise TypeError(
                f"{type(self).__name__} takes {', '.join(self.fields) or 'no fields'}; "
                f"given: {', '.join(values) or 'none'}."
            )
        self.__dict__.update(values)
        # What is told is taken from here: `token` below is the engine's, and one refusal has a field of that name.
        self._values = values
        self._extra: dict[str, str] = {}
        self._retry_seconds: float | None = None
        self.token = ""
        super().__init__()

    def telling(self, *, retry_seconds: float | None = None, **values: object) -> Self:
        """Adds metadata beyond the fields, and how soon a retry makes sense; returns the refusal itself."""
        self._extra.update((name, str(value)) for name, value in values.items())
        if retry_seconds is not None:
            self._retry_seconds = retry_seconds
        return self

    @property
    def metadata(self) -> dict[str, str]:
        """The values told in `ErrorInfo.metadata`."""
        return {**{name: _text(self._values[name]) for name in self.fields}, **self._extra}

    def __str__(self) -> str:
        return self.message.format(**{name: _text(self._values[name]) for name in self.fields})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={self._values[name]!r}' for name in self.fields)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Refusal) and type(other) is type(self) and self._values == other._values

    def __hash__(self) -> int:
        return hash((type(self), *(_text(self._values[name]) for name in self.fields)))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self._values)

    def details(self) -> Iterable[Message]:
        """The status details beside `ErrorInfo`."""
        if self._retry_seconds is not None:
            delay = duration_pb2.Duration()
            delay.FromNanoseconds(int(self._retry_seconds * 1e9))
            yield error_details_pb2.RetryInfo(retry_delay=delay)

    def to_status(self, domain: str) -> status_pb2.Status:
        """This refusal as a `google.rpc.Status`. `domain` is the `ErrorInfo` domain of a domain's own refusals."""
        own = type(self).__module__.startswith("diptych.")
        info = error_details_pb2.ErrorInfo(
            reason=self.reason, domain=ENGINE_DOMAIN if own else domain, metadata=self.metadata
        )
        status = status_pb2.Status(code=self.status.value[0], message=str(self))
        for detail in (info, *self.details()):
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        return status


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _restore(kind: type[Refusal], values: dict[str, object]) -> Refusal:
    return kind(**values)


class InvalidArgument(Refusal):
    """The request is malformed or breaks a rule of the contract, whatever the state."""

    status = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(Refusal):
    """What the request is addressed to does not exist."""

    status = grpc.StatusCode.NOT_FOUND


class AlreadyExists(Refusal):
    """An id or a unique value is taken."""

    status = grpc.StatusCode.ALREADY_EXISTS


class FailedPrecondition(Refusal):
    """A rule forbids it in this state."""

    status = grpc.StatusCode.FAILED_PRECONDITION


class Aborted(Refusal):
    """It was decided on a state that is no more: read again, decide again."""

    status = grpc.StatusCode.ABORTED


class OutOfRange(Refusal):
    """It lies beyond the end."""

    status = grpc.StatusCode.OUT_OF_RANGE


class ResourceExhausted(Refusal):
    """A limit is reached."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED


class DeadlineExceeded(Refusal):
    """It did not happen in time."""

    status = grpc.StatusCode.DEADLINE_EXCEEDED


class Unavailable(Refusal):
    """It cannot be served now."""

    status = grpc.StatusCode.UNAVAILABLE


class Unimplemented(Refusal):
    """There is no such method here."""

    status = grpc.StatusCode.UNIMPLEMENTED


class Internal(Refusal):
    """A defect of ours."""

    status = grpc.StatusCode.INTERNAL
