"""Fixtures for tests with real processes; `tests/support/pair.py` describes them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from diptych.client import Connection
from tests.support.pair import Pair, started_pair


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """A pair of the shop with an empty log, for one test, which may break it."""
    with started_pair(tmp_path / "data") as pair:
        yield pair


@pytest.fixture(scope="module")
def shared_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A pair of the shop for all tests of a module, which use ids of their own and leave it intact."""
    with started_pair(tmp_path_factory.mktemp("shared") / "data") as pair:
        yield pair


@pytest.fixture
async def shop(pair: Pair) -> AsyncIterator[Connection]:
    """Client of `pair`."""
    async with pair.connect() as connection:
        yield connection


@pytest.fixture
async def shared_shop(shared_pair: Pair) -> AsyncIterator[Connection]:
    """Client of `shared_pair`."""
    async with shared_pair.connect() as connection:
        yield connection
