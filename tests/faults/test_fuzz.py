"""Valid and invalid requests to every rpc of every server: none may harm more than itself.

gRPC reflection lists the rpcs, so new ones are covered. No answer may be UNKNOWN or INTERNAL or have Python's texts;
nothing may crash or be logged as unexpected; memory stays flat. `make faults REQUESTS=100000 SEED=7` sends that many.
A failure names the number of its request: the same seed makes the same one.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from diptych.v1 import projections_pb2_grpc
from diptych.v1.projections_pb2 import ListProjectionsRequest, ResumeRequest
from shop.v1.product_commands_pb2 import CreateProductRequest
from shop.v1.user_commands_pb2 import RegisterUserRequest
from shop.v1.user_queries_pb2 import GetUserRequest
from tests.faults.extent import REQUESTS, SEED
from tests.faults.fuzz import Maker, method_path
from tests.support.pair import Pair, started_pair
from tests.support.programs import Server

CALLERS = 16
GROWTH_MB = 96
"""Limit in MB on a server's growth after the first half: caches and fragmentation, without the requests."""
SETTINGS: dict[str, dict[str, object]] = {
    # Small caches, which are full soon: what grows then is a leak.
    "command-server": {"state_cache_entries": 200, "tail_events_max": 1000},
    "query-server": {"cache_bytes_max": 1 << 20},
}
CORE = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED)
"""Answers of gRPC itself, for deadlines and its own limits."""
NEVER = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS)
CLIENTS_OWN = "Internal error from Core"
"""INTERNAL error of gRPC for Python when a client writes to a stream that the server has ended."""
PYTHON = re.compile(r"Traceback|Exception|[a-z]Error\b|object at 0x|NoneType|<class|File \"|\.py\b")


class Target:
    """One server and its rpcs."""

    def __init__(self, server: Server, tokens: list[str]) -> None:
        self.server = server
        self.methods: list[MethodDescriptor] = []
        with grpc.insecure_channel(server.address) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            pool = DescriptorPool(database)
            for name in sorted(database.get_services()):
                self.methods += pool.FindServiceByName(name).methods
            commands = [
                method.input_type
                for method in self.methods
                if "context" in method.input_type.fields_by_name and method.containing_service.name == "CommandService"
            ]
            self.maker = Maker(commands or [method.input_type for method in self.methods], tokens)
            for method in self.methods:  # While the server can be asked for them.
                GetMessageClass(method.input_type)
                GetMessageClass(method.output_type)

    @property
    def megabytes(self) -> float:
        """Memory of the process in MB."""
        status = Path(f"/proc/{self.server.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) / 1024


class Caller:
    """Sends requests and checks the answers."""

    def __init__(self, targets: list[Target], channels: list[grpc.aio.Channel]) -> None:
        self._calls = [
            (target, channel, method)
            for target, channel in zip(targets, channels, strict=True)
            for method in target.methods
        ]
        self.answers: Counter[str] = Counter()
        self.called: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def send(self, number: int) -> None:
        """Send one request."""
        rng = random.Random(f"{SEED}/{number}")
        # Every rpc in turn, so that all of them are called.
        target, channel, method = self._calls[number % len(self._calls)]
        requests = [target.maker.request(rng, method.input_type) for _ in range(rng.choice((0, 1, 1, 3)))]
        if not method.client_streaming:
            requests = requests[:1] or [b""]
        metadata = target.maker.metadata(rng)
        seconds = rng.choice((0.05, 0.3, 1.0))
        self.called[method_path(method)] += 1
        status, problem = await self._call(channel, method, requests, metadata, seconds, rng.randrange(4))
        self.answers[status] += 1
        if problem:
            shown = [request[:300] for request in requests]
            self.wrong.append(f"request {number} of seed {SEED}, {method_path(method)} {shown} {metadata}: {problem}")

    async def _call(
        self,
        channel: grpc.aio.Channel,
        method: MethodDescriptor,
        requests: list[bytes],
        metadata: list[tuple[str, Any]],
        seconds: float,
        frames: int,
    ) -> tuple[str, str]:
        path = method_path(method)
        options = {"metadata": tuple(metadata), "timeout": seconds}
        answers: list[bytes] = []
        call: Any
        if method.client_streaming:
            call = channel.stream_stream(path)(**options)  # type: ignore[arg-type]
        elif method.server_streaming:
            call = channel.unary_stream(path)(requests[0], **options)  # type: ignore[arg-type]
        else:
            call = channel.unary_unary(path)(requests[0], **options)  # type: ignore[arg-type]
        try:
            if method.client_streaming:
                for request in requests:
                    await call.write(request)
                await call.done_writing()
            if method.server_streaming:
                while len(answers) < frames and (frame := await call.read()) is not grpc.aio.EOF:
                    answers.append(frame)
            else:
                answers.append(await call)
        except (asyncio.InvalidStateError, grpc.aio.InternalError):
            pass  # It ended while more was being written.
        except grpc.aio.AioRpcError as error:
            if method.client_streaming and error.details() == CLIENTS_OWN:
                return "ended before all was sent", ""
            return error.code().name, _judge(error.code(), error.details() or "", error.trailing_metadata() or (), path)
        if not call.done():
            call.cancel()
        code = await call.code()
        if code not in (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED):
            return code.name, _judge(code, await call.details() or "", await call.trailing_metadata() or (), path)
        for answer in answers:
            try:
                GetMessageClass(method.output_type).FromString(answer)
            except DecodeError:
                return code.name, f"the answer is no {method.output_type.full_name}: {answer[:100]!r}"
        return code.name, ""


def _judge(code: grpc.StatusCode, message: str, trailers: Any, path: str) -> str:
    """Return what is wrong with an error; empty if nothing is."""
    if code in NEVER:
        return f"{code.name}: {message}"
    if PYTHON.search(message):
        return f"{code.name} in words of Python: {message}"
    status = status_pb2.Status()
    for key, value in trailers:
        if key == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(value)
    info = error_details_pb2.ErrorInfo()
    if not any(detail.Unpack(info) for detail in status.details) and code not in CORE and path.startswith("/diptych."):
        return f"{code.name} without a reason: {message}"
    return f"{code.name} {info.reason}: {message}" if info.reason == "INTERNAL" else ""


@pytest.fixture
def small_pair(tmp_path: Path) -> Iterator[Pair]:
    with started_pair(tmp_path / "data", settings=SETTINGS) as pair:
        yield pair


@pytest.mark.timeout(120 + REQUESTS * 0.05)
async def test_no_request_harms_more_than_itself(small_pair: Pair) -> None:
    async with small_pair.connect() as shop:
        await shop.execute(RegisterUserRequest(user_id="ada", email="ada@example.com"))
        tea = CreateProductRequest(product_id="tea", name="Tea", stock=1000)
        tea.price.currency_code, tea.price.units = "GBP", 3
        token = (await shop.execute(tea)).result.token
    targets = [await asyncio.to_thread(Target, server, [token, token[:-1] + "V"]) for server in small_pair.servers]
    channels = [grpc.aio.insecure_channel(target.server.address) for target in targets]
    caller = Caller(targets, channels)
    halfway: list[float] = []
    try:
        for first in (0, REQUESTS // 2):
            numbers = iter(range(first, first + REQUESTS // 2))

            async def work(numbers: Iterator[int] = numbers) -> None:
                for number in numbers:
                    await caller.send(number)

            await asyncio.gather(*(work() for _ in range(CALLERS)))
            halfway = halfway or [target.megabytes for target in targets]
    finally:
        for channel in channels:
            await channel.close()
    print(f"seed {SEED}: {caller.answers.most_common()} of {len(caller.called)} rpcs")
    grown = {target.server.name: (before, target.megabytes) for target, before in zip(targets, halfway, strict=True)}
    print(f"seed {SEED}: MB halfway and in the end: {grown}")
    assert not caller.wrong, f"{len(caller.wrong)} wrong, such as\n" + "\n".join(caller.wrong[:10])
    assert caller.answers["OK"] > REQUESTS / 20, "Hardly a request was a right one."
    for server in small_pair.servers:
        assert server.running, server.logged()[-3000:]
        logged = server.logged()
        assert "Traceback" not in logged, logged[max(0, logged.index("Traceback") - 1000) :][:5000]
    assert all(after - before < GROWTH_MB for before, after in grown.values()), grown
    async with small_pair.connect() as shop:  # All is as it should be.
        answer = await shop.execute(RegisterUserRequest(user_id="last", email="last@example.com"))
        await resume_all(small_pair)
        await shop.query(GetUserRequest(user_id="last"), token=answer.result.token)


async def resume_all(pair: Pair) -> None:
    """Resume the projections that requests have paused."""
    async with grpc.aio.insecure_channel(pair.projector.address) as channel:
        stub = projections_pb2_grpc.ProjectionServiceStub(channel)
        for projection in (await stub.ListProjections(ListProjectionsRequest(), timeout=30)).projections:
            await stub.Resume(ResumeRequest(projection=projection.name), timeout=30)
