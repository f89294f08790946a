"""Validation: a request's bytes become a message that keeps the contract's rules, or a refusal with all violations."""

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
    """Parses a request and checks it against the contract's rules; raises `MalformedMessage`, `InvalidRequest`."""
    try:
        message = kind.FromString(data)
    except DecodeError:
        raise MalformedMessage(type=kind.DESCRIPTOR.full_name) from None
    check(message)
    return message


def check(message: Message) -> None:
    """Check a message against the contract's rules. A refused message loses its excess elements.

    Raises:
        InvalidRequest: The message breaks rules; it counts all violations and lists the first 100.
    """
    rules = excess_elements(message)
    rules += malformed_times(message)
    told = {path for path, _ in rules}
    try:
        violations = _validator.collect_violations(message)
    except EvaluationError as error:
        if not rules:
            raise InvalidRequest.of(("", f"cannot be judged by the rules: {error}")) from error
    else:
        for violation in violations:
            path = _path(violation)
            if path not in told:
                rules.append((path, violation.proto.message))
    if rules:
        raise InvalidRequest.of(*rules)


def _path(violation: Violation) -> str:
    """The full path of the field that a violation speaks of, such as `items[0].quantity`."""
    path = ""
    field = violation.proto.field
    for element in field.elements if field is not None else ():
        path += f".{element.field_name}" if path else element.field_name
        subscript = element.subscript
        if subscript is not None:
            path += f"[{json.dumps(subscript.value, ensure_ascii=False)}]"
    return path
