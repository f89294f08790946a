"""The stream overlay: aggregates as the commands of a batch leave them, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from command_server.catalogue import Catalogue
from command_server.state_cache import CachedState, StateCache
from command_server.store.records import Loaded
from diptych.contract.frames import recorded
from diptych.domain.aggregate import AggregateRef

_UNMEASURED_BYTES = 1024
"""Bytes of events after which the size of a state is measured."""


class OverlaidStream:
    """One aggregate in a batch."""

    __slots__ = ("encoded_bytes", "event_bytes", "position", "state", "version")

    def __init__(self, state: Any, version: int, position: int, encoded_bytes: int = 0, event_bytes: int = 0) -> None:
        self.state = state
        self.version = version
        self.position = position
        """Position of the last event; below zero: -1 minus the event's index in the batch."""
        self.encoded_bytes = encoded_bytes
        """Size of the state as a snapshot, when it was last known."""
        self.event_bytes = event_bytes
        """Size of the events since then."""


class UndecidableStream(Exception):
    """The recorded events of a stream cannot be evolved."""


class StreamOverlay:
    """The streams that a batch reads and changes, loaded at their first use."""

    def __init__(self, catalogue: Catalogue, cache: StateCache) -> None:
        self._catalogue = catalogue
        self._cache = cache
        self._cached: dict[str, CachedState] = {}
        self.streams: dict[str, OverlaidStream] = {}
        self._undecidable: dict[str, Exception] = {}

    def pin(self, names: Iterable[str]) -> None:
        """Hold the cached states of these streams, so that they are there when the batch is decided."""
        for name in names:
            if name not in self._cached:
                self._cached[name] = self._cache.get(name)

    def cached_versions(self) -> Mapping[str, int]:
        """Return the version of each pinned state; -1: not cached."""
        return {name: entry.version for name, entry in self._cached.items()}

    def clear(self) -> None:
        """Discard all changes."""
        self.streams = {}
        self._undecidable = {}

    def get(self, ref: AggregateRef, name: str, loaded: Loaded) -> OverlaidStream:
        """Return a stream with the changes of the batch so far.

        Raises:
            UndecidableStream: its events cannot be evolved.
        """
        stream = self.streams.get(name)
        if stream is None:
            if name in self._undecidable:
                raise self._undecidable[name]
            try:
                stream = self._load(ref, name, loaded)
            except Exception as error:
                undecidable = UndecidableStream(f"The events of {name} cannot be evolved.")
                undecidable.__cause__ = error
                self._undecidable[name] = undecidable
                raise undecidable from error
            self.streams[name] = stream
        return stream

    def cache(self) -> Mapping[str, int]:
        """Put the new states into the state cache; return the new version of each stream with new events."""
        changed: dict[str, int] = {}
        for name, stream in self.streams.items():
            if stream.version > 0:
                if stream.event_bytes > _UNMEASURED_BYTES and stream.event_bytes > stream.encoded_bytes:
                    self._measure(name, stream)
                entry = CachedState(stream.state, stream.version, stream.encoded_bytes, stream.event_bytes)
                self._cache.put(name, entry)
            if stream.position < 0:
                changed[name] = stream.version
        return changed

    def _measure(self, name: str, stream: OverlaidStream) -> None:
        """Set the size of a state as a snapshot. A state's bytes at least double between two measurements."""
        try:
            encoded_bytes = len(self._catalogue.codecs[name.partition("/")[0]].encode(stream.state))
        except Exception:  # The commit is done; the command that writes the next snapshot reports the state.
            encoded_bytes = stream.encoded_bytes + stream.event_bytes
        stream.encoded_bytes = encoded_bytes
        stream.event_bytes = 0

    def _load(self, ref: AggregateRef, name: str, loaded: Loaded) -> OverlaidStream:
        aggregate = self._catalogue.aggregates[ref.type]
        head = loaded.streams.get(name)
        if head is None:
            return OverlaidStream(aggregate.initial, 0, 0)
        history = loaded.histories.get(name)
        if history is None:
            cached = self._cached[name]
            return OverlaidStream(cached.state, head.version, head.position, cached.encoded_bytes, cached.event_bytes)
        state = aggregate.initial
        encoded_bytes = event_bytes = 0
        if history.snapshot is not None:
            state = self._catalogue.codecs[ref.type].decode(history.snapshot.state)
            encoded_bytes = len(history.snapshot.state)
        for frame in history.frames:
            payload = recorded(frame).event
            event_bytes += len(payload.value)
            state = aggregate.evolve(state, aggregate.recorded(payload.type_url.rpartition("/")[2], payload.value))
        return OverlaidStream(state, head.version, head.position, encoded_bytes, event_bytes)
