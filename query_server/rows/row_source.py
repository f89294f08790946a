"""Source of rows: the interface through which a query server reads the read store, on any database.

Every read names the generation that it read and that generation's checkpoint at the moment of the read. This pair
is the input of the freshness proof.
"""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from diptych.contract.token import LogIdentity
from diptych.domain.projection import View
from diptych.domain.query import Find
from query_server.rows.time_limit import TimeLimit

PAGE_BYTES_MAX = 1 << 20
"""Greatest size of the rows in a page."""

T = TypeVar("T")


class RowRead(NamedTuple):
    """One row at a checkpoint of its projection; `row` is None if the view has no row with that key."""

    row: bytes | None
    generation: int
    position: int


class PageRead(NamedTuple):
    """Rows in the order of a find, at a checkpoint of their projection; `total` is None unless requested.

    `cut` is True if the page ends by its limit in bytes, before its limit in rows.
    """

    rows: list[bytes]
    keys: list[str]
    total: int | None
    generation: int
    position: int
    cut: bool = False


class StoredGeneration(NamedTuple):
    """The active generation of one projection, with `position` as its checkpoint."""

    projection: str
    generation: int
    version: int
    position: int
    identity: LogIdentity | None
    paused: bool = False
    parked_streams: int = 0
    left_out_events: int = 0
    left_out_position: int = 0


class StoredEvent(NamedTuple):
    """Result of one event in the active generation; `error` is the cause if the event is left out, else None."""

    generation: int
    checkpoint: int
    error: str | None


class RowSource(abc.ABC):
    """Reads rows of the views of some projections. Belongs to one event loop.

    Every read raises `ReadModelNotReady` while the projection has no readable generation, and `Overloaded` at the
    limit of waiting reads. Cancelling a find interrupts its statement; of other reads only the result is dropped.
    """

    shows_commits: bool
    """True if a read that starts after the projector's commit includes it. False for a replica, which lags."""

    store_changes: int
    """Number of times the store was replaced by another one. Positions of two stores do not compare."""

    @property
    @abc.abstractmethod
    def selects(self) -> int:
        """Number of selects of rows by key."""

    @property
    @abc.abstractmethod
    def keys_read(self) -> int:
        """Number of keys in those selects."""

    @abc.abstractmethod
    def get(self, view: View[Any], key: str) -> asyncio.Future[RowRead]:
        """Read one row by its key."""

    @abc.abstractmethod
    async def find(
        self,
        view: View[Any],
        find: Find,
        *,
        limit: int,
        after: Sequence[Any] | None = None,
        total: bool = False,
        bytes_max: int = PAGE_BYTES_MAX,
        time_limit: TimeLimit | None = None,
    ) -> PageRead:
        """Read rows that match, in order.

        Args:
            view: The view to read.
            find: Conditions and order.
            limit: Greatest number of rows.
            after: Values of the order's columns and the key of the row before the page; None for the first page.
            total: Count all matching rows as well.
            bytes_max: Greatest size of the rows. A first row that is larger is read alone.
            time_limit: Limit after which the read is refused and its statement interrupted; None: there is none.

        Raises:
            Overloaded: Too many reads wait, or the time limit has passed.
        """

    @abc.abstractmethod
    async def event(self, projection: str, position: int) -> StoredEvent:
        """Look up the result of the event at a position in the projection's active generation."""

    @abc.abstractmethod
    async def generations(self) -> list[StoredGeneration]:
        """List the readable active generations; empty while there is no store."""

    @abc.abstractmethod
    async def run(self, work: Callable[[], T]) -> T:
        """Run some work on rows off the event loop, such as combining many of them."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Close every connection."""
