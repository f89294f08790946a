"""Metrics of a query server, collected when they are scraped, so that calls pay nothing for them."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from query_server.cache.cache import Cache
from query_server.freshness.tracker import FreshnessTracker
from query_server.rows.row_source import RowSource
from query_server.watch.service import WatchService

_PROJECTION = ("projection",)
_VIEW = ("view",)


class QueryServerMetrics(Collector):
    """Collects the metrics of one query server."""

    def __init__(self, tracker: FreshnessTracker, source: RowSource, cache: Cache, watches: WatchService) -> None:
        self._tracker = tracker
        self._source = source
        self._cache = cache
        self._watches = watches

    def collect(self) -> Iterable[Metric]:
        """Yield the values now."""
        tracker, source, watches = self._tracker, self._source, self._watches
        yield GaugeMetricFamily(
            "diptych_head_position", "Head of the log, as last reported.", tracker.head.known_position
        )
        yield GaugeMetricFamily("diptych_waits", "Calls that wait for a position.", tracker.waits.count)
        yield CounterMetricFamily("diptych_selects", "Selects of rows by key.", source.selects)
        yield CounterMetricFamily("diptych_keys_read", "Keys in the selects of rows by key.", source.keys_read)
        yield GaugeMetricFamily("diptych_watches", "Open watches.", watches.open)
        yield GaugeMetricFamily("diptych_watch_bytes", "Bytes of unread frames and buffers.", watches.memory.held)
        yield CounterMetricFamily("diptych_watched_rows", "Rows sent to watches.", watches.rows)
        yield CounterMetricFamily("diptych_watch_reads", "Pages read from the store for watches.", watches.reader.reads)
        yield CounterMetricFamily(
            "diptych_watch_overflows", "Resets of watches whose buffer was full.", watches.overflows
        )
        yield from self._projections()
        yield from self._views()

    def _projections(self) -> Iterable[Metric]:
        tracker, head = self._tracker, self._tracker.head
        applied = GaugeMetricFamily(
            "diptych_projection_applied_position", "Everything up to this position is applied.", labels=_PROJECTION
        )
        events = GaugeMetricFamily("diptych_projection_lag_events", "Events behind the head.", labels=_PROJECTION)
        seconds = GaugeMetricFamily(
            "diptych_projection_lag_seconds", "Seconds since it was at the head; 0 at the head.", labels=_PROJECTION
        )
        serving = GaugeMetricFamily(
            "diptych_projection_serving", "Health of a projection: 1 while SERVING, else 0.", labels=_PROJECTION
        )
        parked = GaugeMetricFamily("diptych_projection_parked_streams", "Parked streams.", labels=_PROJECTION)
        for tracked in tracker.projections.values():
            labels, position = [tracked.name], tracked.progress.applied
            applied.add_metric(labels, position)
            events.add_metric(labels, head.lag_events(position))
            seconds.add_metric(labels, head.lag_seconds(position))
            serving.add_metric(labels, tracked.serving(tracker.now))
            parked.add_metric(labels, tracked.parked_streams)
        yield from (applied, events, seconds, serving, parked)

    def _views(self) -> Iterable[Metric]:
        hits = CounterMetricFamily("diptych_cache_hits", "Look-ups answered from memory.", labels=_VIEW)
        misses = CounterMetricFamily("diptych_cache_misses", "Look-ups without a fresh entry.", labels=_VIEW)
        bypasses = CounterMetricFamily("diptych_cache_bypasses", "Look-ups without a live feed.", labels=_VIEW)
        entries = GaugeMetricFamily("diptych_cache_entries", "Rows, absent rows and lists in memory.", labels=_VIEW)
        size = GaugeMetricFamily("diptych_cache_bytes", "Bytes that the entries take, estimated.", labels=_VIEW)
        for view in self._cache.views:
            labels = [view.name]
            hits.add_metric(labels, view.hits)
            misses.add_metric(labels, view.misses)
            bypasses.add_metric(labels, view.bypasses)
            entries.add_metric(labels, view.entries)
            size.add_metric(labels, view.size_bytes)
        yield from (hits, misses, bypasses, entries, size)
