"""Event ids."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from command_server.event_ids import EventIds


def test_event_ids_are_unique_uuids_of_their_millisecond() -> None:
    now = datetime(2031, 5, 4, 3, 2, 1, 250_000, tzinfo=UTC)
    ids = EventIds(now)
    texts = [ids.next() for _ in range(5000)]
    assert len(set(texts)) == len(texts)
    for text in texts:
        value = uuid.UUID(text)
        assert str(value) == text
        assert (value.version, value.variant) == (7, uuid.RFC_4122)
        assert value.int >> 80 == int(now.timestamp() * 1000)
    assert {text[19] for text in texts} == set("89ab")
