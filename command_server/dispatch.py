"""Dispatch: from the bytes of a command to a submission, and from its outcome to the bytes of an answer.

The order of checks: parse, identity, access, message rules; the writer goes on with request id, expected version,
decision, unique values and append.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from google.protobuf.message import DecodeError, Message

from command_server.submission import Accepted, Submission, engine_request_key
from diptych.contract.reasons import CommandUnknown, InvalidRequest, MalformedMessage
from diptych.contract.token import LogIdentity
from diptych.contract.validation import check
from diptych.contract.wire import delimited, integer
from diptych.domain.aggregate import AggregateRef, DeciderBinding
from diptych.domain.ids import new_id
from diptych.domain.loading import LoadedDomain
from diptych.domain.methods import CommandMethod
from diptych.v1.commands_pb2 import CommandContext
from diptych.v1.events_pb2 import EventMetadata

_REQUEST_ID = re.compile(r"[!-~]{1,128}\Z")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")


class Caller(NamedTuple):
    """Who calls, and what the request's metadata says."""

    actor: str = ""
    request_id: str = ""
    traceparent: str = ""


class Dispatcher:
    """Makes submissions of requests."""

    def __init__(self, domain: LoadedDomain) -> None:
        self._methods = domain.commands
        self._deciders = domain.deciders

    def parse(self, method: CommandMethod, data: bytes) -> Message:
        """Parses a command; raises `MalformedMessage`."""
        kind: type[Message] = method.binding.command
        try:
            return kind.FromString(data)
        except DecodeError:
            raise MalformedMessage(type=kind.DESCRIPTOR.full_name) from None

    def packed(self, type_url: str, data: bytes) -> tuple[CommandMethod, Message]:
        """Parses a command out of an `Any`; raises `CommandUnknown`, `MalformedMessage`."""
        name = type_url.rpartition("/")[2]
        method = self._methods.get(name)
        if method is None:
            raise CommandUnknown(type=name)
        return method, self.parse(method, data)

    def submission(
        self, method: CommandMethod, command: Message, caller: Caller, context: CommandContext | None = None
    ) -> Submission:
        """Checks a command by the contract's rules and makes it ready for the writer; raises `InvalidRequest`.

        `context` replaces the command's own.
        """
        if context is not None:
            command.context.CopyFrom(context)  # type: ignore[attr-defined]
        check(command)
        said = CommandContext()
        if command.HasField("context"):
            said.CopyFrom(command.context)  # type: ignore[attr-defined]
            command.ClearField("context")
        request_id = said.request_id or caller.request_id
        if not said.request_id and request_id and not _REQUEST_ID.match(request_id):
            raise InvalidRequest.of(
                ("context.request_id", "must be 1 to 128 visible ASCII characters, in metadata too")
            )
        return self._ready(method.binding, command, said, request_id, caller)

    def sent(self, type_url: str, data: bytes, caller: Caller, *, correlation_id: str, causation_id: str) -> Submission:
        """Makes a command that a process sends ready for the writer; raises `CommandUnknown`, `InvalidRequest`.

        `caller` is the process, and has the command's request id.
        """
        name = type_url.rpartition("/")[2]
        binding = self._deciders.get(name)
        if binding is None:
            raise CommandUnknown(type=name)
        command = binding.command.FromString(data)
        check(command)
        said = CommandContext()
        if "context" in command.DESCRIPTOR.fields_by_name:
            said.CopyFrom(command.context)
            command.ClearField("context")
        said.correlation_id = correlation_id
        said.causation_id = causation_id
        submission = self._ready(binding, command, said, caller.request_id, caller)
        submission.request_key = engine_request_key(caller.actor, caller.request_id)
        return submission

    @staticmethod
    def _ready(
        binding: DeciderBinding, command: Message, said: CommandContext, request_id: str, caller: Caller
    ) -> Submission:
        digest = b""
        if request_id:
            name = command.DESCRIPTOR.full_name.encode()
            sent = command.SerializeToString(deterministic=True)
            digest = hashlib.blake2b(name + b"\0" + sent, digest_size=16).digest()
        field = binding.id_field
        if field is not None and not getattr(command, field):
            setattr(command, field, new_id())
        ref = AggregateRef(binding.aggregate.type, binding.id_of(command))
        reads = tuple(dict.fromkeys(binding.reads(command))) if binding.reads is not None else ()
        # SQLite reads a list of names only up to it.
        if "\0" in ref.id or any("\0" in one.id for one in reads):
            raise InvalidRequest.of((field or "", "an aggregate's id must not contain the character NUL"))
        return Submission(
            binding=binding,
            command=command,
            ref=ref,
            reads=reads,
            actor=caller.actor,
            request_id=request_id,
            digest=digest,
            expected_version=said.expected_version if said.HasField("expected_version") else None,
            metadata=_metadata(said, request_id, caller),
        )


def _metadata(said: CommandContext, request_id: str, caller: Caller) -> bytes:
    """The field `metadata` of the events that the command records."""
    metadata = EventMetadata(
        request_id=request_id,
        correlation_id=said.correlation_id or request_id,
        causation_id=said.causation_id,
        actor=caller.actor,
        traceparent=caller.traceparent,
    )
    if said.HasField("issue_time"):
        metadata.issue_time.CopyFrom(said.issue_time)
    data = metadata.SerializeToString()
    return delimited(7, data) if data else b""


def traceparent(value: str) -> str:
    """The trace context of a request, if it is a valid one (W3C Trace Context, section 3.2)."""
    return value if _TRACEPARENT.match(value) else ""


def result_bytes(accepted: Accepted, identity: LogIdentity) -> tuple[bytes, str]:
    """A `CommandResult`'s bytes, and its token."""
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
