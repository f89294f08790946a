"""Prometheus metrics of processes."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import Counter, Gauge

OPEN = Gauge("diptych_process_open", "Open commands, effects and timeouts of processes.", ["process", "kind"])
STUCK = Gauge("diptych_process_stuck", "Instances of processes that are STUCK.", ["process"])
PARKED = Gauge("diptych_process_parked", "Instances of processes that are PARKED.", ["process"])
EFFECT_ATTEMPTS = Counter("diptych_effect_attempts", "Calls of effects by outcome.", ["request", "outcome"])


def measure(gauge: Gauge, value: Callable[[], int], **labels: str) -> None:
    """Make a gauge call `value` whenever it is read."""
    gauge.labels(**labels).set_function(value)
