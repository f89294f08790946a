"""The screen of `diptych up`: a live table on a terminal, and a line for each change elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from rich.console import Console
from rich.text import Text

from diptych.cli.supervisor import Child, State
from diptych.v1 import projections_pb2

_KNOWN_SECONDS = 3.0


class Observation(NamedTuple):
    """What was seen of the servers at one time. None: it did not answer."""

    head: int | None = None
    """The position of the last event."""
    commands: int | None = None
    """The commands answered since the command server started."""
    projections: Sequence[projections_pb2.ProjectionStatus] | None = None


class Screen(Protocol):
    """Where `up` tells what happens."""

    counts_commands: bool
    """Whether it shows the number of commands, which costs the command server a little to tell."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def tell(self, text: str) -> None:
        """Shows something that happened."""

    def show(self, children: Sequence[Child], seen: Observation) -> None:
        """Shows how things stand."""


def screen() -> Screen:
    """The screen that fits where stdout goes."""
    return Table() if sys.stdout.isatty() else Lines()


class Lines:
    """A line for each change: for logs, and for programs that read it."""

    counts_commands = False

    def __init__(self) -> None:
        self._projections: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def tell(self, text: str) -> None:
        print(text, flush=True)

    def show(self, children: Sequence[Child], seen: Observation) -> None:
        for projection in seen.projections or ():
            state = described(projection)
            # A projection that follows is behind for moments all the time; that is no news.
            state = state.replace("CATCHING_UP", "RUNNING")
            if self._projections.get(projection.name) != state:
                self._projections[projection.name] = state
                self.tell(f"projection {projection.name} is {state}")


class Table:
    """A table that is always up to date, below what happened."""

    counts_commands = True

    def __init__(self, console: Console | None = None) -> None:
        from rich.live import Live

        self._live = Live(console=console, auto_refresh=False)
        self._before: tuple[float, int] | None = None
        self._rate = 0.0

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def tell(self, text: str) -> None:
        # Without wrapping: what is shown is also copied.
        self._live.console.print(Text(text), soft_wrap=True)

    def show(self, children: Sequence[Child], seen: Observation) -> None:
        from rich.table import Table as RichTable

        self._measure(seen.commands)
        table = RichTable(box=None, pad_edge=False, header_style="bold")
        for title in ("server", "address", "state"):
            table.add_column(title)
        table.add_column("position", justify="right")
        table.add_column("")
        for child in children:
            position, note = "", ""
            if child.name == "command-server" and seen.head is not None:
                position, note = f"{seen.head:,}", f"{self._rate:,.0f} commands/s"
            table.add_row(child.name, child.address, _coloured(child), position, note)
            if child.name == "projector":
                for projection in seen.projections or ():
                    table.add_row(f"  {projection.name}", "", *_progress(projection))
        self._live.update(table, refresh=True)

    def _measure(self, commands: int | None) -> None:
        now = time.monotonic()
        self._rate = 0.0
        if commands is not None and self._before is not None:
            self._rate = max(0.0, (commands - self._before[1]) / (now - self._before[0]))
        self._before = None if commands is None else (now, commands)


def described(projection: projections_pb2.ProjectionStatus) -> str:
    """A projection's state in words."""
    state = projections_pb2.ProjectionState.Name(projection.state).removeprefix("PROJECTION_STATE_")
    return f"{state}{f': {projection.reason}' if projection.reason else ''}{_parked(projection)}"


def _parked(projection: projections_pb2.ProjectionStatus) -> str:
    streams = projection.parked_streams
    return f", {streams} {'stream' if streams == 1 else 'streams'} parked" if streams else ""


def lag(projection: projections_pb2.ProjectionStatus) -> str:
    """How far a projection is behind, in words."""
    progress = projection.progress
    seconds = progress.lag_time.ToNanoseconds() / 1e9
    events = "1 event" if progress.lag_events == 1 else f"{progress.lag_events:,} events"
    if progress.lag_events:
        return f"{events}, {seconds:.1f} s behind"
    # Nobody has said for so long where the head is.
    return "up to date" if seconds < _KNOWN_SECONDS else f"up to date {seconds:.1f} s ago"


def _progress(projection: projections_pb2.ProjectionStatus) -> tuple[Text, str, Text]:
    state = projections_pb2.ProjectionState.Name(projection.state).removeprefix("PROJECTION_STATE_")
    note = f"{lag(projection)}{_parked(projection)}  {projection.reason}".rstrip()
    position = f"{projection.progress.applied_position:,}"
    return Text(state, style={"PAUSED": "magenta", "STALLED": "red"}.get(state, "")), position, Text(note)


def _coloured(child: Child) -> Text:
    colour = {State.SERVING: "green", State.STARTING: "yellow"}.get(child.state, "red")
    restarts = f", restarted {child.restarts} x" if child.restarts else ""
    return Text.assemble((child.state.value, colour), restarts)
