"""Log identities as messages and as columns of a read store."""

from __future__ import annotations

import json

from diptych.contract.token import Epoch, LogIdentity
from diptych.internal.v1 import log_pb2


def identity_to_message(identity: LogIdentity) -> log_pb2.LogIdentity:
    """Return the message for an identity."""
    epochs = [log_pb2.Epoch(epoch=epoch, first_position=first) for epoch, first in identity.epochs]
    return log_pb2.LogIdentity(log_id=identity.log_id, epochs=epochs)


def identity_from_message(message: log_pb2.LogIdentity) -> LogIdentity | None:
    """Return the identity in a message; None if its sender does not know it yet."""
    if not message.epochs:
        return None
    return LogIdentity(message.log_id, [Epoch(one.epoch, one.first_position) for one in message.epochs])


def identity_to_columns(identity: LogIdentity | None) -> tuple[str, str]:
    """Return the columns `log_id` and `epochs` for an identity; empty ones for None."""
    if identity is None:
        return "", ""
    return identity.log_id.hex(), json.dumps([list(epoch) for epoch in identity.epochs])


def identity_from_columns(log_id: str, epochs: str) -> LogIdentity | None:
    """Return the identity in the columns `log_id` and `epochs`; None if they are empty."""
    if not log_id:
        return None
    return LogIdentity(bytes.fromhex(log_id), [Epoch(*pair) for pair in json.loads(epochs)])
