"""The start of the command server: the errors that end it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from command_server.server import bootstrap
from command_server.store.records import Decided, NewEvent, Reads
from command_server.store.sqlite_store import SqliteEventStore
from diptych.server.errors import StartError
from diptych.server.settings import CommandServerSettings
from diptych.v1.events_pb2 import RecordedEvent


class Health:
    """Health of a server that no one asks."""

    address = "127.0.0.1:1"


async def test_bug_event_type_that_is_not_in_the_domain_led_to_wrong_rows(tmp_path: Path) -> None:
    store = SqliteEventStore(tmp_path / "log.db")
    await store.open()
    frame = RecordedEvent(version=1, event_id="e1").SerializeToString()
    events = [NewEvent("copy/c1", 1, "library.v1.CopyRenamed", frame)]
    await store.commit(Reads({"copy/c1": -1}, {"copy": b"shape-01"}, ()), lambda loaded: Decided(events=events))
    await store.close()
    settings = CommandServerSettings.model_validate({"domain": "library", "log": f"sqlite:///{tmp_path / 'log.db'}"})
    for _ in range(2):
        with pytest.raises(
            StartError,
            match=r"of types that the domain library does not have: library\.v1\.CopyRenamed \(first at position 1\)\. "
            r"Restore each message and its evolver, or declare an upcaster",
        ):
            await bootstrap(settings, cast("Any", Health()), cast("Any", None))
