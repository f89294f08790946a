"""Fixtures: a command server of the shop, and a client."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.command_calls import (
    Client,
    command_server,
    connected,
)
from tests.support.programs import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with command_server(tmp_path_factory.mktemp("command") / "data") as server:
        yield server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with connected(server) as client:
        yield client


@pytest.fixture
def me() -> str:
    """Id of this test's own."""
    return f"u-{uuid.uuid4().hex[:12]}"
