"""Refusals: errors for the caller.

A refusal is a class. Its base gives the gRPC status, `reason` its stable name in the contract. Its fields become the
metadata of `ErrorInfo`, and `message` is the sentence with the fields filled in::

    class CopyOnLoan(FailedPrecondition, reason="COPY_ON_LOAN"):
        message = "Copy {copy_id} is on loan to {member_id}."
        copy_id: str
        member_id: str

Without `reason` the name of the class gives it: `CopyOnLoan` is COPY_ON_LOAN.

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
        ResumeTokenExpired, TokenAheadOfStream
      ResourceExhausted    a limit is reached                              retry after the delay given
        Overloaded
      DeadlineExceeded     not in time                                     retry with a longer deadline
        CommandNotInTime, ReadModelBehind, VersionNotReached
      Unavailable          not now                                         retry with backoff
        LogUnavailable, OutcomeUnknown, ReadModelNotReady, QueryServerStopping, ReadStoreUnavailable
      Unimplemented        no such method                                  do not retry
        MethodUnknown
      Internal             a defect of the server or of the domain         report it
        InternalError

The reasons of the engine's own refusals are those of `diptych.v1.ErrorReason`; a test compares the two.
"""

from __future__ import annotations

import enum
import inspect
import re
import string
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

ENGINE_DOMAIN = "diptych.v1"
"""The `ErrorInfo` domain of the engine's own refusals."""


class StatusCode(enum.IntEnum):
    """The gRPC status codes of refusals, with the numbers of `google.rpc.Code`."""

    INVALID_ARGUMENT = code_pb2.INVALID_ARGUMENT
    DEADLINE_EXCEEDED = code_pb2.DEADLINE_EXCEEDED
    NOT_FOUND = code_pb2.NOT_FOUND
    ALREADY_EXISTS = code_pb2.ALREADY_EXISTS
    RESOURCE_EXHAUSTED = code_pb2.RESOURCE_EXHAUSTED
    FAILED_PRECONDITION = code_pb2.FAILED_PRECONDITION
    ABORTED = code_pb2.ABORTED
    OUT_OF_RANGE = code_pb2.OUT_OF_RANGE
    UNIMPLEMENTED = code_pb2.UNIMPLEMENTED
    INTERNAL = code_pb2.INTERNAL
    UNAVAILABLE = code_pb2.UNAVAILABLE


@dataclass_transform(kw_only_default=True)
class Refusal(Exception):
    """The base of all refusals. Subclass one of the status classes below, not this one.

    Annotated names of a subclass are its fields; the constructor takes each of them as a keyword. A refusal is
    immutable. Two refusals are equal when their class and their fields are.

    Args of the class statement:
        reason: The stable name in the contract. The default comes from the name of the class.

    Raises:
        TypeError: The class has a field whose name every refusal uses itself, or its `message` has a placeholder
            that is no field. Raised too by the constructor when it is not given exactly the fields.
    """

    status: ClassVar[StatusCode]
    """The gRPC status; set by the status classes below."""
    message: ClassVar[str]
    """The sentence for the caller, with a placeholder `{name}` for each field."""
    reason: ClassVar[str] = ""
    """The stable name in the contract, as COPY_ON_LOAN."""
    fields: ClassVar[tuple[str, ...]] = ()
    """The names of the fields, inherited ones first."""

    _values: Mapping[str, object]
    _details: Mapping[str, str]
    _retry_seconds: float | None

    def __init_subclass__(cls, *, reason: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.reason = reason or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).upper()
        own = [name for name, hint in inspect.get_annotations(cls).items() if "ClassVar" not in str(hint)]
        for name in own:
            if hasattr(Refusal, name):
                raise TypeError(f"{cls.__name__} has a field {name}, which every refusal has; give it another name.")
        cls.fields = (*cls.fields, *(name for name in own if name not in cls.fields))
        _check_status(cls)
        _check_message(cls)

    def __init__(self, **values: object) -> None:
        for name in ("status", "message"):
            if not hasattr(self, name):
                raise TypeError(
                    f"{type(self).__name__} has no {name}; derive it from a class with a status, as NotFound, and give "
                    'it a sentence: message = "...".'
                )
        if set(values) != set(self.fields):
            raise TypeError(
                f"{type(self).__name__} takes {', '.join(self.fields) or 'no fields'}; "
                f"given: {', '.join(values) or 'none'}."
            )
        self.__dict__.update(values, _values=values, _details={}, _retry_seconds=None)
        super().__init__()

    def __setattr__(self, name: str, value: object) -> None:
        # Python itself sets `__cause__`, `__traceback__` and the like while an exception travels.
        if not name.startswith("__"):
            raise AttributeError(f"{type(self).__name__} is immutable: {name} cannot be set. with_details() copies.")
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if not name.startswith("__"):
            raise AttributeError(f"{type(self).__name__} is immutable: {name} cannot be deleted.")
        super().__delattr__(name)

    def with_details(self, *, retry_seconds: float | None = None, **metadata: object) -> Self:
        """Return a copy with more metadata than the fields.

        Args:
            retry_seconds: Seconds after which a retry makes sense; sent as `RetryInfo`. None: leaves it as it is.
            **metadata: Further entries of `ErrorInfo.metadata`, as text.
        """
        details = {**self._details, **{name: str(value) for name, value in metadata.items()}}
        return self._copy(
            _details=details, _retry_seconds=self._retry_seconds if retry_seconds is None else retry_seconds
        )

    @property
    def metadata(self) -> dict[str, str]:
        """The entries of `ErrorInfo.metadata`: the fields as text, then those of `with_details`."""
        return {**{name: _text(self._values[name]) for name in self.fields}, **self._details}

    def __str__(self) -> str:
        return self.message.format(**{name: _text(self._values[name]) for name in self.fields})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={self._values[name]!r}' for name in self.fields)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Refusal) and type(other) is type(self) and self._values == other._values

    def __hash__(self) -> int:
        return hash((type(self), *(_text(self._values[name]) for name in self.fields)))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), dict(self.__dict__))

    def details(self) -> Iterable[Message]:
        """Yield the status details other than `ErrorInfo`."""
        if self._retry_seconds is not None:
            delay = duration_pb2.Duration()
            delay.FromNanoseconds(int(self._retry_seconds * 1e9))
            yield error_details_pb2.RetryInfo(retry_delay=delay)

    def to_status(self, domain: str) -> status_pb2.Status:
        """Return this refusal as a `google.rpc.Status`.

        Args:
            domain: The `ErrorInfo` domain of an author's refusals. Those of the engine have `ENGINE_DOMAIN`.
        """
        own = type(self).__module__.startswith("diptych.")
        info = error_details_pb2.ErrorInfo(
            reason=self.reason, domain=ENGINE_DOMAIN if own else domain, metadata=self.metadata
        )
        status = status_pb2.Status(code=self.status, message=str(self))
        for detail in (info, *self.details()):
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        return status

    def _copy(self, **state: object) -> Self:
        """Return a copy with these attributes in place of its own, without traceback and cause."""
        return _restore(type(self), {**self.__dict__, **state})


def _check_status(kind: type[Refusal]) -> None:
    """Raise `TypeError` unless the status of a class is one of an error."""
    status = getattr(kind, "status", StatusCode.INTERNAL)
    if not isinstance(status, StatusCode):
        raise TypeError(f"{kind.__name__} has the status {status!r}, which is no diptych.StatusCode of an error.")


def _check_message(kind: type[Refusal]) -> None:
    """Raise `TypeError` unless the fields of a class, as texts, fill in all placeholders of its message."""
    message = getattr(kind, "message", "")
    names = ", ".join(kind.fields) or "none"
    if not isinstance(message, str):
        raise TypeError(f"The message of {kind.__name__} is a {type(message).__name__}; write a sentence in quotes.")
    try:
        for _, placeholder, _, _ in string.Formatter().parse(message):
            if placeholder is not None and placeholder not in kind.fields:
                raise TypeError(
                    f"The message of {kind.__name__} has the placeholder {{{placeholder}}}, which is no field; "
                    f"its fields: {names}."
                )
        message.format(**dict.fromkeys(kind.fields, ""))
    except (LookupError, AttributeError, ValueError) as error:
        # A placeholder within the format of another one is a LookupError.
        raise TypeError(
            f"The message of {kind.__name__} is no format string for texts ({error}); write placeholders as "
            f"{{field}}, with one of its fields: {names}."
        ) from error


R = TypeVar("R", bound=Refusal)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _restore(kind: type[R], state: dict[str, object]) -> R:
    refusal = kind.__new__(kind)
    refusal.__dict__.update(state)
    return refusal


class InvalidArgument(Refusal):
    """The request is malformed or breaks a rule of the contract, in any state."""

    status = StatusCode.INVALID_ARGUMENT


class NotFound(Refusal):
    """The target of the request does not exist."""

    status = StatusCode.NOT_FOUND


class AlreadyExists(Refusal):
    """An id or a unique value is taken."""

    status = StatusCode.ALREADY_EXISTS


class FailedPrecondition(Refusal):
    """A rule forbids the request in this state."""

    status = StatusCode.FAILED_PRECONDITION


class Aborted(Refusal):
    """The request was decided on a state that has changed: read again, decide again."""

    status = StatusCode.ABORTED


class OutOfRange(Refusal):
    """The requested position lies beyond the end."""

    status = StatusCode.OUT_OF_RANGE


class ResourceExhausted(Refusal):
    """A limit is reached."""

    status = StatusCode.RESOURCE_EXHAUSTED


class DeadlineExceeded(Refusal):
    """The request was not served before its deadline."""

    status = StatusCode.DEADLINE_EXCEEDED


class Unavailable(Refusal):
    """The request cannot be served now."""

    status = StatusCode.UNAVAILABLE


class Unimplemented(Refusal):
    """The server has no such method."""

    status = StatusCode.UNIMPLEMENTED


class Internal(Refusal):
    """A defect of the server or of the domain."""

    status = StatusCode.INTERNAL
