"""The engine's own refusals: one class for each value of `diptych.v1.ErrorReason`, for two of them a second class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from google.protobuf.message import Message
from google.rpc import error_details_pb2

from diptych.domain.refusal import (
    Aborted,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    OutOfRange,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)


class MalformedMessage(InvalidArgument, reason="MALFORMED_MESSAGE"):
    """The bytes are not a message of the request's type."""

    message = "The request is not a valid {type} message."
    type: str


VIOLATIONS_MAX = 100
"""Violations that one refusal lists. It counts all of them."""


class InvalidRequest(InvalidArgument, reason="INVALID_REQUEST"):
    """Fields of the request break rules of the contract; made by `of`."""

    message = "The request breaks {violations} rule(s): {summary}"
    violations: int
    summary: str
    rules: ClassVar[Sequence[tuple[str, str]]] = ()
    """Field path and sentence of the first 100 broken rules."""

    @classmethod
    def of(cls, *rules: tuple[str, str]) -> InvalidRequest:
        """Return the refusal for broken rules, given as pairs of field path and sentence."""
        summary = "; ".join(f"{path}: {sentence}" if path else sentence for path, sentence in rules[:10])
        if len(rules) > 10:
            summary += f"; and {len(rules) - 10} more"
        end = "" if summary.endswith((".", "?")) else "."
        return cls(violations=len(rules), summary=summary + end)._copy(rules=rules[:VIOLATIONS_MAX])

    @property
    def metadata(self) -> dict[str, str]:
        return {"violations": str(self.violations), **self._details}

    def details(self) -> Iterable[Message]:
        yield error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(field=path, description=sentence)
                for path, sentence in self.rules
            ]
        )
        yield from super().details()


class MethodUnknown(Unimplemented, reason="METHOD_UNKNOWN"):
    """The server has no such method."""

    message = "Method {method} is not served here."
    method: str


class ServiceUnknown(NotFound, reason="SERVICE_UNKNOWN"):
    """The health service has no service of that name."""

    message = "No service '{service}' is served here."
    service: str


class CommandUnknown(InvalidArgument, reason="COMMAND_UNKNOWN"):
    """The type is not a command of the domain."""

    message = "Type '{type}' is not a command of this domain."
    type: str


class VersionConflict(Aborted, reason="VERSION_CONFLICT"):
    """The aggregate's version is not the version that the command expects."""

    message = "{aggregate} is at version {actual_version}, not at {expected_version}."
    aggregate: str
    expected_version: int
    actual_version: int


class RequestIdReused(FailedPrecondition, reason="REQUEST_ID_REUSED"):
    """The request id named another command before."""

    message = "Request id {request_id} was used for another command before."
    request_id: str


class OutcomeUnknown(Unavailable, reason="OUTCOME_UNKNOWN"):
    """The commit failed in a way that leaves its outcome unknown."""

    message = "The outcome of the command is unknown; retry it under request id {request_id!r}."
    request_id: str

    def __str__(self) -> str:
        if not self.request_id:
            return "The outcome of the command is unknown, and the command has no request id to retry it under."
        return f"The outcome of the command is unknown; retry it under request id {self.request_id}."


class CommandNotInTime(DeadlineExceeded, reason="COMMAND_NOT_IN_TIME"):
    """The deadline passed while the command waited for its decision."""

    message = "The command was not decided before its deadline; nothing was recorded."


class LogUnavailable(Unavailable, reason="LOG_UNAVAILABLE"):
    """The log cannot be read or written now; nothing was recorded."""

    message = "The log is not available now ({cause}); nothing was recorded."
    cause: str


class Overloaded(ResourceExhausted, reason="OVERLOADED"):
    """A queue or a limit of the server is full."""

    message = "The limit of {limit} {what} is reached."
    what: str
    limit: int


class InternalError(Internal, reason="INTERNAL"):
    """The server has a defect and has logged it under the request id."""

    message = "The server failed on this request; its log has the cause under request id '{request_id}'."
    request_id: str


class TokenMalformed(InvalidArgument, reason="TOKEN_MALFORMED"):
    """The text is not a token."""

    message = "'{token}' is not a token."
    token: str


class TokenOfAnotherLog(FailedPrecondition, reason="TOKEN_OF_ANOTHER_LOG"):
    """The token belongs to another log."""

    message = "The token is of log {token_log_id}, and this is log {log_id}."
    token_log_id: str
    log_id: str


class TokenOfOlderEpoch(FailedPrecondition, reason="TOKEN_OF_OLDER_EPOCH"):
    """The token names an event that was lost when a newer epoch began."""

    message = (
        "The token's position {token_position} of epoch {token_epoch} was lost: "
        "epoch {epoch} began at position {first_position}."
    )
    token_epoch: int
    token_position: int
    epoch: int
    first_position: int


class TokenAheadOfLog(FailedPrecondition, reason="TOKEN_AHEAD_OF_LOG"):
    """The token's position is beyond the head of the log."""

    message = "The token's position {position} lies beyond the head of the log, {head_position}."
    position: int
    head_position: int


class TokenAheadOfStream(OutOfRange, reason="TOKEN_AHEAD_OF_LOG"):
    """The start of a subscription is beyond the head of the log."""

    message = "Position {position} lies beyond the head of the log, {head_position}."
    position: int
    head_position: int


class PageTokenInvalid(InvalidArgument, reason="PAGE_TOKEN_INVALID"):
    """The page token belongs to another query, or is not a page token."""

    message = "The page token does not belong to this query; start from its first page."


class ResumeTokenMalformed(InvalidArgument, reason="RESUME_TOKEN_MALFORMED"):
    """The resume token belongs to a watch of another view or of other keys, or is not a resume token."""

    message = "The resume token does not belong to a watch of this view and these keys; watch without it."


class ResumeTokenExpired(OutOfRange, reason="RESUME_TOKEN_EXPIRED"):
    """The read store no longer has a record of all rows deleted after the resume token's position."""

    message = (
        "View {view} can no longer be resumed from position {position}, only from {oldest_position} on; "
        "watch without the resume token, from a snapshot."
    )
    view: str
    position: int
    oldest_position: int


class UnknownView(InvalidArgument, reason="UNKNOWN_VIEW"):
    """No projection has a view of that name."""

    message = "No projection has a view '{view}'."
    view: str


class ReadModelBehind(DeadlineExceeded, reason="READ_MODEL_BEHIND"):
    """The read model did not reach the required position before the deadline."""

    message = (
        "Projection {projection} has applied position {applied_position} and not {wanted_position} in time: "
        "it is {lag_events} events behind."
    )
    projection: str
    applied_position: int
    wanted_position: int
    lag_events: int


class ReadModelStalled(FailedPrecondition, reason="READ_MODEL_STALLED"):
    """The projection stalled before the required position."""

    message = (
        "Projection {projection} is stalled at position {applied_position}, before {wanted_position}: {stall_reason}"
    )
    projection: str
    applied_position: int
    wanted_position: int
    stall_reason: str


class ReadModelPaused(FailedPrecondition, reason="READ_MODEL_PAUSED"):
    """An operator paused the projection before the required position."""

    message = "Projection {projection} is paused at position {applied_position}, before {wanted_position}."
    projection: str
    applied_position: int
    wanted_position: int


class ReadModelRebuilding(FailedPrecondition, reason="READ_MODEL_REBUILDING"):
    """A new generation is being filled, and the active one does not advance until the switch."""

    message = (
        "Projection {projection} is being rebuilt and answers at position {applied_position}, before {wanted_position}."
    )
    projection: str
    applied_position: int
    wanted_position: int


class RebuildNotRunning(FailedPrecondition, reason="REBUILD_NOT_RUNNING"):
    """No generation of the projection is being filled."""

    message = "Projection {projection} is not being rebuilt."
    projection: str


class RebuildCancelled(Aborted, reason="REBUILD_CANCELLED"):
    """An operator cancelled the rebuild."""

    message = "The rebuild of projection {projection}, generation {generation}, was cancelled."
    projection: str
    generation: int


class RebuildFailed(FailedPrecondition, reason="REBUILD_FAILED"):
    """The new generation cannot be filled."""

    message = "Generation {generation} of projection {projection} cannot be filled ({cause})."
    projection: str
    generation: int
    cause: str


class RebuildUnderWay(FailedPrecondition, reason="REBUILD_UNDER_WAY"):
    """Another generation of the projection is being filled."""

    message = "Projection {projection} is being rebuilt as generation {generation}; wait for it, or cancel it."
    projection: str
    generation: int


class GenerationNotFound(NotFound, reason="GENERATION_NOT_FOUND"):
    """The read store has no generation of that number that this version of the code can continue."""

    message = "Projection {projection} has no generation {generation} that could be switched to."
    projection: str
    generation: int


class ProjectionPaused(FailedPrecondition, reason="PROJECTION_PAUSED"):
    """The projection is paused; resume it first."""

    message = "Projection {projection} is paused; resume it first."
    projection: str


class ProjectionLedElsewhere(FailedPrecondition, reason="PROJECTION_LED_ELSEWHERE"):
    """Another projector on the same read store holds the lease of the projection."""

    message = "Projection {projection} is folded by another projector ({owner}); send the call to that projector."
    projection: str
    owner: str


class ReadModelParked(FailedPrecondition, reason="READ_MODEL_PARKED"):
    """The projection could not fold the token's own event and leaves it out."""

    message = "The event at position {position} is left out of projection {projection}: {error}"
    projection: str
    position: int
    error: str


class ParkedNotFound(NotFound, reason="PARKED_NOT_FOUND"):
    """The projection has no parked stream of that aggregate."""

    message = "Nothing of {aggregate} is parked in projection {projection}."
    projection: str
    aggregate: str


class StillParked(FailedPrecondition, reason="STILL_PARKED"):
    """Folding the parked events failed again."""

    message = "{aggregate} stays parked in projection {projection}, as its event {position} failed again: {error}"
    projection: str
    aggregate: str
    position: int
    error: str


class ProjectionNotFound(NotFound, reason="PROJECTION_NOT_FOUND"):
    """The projector has no projection of that name."""

    message = "There is no projection '{projection}'."
    projection: str


class ProcessNotFound(NotFound, reason="PROCESS_NOT_FOUND"):
    """There is no process of that type, or the instance is neither STUCK nor PARKED."""

    message = "There is no process {process} with an instance '{id}' that waits for an operator."
    process: str
    id: str


class ReadStoreUnavailable(Unavailable, reason="READ_STORE_UNAVAILABLE"):
    """The projector cannot write the read store now."""

    message = "The read store cannot be written now ({cause}); projection {projection} goes on as before."
    projection: str
    cause: str


class ReadModelNotReady(Unavailable, reason="READ_MODEL_NOT_READY"):
    """The read model does not exist yet."""

    message = "The read model of projection {projection} does not exist yet."
    projection: str


class QueryServerStopping(Unavailable, reason="READ_MODEL_NOT_READY"):
    """The watch ends because the query server stops. Another server can resume it."""

    message = "This query server is stopping; the watch of projection {projection} can be resumed at another one."
    projection: str


class VersionNotReached(DeadlineExceeded, reason="VERSION_NOT_REACHED"):
    """The aggregate did not reach the version before the deadline."""

    message = "{aggregate} did not reach version {version} in time."
    aggregate: str
    version: int


class RowTooLarge(ResourceExhausted, reason="ROW_TOO_LARGE"):
    """A row is larger than a message of the server may be."""

    message = "Row {key} of view {view} is larger than a message of {limit} bytes. Make the rows of the view smaller."
    view: str
    key: str
    limit: int


class RowNotFound(NotFound, reason="ROW_NOT_FOUND"):
    """The view has no row with that key, and the query declares no refusal of its own."""

    message = "View {view} has no row {key}."
    view: str
    key: str
