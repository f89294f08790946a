"""Log identities survive both codecs."""

from __future__ import annotations

import pytest

from diptych.contract.identity_codec import (
    identity_from_columns,
    identity_from_message,
    identity_to_columns,
    identity_to_message,
)
from diptych.contract.token import Epoch, LogIdentity
from diptych.internal.v1 import log_pb2

IDENTITIES = pytest.mark.parametrize(
    "identity", [LogIdentity.new(), LogIdentity(bytes(range(8)), [Epoch(1, 1), Epoch(2, 100), Epoch(5, 50)])]
)


@IDENTITIES
def test_identity_survives_as_a_message(identity: LogIdentity) -> None:
    data = identity_to_message(identity).SerializeToString()
    assert identity_from_message(log_pb2.LogIdentity.FromString(data)) == identity


@IDENTITIES
def test_identity_survives_as_columns(identity: LogIdentity) -> None:
    assert identity_from_columns(*identity_to_columns(identity)) == identity


def test_unknown_identity_is_none() -> None:
    assert identity_from_message(log_pb2.LogIdentity()) is None
    assert identity_from_columns(*identity_to_columns(None)) is None


def test_columns_of_an_identity_are_stable() -> None:
    identity = LogIdentity(bytes(range(8)), [Epoch(1, 1), Epoch(2, 5)])
    assert identity_to_columns(identity) == ("0001020304050607", "[[1, 1], [2, 5]]")
