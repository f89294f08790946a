"""Operator who rebuilds projections at random, cancels rebuilds, and switches back, during all other faults."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import grpc.aio

from diptych.client import CallRefused, open_channel
from diptych.v1 import projections_pb2 as states
from diptych.v1 import projections_pb2_grpc

_HONEST = frozenset(
    {
        "REBUILD_CANCELLED",
        "REBUILD_NOT_RUNNING",
        "REBUILD_UNDER_WAY",
        "GENERATION_NOT_FOUND",
        "READ_STORE_UNAVAILABLE",
        "OVERLOADED",
        # Where disks are full and projections are paused.
        "REBUILD_FAILED",
        "PROJECTION_PAUSED",
    }
)
"""Reasons for which an operator may be refused at any time. gRPC itself refuses without a reason."""

_PATIENCE_SECONDS = 5.0


class Rebuilder:
    """Calls the projector and records its wrong answers."""

    def __init__(self, address: str, projections: Sequence[str], rng: random.Random) -> None:
        self.wrong: list[str] = []
        self.switched = 0
        """Number of switches to another generation."""
        self._address = address
        self._projections = projections
        self._rng = rng

    async def work(self, seconds: float, over: Callable[[], bool]) -> None:
        """Make random calls for a time, or until `over` is true."""
        until = asyncio.get_running_loop().time() + seconds
        async with open_channel(self._address) as channel:
            stub = projections_pb2_grpc.ProjectionServiceStub(channel)
            while asyncio.get_running_loop().time() < until and not over():
                name = self._rng.choice(self._projections)
                try:
                    match self._rng.randrange(6):
                        case 0:
                            await stub.CancelRebuild(states.CancelRebuildRequest(projection=name), timeout=1)
                        case 1 | 2:
                            await self._go_back(stub, name)
                        case _:
                            await self._rebuild(stub, name, self._rng.uniform(0.05, _PATIENCE_SECONDS))
                except grpc.aio.AioRpcError as error:
                    self._judge(error)
                await asyncio.sleep(self._rng.uniform(0.0, 0.2))

    async def settle(self, seconds: float) -> None:
        """Rebuild every projection to the end, without faults."""
        async with open_channel(self._address) as channel:
            stub = projections_pb2_grpc.ProjectionServiceStub(channel)
            for name in self._projections:
                try:
                    await self._rebuild(stub, name, seconds)
                except grpc.aio.AioRpcError as error:
                    self.wrong.append(f"the last rebuild of {name} failed: {CallRefused.of(error)}")

    async def _rebuild(self, stub: Any, name: str, seconds: float) -> None:
        position = 0
        request = states.RebuildRequest(projection=name)
        async for told in stub.Rebuild(request, timeout=seconds, wait_for_ready=True):
            if told.position < position:
                self.wrong.append(f"the rebuild of {name} went from {position} back to {told.position}")
            position = told.position
            self.switched += told.switched

    async def _go_back(self, stub: Any, name: str) -> None:
        listed = await stub.ListProjections(states.ListProjectionsRequest(), timeout=1)
        for projection in listed.projections:
            kept = [one.generation for one in projection.generations if one.state == states.GENERATION_STATE_KEPT]
            if projection.name == name and kept:
                request = states.SwitchGenerationRequest(projection=name, generation=self._rng.choice(kept))
                await stub.SwitchGeneration(request, timeout=_PATIENCE_SECONDS)
                self.switched += 1
            if len(kept) > 1:
                self.wrong.append(f"generations {kept} of {projection.name} are kept")

    def _judge(self, error: grpc.aio.AioRpcError) -> None:
        refused = CallRefused.of(error)
        if refused.reason and refused.reason not in _HONEST:
            self.wrong.append(str(refused))
