"""Bugs planted in the store, the batch and the stream: the stateful models find each of them.

Only this makes a model without findings meaningful. Bugs in real servers are planted in
`tests/integration/test_planted_bugs.py`, those of the cache in its unit test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from command_server import submission
from command_server.batch import Batch
from command_server.state_cache import StateCache
from command_server.store import sqlite_reads
from command_server.store.records import Page
from command_server.store.sqlite_commit import BatchLoader, BatchRecorder
from command_server.store.sqlite_store import SqliteEventStore
from diptych.domain.refusal import Refusal
from tests.faults.test_event_store_model import StoreModel
from tests.faults.test_request_ids_model import RequestIds

Original = Callable[..., Any]
PLANTS: dict[str, tuple[type[RuleBasedStateMachine], Any, str, Callable[[Original], Original]]] = {}


def plant(machine: type[RuleBasedStateMachine], owner: Any, name: str) -> Callable[[Any], Any]:
    """Register a replacement of a function, and the model that must find it."""

    def register(around: Callable[[Original], Original]) -> Callable[[Original], Original]:
        PLANTS[around.__name__] = (machine, owner, name, around)
        return around

    return register


@plant(StoreModel, BatchRecorder, "record")
def requests_are_not_recorded(original: Original) -> Original:
    return lambda self, decided: original(self, decided._replace(requests={}))


@plant(StoreModel, BatchRecorder, "record")
def the_last_event_is_not_recorded(original: Original) -> Original:
    return lambda self, decided: original(self, decided._replace(events=list(decided.events)[:-1]))


@plant(StoreModel, BatchRecorder, "record")
def snapshots_are_a_version_too_high(original: Original) -> Original:
    def record(self: Any, decided: Any) -> Any:
        kept = {name: one._replace(version=one.version + 1) for name, one in decided.snapshots.items()}
        return original(self, decided._replace(snapshots=kept))

    return record


@plant(StoreModel, BatchRecorder, "_claim")
def unique_values_are_never_released(original: Original) -> Original:
    return lambda self, claims: original(self, {k: v for k, v in claims.items() if v})


@plant(StoreModel, BatchLoader, "_history")
def snapshots_of_any_shape_are_taken(original: Original) -> Original:
    class AnyShape(dict[str, bytes]):
        def get(self, key: str, default: Any = None) -> Any:
            return next(iter(self.rows), default)

        rows: list[bytes]

    def history(self: Any, name: str) -> Any:
        shapes = AnyShape()
        rows = self._connection.execute("SELECT shape FROM snapshots WHERE stream = ?", (name,))
        shapes.rows = [row[0] for row in rows]
        self._reads = self._reads._replace(shapes=shapes)
        return original(self, name)

    return history


@plant(StoreModel, BatchLoader, "_history")
def histories_miss_their_last_event(original: Original) -> Original:
    def history(self: Any, *arguments: Any) -> Any:
        found = original(self, *arguments)
        return found._replace(frames=found.frames[:-1])

    return history


@plant(StoreModel, SqliteEventStore, "_commit")
def a_failed_decision_is_committed(original: Original) -> Original:
    def commit(self: Any, reads: Any, decide: Any) -> Any:
        def decided(loaded: Any) -> Any:
            try:
                return decide(loaded)
            except Exception:
                self._database._writer.execute("UPDATE log SET head = head + 1")
                self._database._writer.execute("COMMIT")
                raise

        return original(self, reads, decided)

    return commit


@plant(StoreModel, sqlite_reads, "read_log")
def pages_skip_an_event_where_they_meet(original: Original) -> Original:
    def read(connection: Any, after: int, types: Any, events_max: int, bytes_max: int) -> Page:
        page: Page = original(connection, after, types, events_max, bytes_max)
        return page._replace(position=page.position + 1) if len(page.frames) == events_max else page

    return read


@plant(StoreModel, sqlite_reads, "read_log")
def filtered_pages_stand_still(original: Original) -> Original:
    def read(connection: Any, after: int, types: Any, *limits: int) -> Page:
        page: Page = original(connection, after, types, *limits)
        return Page((), after, b"") if types and not page.frames else page

    return read


@plant(StoreModel, sqlite_reads, "read_stream")
def streams_are_read_from_the_next_version(original: Original) -> Original:
    return lambda connection, stream, version, *limits: original(connection, stream, version + 1, *limits)


@plant(RequestIds, Batch, "_repeat")
def a_request_id_is_good_for_any_command(original: Original) -> Original:
    return lambda self, one, recorded: original(self, one, recorded._replace(digest=one.digest))


@plant(RequestIds, Batch, "_repeat")
def a_repeat_gets_the_version_of_now(original: Original) -> Original:
    def repeat(self: Any, one: Any, recorded: Any) -> None:
        stream = self._loaded_streams.get(one.stream) if self._loaded_streams else None
        original(self, one, recorded if stream is None else recorded._replace(version=stream.version))

    return repeat


@plant(RequestIds, Batch, "_decide_one")
def refusals_are_remembered(original: Original) -> Original:
    refused: dict[str, Refusal] = {}

    def decide(self: Any, one: Any, loaded: Any) -> None:
        if one.request_key in refused:
            raise refused[one.request_key]
        try:
            original(self, one, loaded)
        except Refusal as refusal:
            if one.request_key:
                refused[one.request_key] = refusal
            raise

    return decide


@plant(RequestIds, Batch, "_decide_one")
def copies_in_one_batch_are_not_seen(original: Original) -> Original:
    def decide(self: Any, one: Any, loaded: Any) -> None:
        self._requests.pop(one.request_key, None)
        original(self, one, loaded)

    return decide


@plant(RequestIds, Batch, "_decide_one")
def expected_versions_come_before_request_ids(original: Original) -> Original:
    def decide(self: Any, one: Any, loaded: Any) -> None:
        known = loaded.streams.get(one.stream)
        if one.expected_version is not None and known is not None and known.version != one.expected_version:
            one.request_key = ""
        original(self, one, loaded)

    return decide


@plant(RequestIds, Batch, "_decide_one")
def expected_versions_are_ignored(original: Original) -> Original:
    def decide(self: Any, one: Any, loaded: Any) -> None:
        one.expected_version = None
        original(self, one, loaded)

    return decide


@plant(RequestIds, submission, "request_key")
def all_callers_share_their_request_ids(original: Original) -> Original:
    return lambda actor, request_id: original("", request_id)


@plant(RequestIds, StateCache, "put")
def states_are_lost_in_the_cache(original: Original) -> Original:
    return lambda self, name, entry: original(self, name, entry._replace(state=None))


@plant(RequestIds, hashlib, "blake2b")
def commands_of_one_type_are_all_alike(original: Original) -> Original:
    return lambda data, digest_size: original(data.partition(b"\0")[0], digest_size=digest_size)


@pytest.mark.parametrize("bug", PLANTS)
def test_a_planted_bug_in_a_layer_is_found(monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    machine, owner, name, around = PLANTS[bug]
    original = vars(owner)[name]
    monkeypatch.setattr(owner, name, around(original))
    with pytest.raises((AssertionError, KeyError)):
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=200,
                stateful_step_count=40,
                phases=[Phase.generate],
                derandomize=True,
                deadline=None,
                database=None,
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )
