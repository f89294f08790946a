"""Dispatch: from the bytes of a command to a submission, and from its outcome to the bytes of an answer.

Checks come in this order: parse, identity, access, message rules. The writer goes on with request id, expected
version, decision, unique values and append.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from google.protobuf.message import Message

from command_server.submission import Accepted, Submission, engine_request_key
from diptych.contract.reasons import CommandUnknown, InvalidRequest
from diptych.contract.token import LogIdentity
from diptych.contract.validation import check, decode
from diptych.contract.wire import delimited, integer
from diptych.domain.aggregate import AggregateIdError, AggregateRef, DeciderBinding
from diptych.domain.ids import new_id
from diptych.domain.loading import LoadedDomain
from diptych.domain.methods import CommandMethod
from diptych.server.request_context import RequestContext
from diptych.v1.commands_pb2 import CommandContext
from diptych.v1.events_pb2 import EventMetadata

_REQUEST_ID = re.compile(r"[!-~]{1,128}\Z")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")


class Caller(NamedTuple):
    """A command's caller, with request id and trace from its metadata."""

    actor: str = ""
    request_id: str = ""
    traceparent: str = ""

    @classmethod
    def of(cls, context: RequestContext) -> Caller:
        """Return the caller of a request. An invalid trace context (W3C Trace Context, section 3.2) is dropped.

        Raises:
            InvalidRequest: The metadata has two different request ids.
        """
        trace = context.traceparent
        return cls(context.actor, context.only_request_id(), trace if _TRACEPARENT.match(trace) else "")


class Dispatcher:
    """Makes submissions of the commands of one domain."""

    def __init__(self, domain: LoadedDomain) -> None:
        self._methods = domain.commands
        self._deciders = domain.deciders

    def parse(self, method: CommandMethod, data: bytes) -> Message:
        """Parse a command.

        Raises:
            MalformedMessage: the bytes are no message of its type.
        """
        kind: type[Message] = method.binding.command
        return decode(kind, data)

    def parse_packed(self, type_url: str, data: bytes) -> tuple[CommandMethod, Message]:
        """Parse a command from an `Any`.

        Raises:
            CommandUnknown: the domain has no such command.
            MalformedMessage: the bytes are no message of its type.
        """
        name = type_url.rpartition("/")[2]
        method = self._methods.get(name)
        if method is None:
            raise CommandUnknown(type=name)
        return method, self.parse(method, data)

    def submission(
        self, method: CommandMethod, command: Message, caller: Caller, context: CommandContext | None = None
    ) -> Submission:
        """Check a client's command by the contract's rules, and return its submission.

        Args:
            method: the command's rpc.
            command: the command; its context and a missing id are taken from it or set.
            caller: the caller; the request id of the command's context comes before the caller's.
            context: replaces the command's own context; None: the own one.

        Raises:
            InvalidRequest: the command breaks a rule.
        """
        if context is not None:
            command.context.CopyFrom(context)  # type: ignore[attr-defined]
        check(command)
        own = CommandContext()
        if command.HasField("context"):
            own.CopyFrom(command.context)  # type: ignore[attr-defined]
            command.ClearField("context")
        request_id = own.request_id or caller.request_id
        if not own.request_id and request_id and not _REQUEST_ID.match(request_id):
            raise InvalidRequest.of(
                ("context.request_id", "must be 1 to 128 visible ASCII characters, in metadata too")
            )
        return self._submission(method.binding, command, own, request_id, caller)

    def process_submission(
        self, type_url: str, data: bytes, caller: Caller, *, correlation_id: str, causation_id: str
    ) -> Submission:
        """Check a process's command, and return its submission.

        Args:
            type_url: the command's type, as in an `Any`.
            data: the command's bytes.
            caller: the process, with the command's request id.
            correlation_id: correlation id of the command's events.
            causation_id: event id of the step that sends it.

        Raises:
            CommandUnknown: the domain has no such command.
            InvalidRequest: the command breaks a rule.
            DecodeError: the bytes are no message of its type.
        """
        name = type_url.rpartition("/")[2]
        binding = self._deciders.get(name)
        if binding is None:
            raise CommandUnknown(type=name)
        command = binding.command.FromString(data)
        check(command)
        context = CommandContext()
        if "context" in command.DESCRIPTOR.fields_by_name:
            context.CopyFrom(command.context)
            command.ClearField("context")
        context.correlation_id = correlation_id
        context.causation_id = causation_id
        submission = self._submission(binding, command, context, caller.request_id, caller)
        submission.request_key = engine_request_key(caller.actor, caller.request_id)
        return submission

    @staticmethod
    def _submission(
        binding: DeciderBinding, command: Message, context: CommandContext, request_id: str, caller: Caller
    ) -> Submission:
        digest = b""
        if request_id:
            name = command.DESCRIPTOR.full_name.encode()
            data = command.SerializeToString(deterministic=True)
            digest = hashlib.blake2b(name + b"\0" + data, digest_size=16).digest()
        field = binding.id_field
        if field is not None and not getattr(command, field):
            setattr(command, field, new_id())
        try:
            ref = AggregateRef(binding.aggregate.type, binding.id_of(command))
            reads = tuple(dict.fromkeys(binding.reads(command))) if binding.reads is not None else ()
        except AggregateIdError as error:
            raise InvalidRequest.of((field or "", str(error))) from error
        return Submission(
            binding=binding,
            command=command,
            ref=ref,
            reads=reads,
            actor=caller.actor,
            request_id=request_id,
            digest=digest,
            expected_version=context.expected_version if context.HasField("expected_version") else None,
            metadata=_metadata(context, request_id, caller),
        )


def _metadata(context: CommandContext, request_id: str, caller: Caller) -> bytes:
    """Return the field `metadata` of the command's events, tag and length included; empty without metadata."""
    metadata = EventMetadata(
        request_id=request_id,
        correlation_id=context.correlation_id or request_id,
        causation_id=context.causation_id,
        actor=caller.actor,
        traceparent=caller.traceparent,
    )
    if context.HasField("issue_time"):
        metadata.issue_time.CopyFrom(context.issue_time)
    data = metadata.SerializeToString()
    return delimited(7, data) if data else b""


def result_bytes(accepted: Accepted, identity: LogIdentity) -> tuple[bytes, str]:
    """Return the bytes of an outcome's `CommandResult`, and its token."""
    token = identity.token(accepted.position)
    ref = delimited(1, accepted.aggregate.type.encode()) + delimited(2, accepted.aggregate.id.encode())
    data = b"".join(
        (
            delimited(1, ref),
            integer(2, accepted.version),
            delimited(3, token.encode()),
            integer(4, accepted.duplicate),
        )
    )
    return data, token
