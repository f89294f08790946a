"""Domains: the declarations that one deployment serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diptych.domain.aggregate import Aggregate
from diptych.domain.errors import DomainError
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
        self.aggregates = {aggregate.type: aggregate for aggregate in (*aggregates, *processes)}
        """By type, processes included."""
        self.processes = {process.type: process for process in processes}
        """By type."""
        self.ports = {port.request.DESCRIPTOR.full_name: port for port in ports}
        """By the full name of the request's type."""
        self.projections = {projection.name: projection for projection in projections}
        """By name."""
        _check_names("aggregate", [aggregate.type for aggregate in (*aggregates, *processes)])
        _check_names("port", [port.request.DESCRIPTOR.full_name for port in ports])
        _check_names("projection", [projection.name for projection in projections])
        _check_names("view", [view.name for projection in projections for view in projection.views])
        upcasters = {
            name: upcaster for aggregate in self.aggregates.values() for name, upcaster in aggregate.upcasters.items()
        }
        for projection in projections:
            projection.upcasters = upcasters

    @property
    def package(self) -> str:
        """The proto package of the domain, and the `ErrorInfo` domain of its refusals."""
        return f"{self.name}.v1"

    @property
    def views(self) -> dict[str, View[Any]]:
        """All views by name."""
        return {view.name: view for projection in self.projections.values() for view in projection.views}


def _check_names(kind: str, names: list[str]) -> None:
    """Raise `DomainError` for a name that occurs twice."""
    for name in names:
        if names.count(name) > 1:
            raise DomainError(f"There are two {kind}s named {name}.")
