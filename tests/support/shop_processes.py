"""Payment provider as a process, and waits for the end of the shop's processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from google.protobuf.duration_pb2 import Duration

from diptych.cli.ports import Reservation
from diptych.client import Connection, open_channel
from diptych.internal.v1.log_pb2 import GetHeadRequest, GetHeadResponse
from diptych.v1.commands_pb2 import AggregateRef
from diptych.v1.events_pb2 import GetPositionRequest, GetPositionResponse
from diptych.v1.processes_pb2 import ListProcessesRequest, ListProcessesResponse
from shop.payments.v1.payments_pb2 import Charge, Fault, GetChargesRequest, SetFaultRequest
from shop.payments.v1.payments_pb2_grpc import PaymentServiceStub
from shop.v1.fulfilments_pb2 import Fulfilment
from shop.v1.processes_pb2 import PROCESS_STATUS_COMPLETED, PROCESS_STATUS_FAILED
from shop.v1.registrations_pb2 import Registration
from tests.support.polling import eventually
from tests.support.programs import Program

ROWS: dict[str, type[Registration] | type[Fulfilment]] = {"registrations": Registration, "fulfilments": Fulfilment}
SECONDS = 90.0
"""Limit in seconds on the end of processes. They take milliseconds on an idle machine."""


class PaymentProvider(Program):
    """Payment provider in a process of its own. It keeps its port and its ledger over restarts."""

    def __init__(self, folder: Path) -> None:
        self._reservation = Reservation("127.0.0.1:0")
        self.address = self._reservation.address
        self.ledger = folder / "payments.jsonl"
        arguments = ["-m", "shop.payments", f"--address={self.address}", f"--ledger={self.ledger}"]
        super().__init__(arguments, log=folder / "payments.log", ready="shop.payments ready ")

    async def charges(self) -> dict[str, Charge]:
        """Return the ledger's charges by reference."""
        async with self._stub() as stub:
            answer = await stub.GetCharges(GetChargesRequest(), timeout=30, wait_for_ready=True)
        return {charge.reference: charge for charge in answer.charges}

    async def set_fault(self, fault: Fault, *, calls: int = 0, seconds: float = 0, voids: bool = False) -> None:
        """Make the next calls fail."""
        delay = Duration(nanos=round(seconds * 1e9) % 10**9, seconds=int(seconds))
        request = SetFaultRequest(fault=fault, calls=calls, delay=delay, voids=voids)
        async with self._stub() as stub:
            await stub.SetFault(request, timeout=30, wait_for_ready=True)

    def close(self) -> None:
        """Kill the process if it runs, and release the port."""
        super().close()
        self._reservation.close()

    @asynccontextmanager
    async def _stub(self) -> AsyncIterator[PaymentServiceStub]:
        async with open_channel(self.address) as channel:
            yield PaymentServiceStub(channel)


def ended(row: Registration | Fulfilment) -> bool:
    """Return True if a process has ended."""
    return row.status in (PROCESS_STATUS_COMPLETED, PROCESS_STATUS_FAILED)


async def watched(
    shop: Connection, view: str, keys: Iterable[str], until: Callable[[Any], bool] = ended
) -> dict[str, list[Any]]:
    """Watch rows until `until` is true of each; return all states of each, in order."""
    seen: dict[str, list[Any]] = {key: [] for key in keys}
    kind = ROWS[view]
    async with asyncio.timeout(SECONDS):
        frames: Any = shop.watch(view, list(seen))
        async with aclosing(frames):
            async for frame in frames:
                if frame.WhichOneof("frame") == "reset":
                    seen = {key: [] for key in seen}
                for row in frame.rows.rows:
                    seen[row.key].append(kind.FromString(row.row.value))
                if all(rows and until(rows[-1]) for rows in seen.values()):
                    return seen
    raise AssertionError("the watch ended")


async def last(
    shop: Connection, view: str, keys: Iterable[str], until: Callable[[Any], bool] = ended
) -> dict[str, Any]:
    """Return the rows once `until` is true of each. Later reads of the client are at least as fresh."""
    rows = {key: found[-1] for key, found in (await watched(shop, view, keys, until)).items()}
    get_position: Any = shop.commands.unary_unary(
        "/diptych.v1.EventService/GetPosition",
        request_serializer=GetPositionRequest.SerializeToString,
        response_deserializer=GetPositionResponse.FromString,
    )
    for key, row in rows.items():
        ref = AggregateRef(type=view.removesuffix("s"), id=key)
        answer = await get_position(GetPositionRequest(aggregate=ref, version=row.version), timeout=SECONDS)
        shop.add_token(answer.token)
    return rows


async def at_rest(commands_address: str) -> None:
    """Wait until all processes have taken every event and have no command and no effect open."""
    async with open_channel(commands_address) as channel:
        get_head = channel.unary_unary(
            "/diptych.internal.v1.LogService/GetHead",
            request_serializer=GetHeadRequest.SerializeToString,
            response_deserializer=GetHeadResponse.FromString,
        )
        list_processes = channel.unary_unary(
            "/diptych.v1.ProcessService/ListProcesses",
            request_serializer=ListProcessesRequest.SerializeToString,
            response_deserializer=ListProcessesResponse.FromString,
        )

        async def resting() -> Any:
            listed = await list_processes(ListProcessesRequest(), timeout=30, wait_for_ready=True)
            head = await get_head(GetHeadRequest(), timeout=30, wait_for_ready=True)
            return all(
                each.position == head.head_position and not each.open_commands and not each.open_effects
                for each in listed.processes
            )

        await eventually(resting, seconds=SECONDS, every=0.05)
