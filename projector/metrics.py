"""Metrics of the projector, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import Counter, Gauge, Histogram

from diptych.contract.projection_state import STATE_LABELS

_LABELS = ("projection",)
_APPLIED = Gauge("diptych_projection_applied_position", "Position through which every event is applied.", _LABELS)
_LAG_EVENTS = Gauge("diptych_projection_lag_events", "Events behind the head.", _LABELS)
_LAG_SECONDS = Gauge("diptych_projection_lag_seconds", "Seconds since it was at the head; 0 at the head.", _LABELS)
_STATE = Gauge("diptych_projection_state", "1 for the current state, 0 for the others.", (*_LABELS, "state"))
_PARKED = Gauge("diptych_projection_parked_streams", "Parked streams.", _LABELS)
_LEFT_OUT = Gauge("diptych_projection_left_out_events", "Events of parked streams, and discarded events.", _LABELS)
_EVENTS = Counter("diptych_projection_events_folded", "Events folded.", _LABELS)
_ROWS = Counter("diptych_projection_rows_changed", "Rows written.", _LABELS)
_FOLD = Histogram(
    "diptych_projection_fold_batch_seconds",
    "Seconds of folding a batch, without the read store.",
    _LABELS,
    buckets=(0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5),
)
_COMMIT = Histogram(
    "diptych_projection_commit_batch_seconds",
    "Seconds of a batch from loading its rows to the commit, with the wait for the database thread.",
    _LABELS,
    buckets=(0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5),
)


class ProjectionMetrics:
    """Metrics of one projection."""

    def __init__(self, projection: str) -> None:
        self._projection = projection
        self._events = _EVENTS.labels(projection)
        self._rows = _ROWS.labels(projection)
        self._fold = _FOLD.labels(projection)
        self._commit = _COMMIT.labels(projection)

    def expose(
        self,
        applied: Callable[[], float],
        lag_events: Callable[[], float],
        lag_seconds: Callable[[], float],
        state: Callable[[], str],
        parked_streams: Callable[[], float],
        left_out_events: Callable[[], float],
    ) -> None:
        """Let the projection's gauges call these functions at each scrape, in place of earlier ones."""
        _APPLIED.labels(self._projection).set_function(applied)
        _LAG_EVENTS.labels(self._projection).set_function(lag_events)
        _LAG_SECONDS.labels(self._projection).set_function(lag_seconds)
        _PARKED.labels(self._projection).set_function(parked_streams)
        _LEFT_OUT.labels(self._projection).set_function(left_out_events)
        for label in STATE_LABELS:
            _STATE.labels(self._projection, label).set_function(lambda label=label: float(state() == label))  # type: ignore[misc]

    def record_batch(self, events: int, rows: int, fold_seconds: float, commit_seconds: float) -> None:
        """Count a committed batch."""
        self._events.inc(events)
        self._rows.inc(rows)
        self._fold.observe(fold_seconds)
        self._commit.observe(commit_seconds)
