"""Prometheus metrics of the command server."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

COMMANDS = Counter("diptych_commands", "Commands by outcome.", ["outcome"])
BATCH_COMMANDS = Histogram(
    "diptych_commit_batch_commands",
    "Commands in a commit.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
)
HEAD_POSITION = Gauge("diptych_log_head_position", "Position of the last event in the log.")
SUBSCRIPTIONS = Gauge("diptych_subscriptions", "Open subscriptions of clients and projectors.")
