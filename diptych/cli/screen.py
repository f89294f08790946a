"""Screen of `diptych up`: a live table on a terminal, and a line for each change elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from rich.console import Console
from rich.text import Text

from diptych.cli.child import Child, State
from diptych.cli.observation import Observation
from diptych.cli.projection_text import describe_lag, describe_parked, describe_state, state_row
from diptych.v1.projections_pb2 import ProjectionStatus

if TYPE_CHECKING:
    from rich.table import Table as RichTable


class Screen(Protocol):
    """Output of `diptych up`."""

    counts_commands: bool
    """True if the screen shows the rate of commands, which costs the command server a read of its metrics."""
    calls_max: int | None
    """Number of calls to try that fit on the screen; None: all."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def print_line(self, text: str) -> None:
        """Print a line that stays."""

    def update(self, children: Sequence[Child], observation: Observation) -> None:
        """Show the state of the servers."""


def open_screen() -> Screen:
    """Return the screen for this stdout."""
    return Table() if sys.stdout.isatty() else Lines()


class Lines:
    """A line for each change, for logs and for programs that read them."""

    counts_commands = False
    calls_max: int | None = None

    def __init__(self) -> None:
        self._projections: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def print_line(self, text: str) -> None:
        """Print a line."""
        print(text, flush=True)

    def update(self, children: Sequence[Child], observation: Observation) -> None:
        """Print the state of each projection whose state has changed."""
        for projection in observation.projections or ():
            # A running projection is behind for moments all the time. That is not a change.
            state = describe_state(projection).replace("CATCHING_UP", "RUNNING")
            if self._projections.get(projection.name) != state:
                self._projections[projection.name] = state
                self.print_line(f"projection {projection.name} is {state}")


class Table:
    """A live table below the lines that were printed."""

    counts_commands = True
    calls_max: int | None = 3

    def __init__(self, console: Console | None = None) -> None:
        from rich.live import Live

        self._live = Live(console=console, auto_refresh=False)
        self._last_count: tuple[float, int] | None = None
        self._rate = 0.0

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def print_line(self, text: str) -> None:
        """Print a line above the table."""
        # Without wrapping, so that a command can be copied.
        self._live.console.print(Text(text), soft_wrap=True)

    def update(self, children: Sequence[Child], observation: Observation) -> None:
        """Show a row for each server and each projection."""
        self._measure(observation.commands)
        self._live.update(self.table_of(children, observation), refresh=True)

    def table_of(self, children: Sequence[Child], observation: Observation) -> RichTable:
        """Return a row for each server and each projection."""
        from rich.table import Table as RichTable

        table = RichTable(box=None, pad_edge=False, header_style="bold")
        for title in ("server", "address", "state"):
            table.add_column(title)
        table.add_column("position", justify="right")
        table.add_column("")
        for child in children:
            position, note = "", ""
            if child.name == "command-server" and observation.head is not None:
                position, note = f"{observation.head:,}", f"{self._rate:,.0f} commands/s"
            table.add_row(child.name, child.address, _child_state(child), position, note)
            if child.name == "projector":
                for projection in observation.projections or ():
                    table.add_row(f"  {projection.name}", "", *_projection_cells(projection))
        return table

    def _measure(self, commands: int | None) -> None:
        now = time.monotonic()
        self._rate = 0.0
        if commands is not None and self._last_count is not None:
            counted_at, count = self._last_count
            self._rate = max(0.0, (commands - count) / (now - counted_at))
        self._last_count = None if commands is None else (now, commands)


def _projection_cells(projection: ProjectionStatus) -> tuple[Text, str, Text]:
    row = state_row(projection.state)
    note = f"{describe_lag(projection)}{describe_parked(projection)}  {projection.reason}".rstrip()
    return Text(row.label, style=row.colour), f"{projection.progress.applied_position:,}", Text(note)


def _child_state(child: Child) -> Text:
    colour = {State.SERVING: "green", State.STARTING: "yellow"}.get(child.state, "red")
    restarts = f", restarted {child.restarts} x" if child.restarts else ""
    return Text.assemble((child.state.value, colour), restarts)
