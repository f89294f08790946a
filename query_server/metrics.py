"""Metrics: read off when they are scraped, so that they cost the calls nothing."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from query_server.cache.cache import Cache
from query_server.freshness.tracker import FreshnessTracker
from query_server.rows.row_source import RowSource
from query_server.watch.service import Watches


class QueryServerMetrics(Collector):
    """What a query server tells about itself."""

    def __init__(self, freshness: FreshnessTracker, reader: RowSource, cache: Cache, watches: Watches) -> None:
        self._freshness = freshness
        self._reader = reader
        self._cache = cache
        self._watches = watches

    def collect(self) -> Iterable[Metric]:
        """The values now."""
        freshness, now = self._freshness, self._freshness.now
        head = freshness.head.known_position
        yield GaugeMetricFamily("diptych_head_position", "Head of the log, as last heard.", head)
        yield GaugeMetricFamily("diptych_waits", "Calls that wait for a projection.", freshness.waits.count)
        yield CounterMetricFamily("diptych_selects", "Selects of rows by key.", self._reader.selects)
        yield CounterMetricFamily("diptych_keys_read", "Rows asked for by key.", self._reader.keys_read)
        yield GaugeMetricFamily("diptych_watches", "Watches that are open.", self._watches.open)
        yield CounterMetricFamily("diptych_watched_rows", "Rows sent to watches.", self._watches.rows)
        yield CounterMetricFamily("diptych_watch_reads", "Reads of the store for watches.", self._watches.reader.reads)
        yield CounterMetricFamily("diptych_watch_overflows", "Watches that were too slow.", self._watches.overflows)
        applied = GaugeMetricFamily(
            "diptych_projection_applied_position", "Everything up to this position is applied.", labels=["projection"]
        )
        events = GaugeMetricFamily("diptych_projection_lag_events", "Events behind the head.", labels=["projection"])
        seconds = GaugeMetricFamily(
            "diptych_projection_lag_seconds", "Seconds since it was at the head; 0 at the head.", labels=["projection"]
        )
        serving = GaugeMetricFamily("diptych_projection_serving", "Health of a projection.", labels=["projection"])
        parked = GaugeMetricFamily("diptych_projection_parked_streams", "Parked streams.", labels=["projection"])
        for tracker in list(freshness.projections.values()):
            applied.add_metric([tracker.name], tracker.progress.applied)
            events.add_metric([tracker.name], freshness.head.lag_events(tracker.progress.applied))
            seconds.add_metric([tracker.name], freshness.head.lag_seconds(tracker.progress.applied))
            serving.add_metric([tracker.name], tracker.serving(now))
            parked.add_metric([tracker.name], tracker.parked_streams)
        yield from (applied, events, seconds, serving, parked)
        yield from self._cached()

    def _cached(self) -> Iterable[Metric]:
        hits = CounterMetricFamily("diptych_cache_hits", "Answers from memory.", labels=["view"])
        misses = CounterMetricFamily("diptych_cache_misses", "Look-ups that found nothing to answer.", labels=["view"])
        bypasses = CounterMetricFamily("diptych_cache_bypasses", "Look-ups without a live feed.", labels=["view"])
        entries = GaugeMetricFamily("diptych_cache_entries", "Rows and answers in memory.", labels=["view"])
        size = GaugeMetricFamily("diptych_cache_bytes", "What they take, about.", labels=["view"])
        for view in self._cache.views:
            hits.add_metric([view.name], view.hits)
            misses.add_metric([view.name], view.misses)
            bypasses.add_metric([view.name], view.bypasses)
            entries.add_metric([view.name], view.entries)
            size.add_metric([view.name], view.size_bytes)
        yield from (hits, misses, bypasses, entries, size)
