"""The catalogue: facts about a domain's aggregates and events that do not depend on any command."""

from __future__ import annotations

from diptych.contract.frames import EventTemplate
from diptych.domain.loading import LoadedDomain


class Catalogue:
    """Aggregates, state codecs and event templates of one domain.

    Args:
        domain: the domain.
        snapshot_events: number of a stream's events after which a snapshot is written.
    """

    def __init__(self, domain: LoadedDomain, snapshot_events: int) -> None:
        self.aggregates = domain.domain.aggregates
        self.codecs = domain.codecs
        self.shapes = {name: codec.shape for name, codec in domain.codecs.items()}
        """Shape of readable snapshots by aggregate type."""
        self.event_types = domain.event_types
        self.snapshot_events = snapshot_events
        self.templates = {
            (aggregate.type, event): EventTemplate(aggregate.type, event)
            for aggregate in domain.domain.aggregates.values()
            for event in aggregate.evolvers
        }
