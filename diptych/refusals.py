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
from collections.abc import Iterable, Sequence
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


class MalformedMessage(InvalidArgument):
    """The bytes are no message of the type."""

    message = "The request is not a valid {type} message."
    type: str


class InvalidRequest(InvalidArgument):
    """The request breaks rules of the contract; `rules` holds (field path, sentence) of each."""

    message = "The request breaks {violations} rule(s): {summary}"
    violations: int
    summary: str
    rules: ClassVar[Sequence[tuple[str, str]]] = ()

    @classmethod
    def of(cls, *rules: tuple[str, str]) -> InvalidRequest:
        """A refusal for these (field path, sentence) pairs."""
        summary = "; ".join(f"{path}: {sentence}" if path else sentence for path, sentence in rules[:10])
        if len(rules) > 10:
            summary += f"; and {len(rules) - 10} more"
        refusal = cls(violations=len(rules), summary=summary + ".")
        refusal.__dict__["rules"] = rules
        return refusal

    @property
    def metadata(self) -> dict[str, str]:
        return {"violations": str(self.violations), **self._extra}

    def details(self) -> Iterable[Message]:
        yield error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(field=path, description=sentence)
                for path, sentence in self.rules
            ]
        )
        yield from super().details()


class MethodUnknown(Unimplemented):
    """No such method is served here."""

    message = "Method {method} is not served here."
    method: str


class ServiceUnknown(NotFound):
    """Nothing is known of the health of a service of that name."""

    message = "No service '{service}' is served here."
    service: str


class CommandUnknown(InvalidArgument):
    """The type is no command of the domain."""

    message = "Type '{type}' is not a command of this domain."
    type: str


class VersionConflict(Aborted):
    """The aggregate is at another version than the command expects."""

    message = "{aggregate} is at version {actual_version}, not at {expected_version}."
    aggregate: str
    expected_version: int
    actual_version: int


class RequestIdReused(FailedPrecondition):
    """The request id stood for another command before."""

    message = "Request id {request_id} was used for another command before."
    request_id: str


class OutcomeUnknown(Unavailable):
    """It is not known whether the commit took place."""

    message = "It is not known whether the command took effect: retry it under request id {request_id!r}."
    request_id: str

    def __str__(self) -> str:
        if not self.request_id:
            return "It is not known whether the command took effect, and it had no request id to retry it under."
        return f"It is not known whether the command took effect: retry it under request id {self.request_id}."


class CommandNotInTime(DeadlineExceeded):
    """The deadline passed before the command was decided."""

    message = "The command was not decided before its deadline; nothing was recorded."


class LogUnavailable(Unavailable):
    """The log cannot be read or written now."""

    message = "The log is not available now ({cause}); nothing was recorded."
    cause: str


class Overloaded(ResourceExhausted):
    """A limit is reached."""

    message = "The limit of {limit} {what} is reached."
    what: str
    limit: int


class InternalError(Internal):
    """A defect of ours, logged under the request id."""

    reason = "INTERNAL"
    message = "The server failed on this request; its log has the cause under request id '{request_id}'."
    request_id: str


InternalError.reason = "INTERNAL"


class TokenMalformed(InvalidArgument):
    """That is no token."""

    message = "'{token}' is not a token."
    token: str


class TokenOfAnotherLog(FailedPrecondition):
    """The token is of another log."""

    message = "The token is of log {token_log_id}, and this is log {log_id}."
    token_log_id: str
    log_id: str


class TokenOfOlderEpoch(FailedPrecondition):
    """The token stands for an event that was lost when a newer epoch began."""

    message = (
        "The token's position {token_position} of epoch {token_epoch} was lost: "
        "epoch {epoch} began at position {first_position}."
    )
    token_epoch: int
    token_position: int
    epoch: int
    first_position: int


class TokenAheadOfLog(FailedPrecondition):
    """The token lies beyond the head."""

    message = "The token's position {position} lies beyond the head of the log, {head_position}."
    position: int
    head_position: int


class TokenAheadOfStream(OutOfRange):
    """A subscription's start lies beyond the head."""

    message = "Position {position} lies beyond the head of the log, {head_position}."
    position: int
    head_position: int


TokenAheadOfStream.reason = TokenAheadOfLog.reason


class PageTokenInvalid(InvalidArgument):
    """The page token is of another query, or none at all."""

    message = "The page token does not belong to this query; start from its first page."


class ResumeTokenMalformed(InvalidArgument):
    """The resume token is of another watch, or none at all."""

    message = "The resume token does not belong to a watch of this view and these keys; watch without it."


class ResumeTokenExpired(OutOfRange):
    """What was deleted after the resume token's position is no longer known."""

    message = (
        "View {view} can no longer be resumed from position {position}, only from {oldest_position} on; "
        "watch without the resume token, from a snapshot."
    )
    view: str
    position: int
    oldest_position: int


class UnknownView(InvalidArgument):
    """No projection has a view of that name."""

    message = "No projection has a view '{view}'."
    view: str


class ReadModelBehind(DeadlineExceeded):
    """The read model was not fresh enough in time."""

    message = (
        "Projection {projection} has applied position {applied_position} and not {wanted_position} in time: "
        "it is {lag_events} events behind."
    )
    projection: str
    applied_position: int
    wanted_position: int
    lag_events: int


class ReadModelStalled(FailedPrecondition):
    """The projection has stopped before what was asked for."""

    message = (
        "Projection {projection} is stalled at position {applied_position}, before {wanted_position}: {stall_reason}"
    )
    projection: str
    applied_position: int
    wanted_position: int
    stall_reason: str


class ReadModelPaused(FailedPrecondition):
    """An operator paused the projection before what was asked for."""

    message = "Projection {projection} is paused at position {applied_position}, before {wanted_position}."
    projection: str
    applied_position: int
    wanted_position: int


class ReadModelRebuilding(FailedPrecondition):
    """A new generation is being filled, and what answers meanwhile stays where it is."""

    message = (
        "Projection {projection} is being rebuilt and answers at position {applied_position}, before {wanted_position}."
    )
    projection: str
    applied_position: int
    wanted_position: int


class RebuildNotRunning(FailedPrecondition):
    """No generation of the projection is being filled."""

    message = "Projection {projection} is not being rebuilt."
    projection: str


class RebuildCancelled(Aborted):
    """The rebuild was cancelled."""

    message = "The rebuild of projection {projection}, generation {generation}, was cancelled."
    projection: str
    generation: int


class RebuildFailed(FailedPrecondition):
    """The new generation cannot be filled."""

    message = "Generation {generation} of projection {projection} cannot be filled ({cause})."
    projection: str
    generation: int
    cause: str


class RebuildUnderWay(FailedPrecondition):
    """Another generation of the projection is being filled."""

    message = "Projection {projection} is being rebuilt as generation {generation}; wait for it, or cancel it."
    projection: str
    generation: int


class GenerationNotFound(NotFound):
    """No generation of that number is kept that this code can go on with."""

    message = "Projection {projection} has no generation {generation} that could be switched to."
    projection: str
    generation: int


class ProjectionPaused(FailedPrecondition):
    """The projection is paused, and must be resumed first."""

    message = "Projection {projection} is paused; resume it first."
    projection: str


class ProjectionLedElsewhere(FailedPrecondition):
    """Another projector on the same read store folds the projection."""

    message = "Projection {projection} is folded by another projector ({owner}); ask that one."
    projection: str
    owner: str


class ReadModelParked(FailedPrecondition):
    """The token's own event is left out of the projection."""

    message = "The event at position {position} is left out of projection {projection}: {error}"
    projection: str
    position: int
    error: str


class ParkedNotFound(NotFound):
    """No stream of that aggregate is parked."""

    message = "Nothing of {aggregate} is parked in projection {projection}."
    projection: str
    aggregate: str


class StillParked(FailedPrecondition):
    """What is parked failed again."""

    message = "{aggregate} stays parked in projection {projection}, as its event {position} failed again: {error}"
    projection: str
    aggregate: str
    position: int
    error: str


class ProjectionNotFound(NotFound):
    """The projector runs no projection of that name."""

    message = "There is no projection '{projection}'."
    projection: str


class ProcessNotFound(NotFound):
    """There is no process of that type, or no instance of it that is stuck or parked as the request says."""

    message = "There is no process {process} with an instance '{id}' that waits for an operator."
    process: str
    id: str


class ReadStoreUnavailable(Unavailable):
    """The projector cannot write the read store now."""

    message = "The read store cannot be written now ({cause}); projection {projection} goes on as before."
    projection: str
    cause: str


class ReadModelNotReady(Unavailable):
    """The read model does not exist yet."""

    message = "The read model of projection {projection} does not exist yet."
    projection: str


class QueryServerStopping(Unavailable):
    """A watch ends because its server does."""

    message = "This query server is stopping; the watch of projection {projection} can be resumed at another one."
    projection: str


QueryServerStopping.reason = ReadModelNotReady.reason


class VersionNotReached(DeadlineExceeded):
    """The aggregate did not reach the version in time."""

    message = "{aggregate} did not reach version {version} in time."
    aggregate: str
    version: int


class RowNotFound(NotFound):
    """A view has no row under that key, and its query names no refusal of its own."""

    message = "View {view} has no row {key}."
    view: str
    key: str
