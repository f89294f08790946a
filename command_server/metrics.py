"""What the command server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

COMMANDS = Counter("diptych_commands", "Commands by outcome.", ["outcome"])
BATCH_COMMANDS = Histogram(
    "diptych_commit_batch_commands",
    "Commands to a commit.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
)
HEAD_POSITION = Gauge("diptych_log_head_position", "The head of the log.")
SUBSCRIPTIONS = Gauge("diptych_subscriptions", "Subscriptions open, those of projectors included.")
