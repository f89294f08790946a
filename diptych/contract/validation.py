"""Validation: the one place where bytes become a message of the contract, or a refusal with all violations."""

from __future__ import annotations

import json
from typing import TypeVar

from google.protobuf.message import DecodeError, Message
from protovalidate import EvaluationError, Validator, Violation

from diptych.contract.element_limits import excess_elements
from diptych.contract.reasons import InvalidRequest, MalformedMessage
from diptych.contract.timestamps import malformed_times

M = TypeVar("M", bound=Message)

_validator = Validator()


def parse(kind: type[M], data: bytes) -> M:
    """Return the message in the bytes, checked against the contract's rules.

    Args:
        kind: Type of the message.
        data: Its bytes.

    Raises:
        MalformedMessage: The bytes are no message of this type.
        InvalidRequest: The message breaks rules.
    """
    message = decode(kind, data)
    check(message)
    return message


def decode(kind: type[M], data: bytes) -> M:
    """Return the message in the bytes, not checked against the contract's rules.

    Raises:
        MalformedMessage: The bytes are no message of this type.
    """
    try:
        return kind.FromString(data)
    except DecodeError:
        raise MalformedMessage(type=kind.DESCRIPTOR.full_name) from None


def check(message: Message) -> None:
    """Check a message against the contract's rules. A refused message loses its excess elements.

    Raises:
        InvalidRequest: The message breaks rules; it counts all violations and lists the first 100.
    """
    rules = excess_elements(message)
    rules += malformed_times(message)
    reported = {path for path, _ in rules}
    try:
        violations = _validator.collect_violations(message)
    except EvaluationError as error:
        if not rules:
            raise InvalidRequest.of(("", f"cannot be judged by the rules: {error}")) from error
    else:
        for violation in violations:
            path = _path(violation)
            if path not in reported:
                rules.append((path, violation.proto.message))
    if rules:
        raise InvalidRequest.of(*rules)


def _path(violation: Violation) -> str:
    """Return the full path of the field with the violation, such as `items[0].quantity`."""
    path = ""
    field = violation.proto.field
    for element in field.elements if field is not None else ():
        path += f".{element.field_name}" if path else element.field_name
        subscript = element.subscript
        if subscript is not None:
            path += f"[{json.dumps(subscript.value, ensure_ascii=False)}]"
    return path
