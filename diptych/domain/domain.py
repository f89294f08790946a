"""Domains: the declarations that one deployment serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diptych.domain.aggregate import Aggregate
from diptych.domain.errors import DomainError
from diptych.domain.places import calling_place, place_of
from diptych.domain.port import Port
from diptych.domain.process import Process
from diptych.domain.projection import Projection, View


class Domain:
    """The declarations that one deployment serves: `Domain("library", aggregates=[member, copy], ...)`.

    Args:
        name: The name of the Python package that has the domain as its attribute `domain`. The contracts are the
            proto package `<name>.v1`.
        aggregates: The aggregates, without processes.
        projections: The projections.
        processes: The processes.
        ports: The ports for the effects of the processes.

    Raises:
        DomainError: Two aggregates, ports, projections or views have the same name.
    """

    def __init__(
        self,
        name: str,
        *,
        aggregates: Sequence[Aggregate[Any]],
        projections: Sequence[Projection],
        processes: Sequence[Process[Any]] = (),
        ports: Sequence[Port[Any, Any]] = (),
    ) -> None:
        self.name = name
        self.location = calling_place()
        """File and line of the declaration."""
        self.aggregates = {aggregate.type: aggregate for aggregate in (*aggregates, *processes)}
        """By type, processes included."""
        self.processes = {process.type: process for process in processes}
        """By type."""
        self.ports = {port.request.DESCRIPTOR.full_name: port for port in ports}
        """By the full name of the request's type."""
        self.projections = {projection.name: projection for projection in projections}
        """By name."""
        _check_names("aggregate", [(each.type, each.location) for each in (*aggregates, *processes)])
        _check_names("port", [(port.request.DESCRIPTOR.full_name, place_of(port.connect)) for port in ports])
        _check_names("projection", [(each.name, each.location) for each in projections])
        _check_names("view", [(view.name, view.location) for each in projections for view in each.views])
        self.upcasters = {
            name: upcaster for aggregate in self.aggregates.values() for name, upcaster in aggregate.upcasters.items()
        }
        """The upcasters of all aggregates, by the full name of the old event type."""
        for projection in projections:
            projection.upcasters = self.upcasters

    @property
    def package(self) -> str:
        """The proto package of the domain, and the `ErrorInfo` domain of its refusals."""
        return f"{self.name}.v1"

    @property
    def views(self) -> dict[str, View[Any]]:
        """All views by name."""
        return {view.name: view for projection in self.projections.values() for view in projection.views}


def _check_names(kind: str, declared: list[tuple[str, str]]) -> None:
    """Raise `DomainError` for a name that occurs twice among names and places."""
    places: dict[str, str] = {}
    for name, location in declared:
        if name in places:
            raise DomainError(
                f"There are two {kind}s named {name}; the other one is declared at {places[name]}.", location
            )
        places[name] = location
