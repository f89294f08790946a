"""Client: jobs that put load on a server and time its answers. They run in a worker.

Requests are encoded before the clock starts. At a given rate, each request is sent at its time, even if earlier ones
have no answer yet. Its latency counts from that time, so a server that pauses is charged for all requests meanwhile.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypedDict

import grpc.aio
from google.protobuf.message import Message

from benchmarks import workloads
from benchmarks.measure import percentile
from diptych.client import method_of
from diptych.contract.token import TOKEN_KEY, Token
from diptych.internal.v1.log_pb2 import GetHeadResponse
from diptych.server.channels import open_client_channel
from diptych.v1.commands_pb2 import ExecuteResponse
from diptych.v1.events_pb2 import SubscribeRequest, SubscribeResponse
from diptych.v1.processes_pb2 import ListProcessesResponse
from diptych.v1.projections_pb2 import ListProjectionsResponse, PauseRequest
from diptych.v1.read_model_pb2 import (
    WAIT_OUTCOME_REACHED,
    WaitForVersionRequest,
    WaitForVersionResponse,
    WatchRequest,
    WatchResponse,
)
from shop.v1.product_commands_pb2 import (
    AdjustStockRequest,
    AdjustStockResponse,
    CreateProductRequest,
    CreateProductResponse,
)
from shop.v1.product_queries_pb2 import GetProductRequest, SearchProductsRequest, SearchProductsResponse
from tests.support.polling import eventually

EXECUTE = "/diptych.v1.CommandStreamService/Execute"
_RATE_MAX = 15_000
"""Requests per second to prepare for a closed loop. No Python client sends more."""
_SECONDS_MAX = 120.0

_channels: dict[tuple[str, int], grpc.aio.Channel] = {}


class Load(TypedDict):
    """Result of a round: answered calls, and their latencies in milliseconds."""

    count: int
    rate: float
    p50: float
    p99: float
    request_bytes: int
    response_bytes: int
    failed: int
    """Calls that ended with an error. A closed loop raises the error instead."""


def method_path(kind: str) -> str:
    """Return the rpc of a workload's requests."""
    made: type[Message] = type(workloads.WORKLOADS[kind](0))
    return method_of(made).path


async def closed(
    address: str,
    workload: str,
    *,
    first: int,
    concurrency: int,
    seconds: float,
    method: str = "",
    options: dict[str, Any] | None = None,
    metadata: dict[str, str] | None = None,
    rate_max: int = _RATE_MAX,
    between: dict[str, Any] | None = None,
) -> Load:
    """Run callers that each send the next request as soon as the last one is answered.

    `between` is another workload, one request for every `every` requests: address, workload, first, every.
    """
    requests = workloads.requests(workload, first, max(concurrency, int(seconds * rate_max)), **(options or {}))
    call = _unary(address, method or method_path(workload))
    sent = tuple((metadata or {}).items())
    clock = time.perf_counter
    latencies: list[float] = []
    sizes: list[int] = []
    other = _unary(between["address"], method_path(between["workload"])) if between else None
    others = iter(
        workloads.requests(between["workload"], between["first"], len(requests) // between["every"]) if between else []
    )
    every = between["every"] if between else 0
    waiting = iter(requests)
    until = clock() + seconds

    async def caller() -> None:
        for request in waiting:
            began = clock()
            if began > until:
                return
            if other is not None and len(latencies) % every == every - 1 and (one := next(others, None)):
                await other(one)
                began = clock()
            answer = await call(request, metadata=sent)
            latencies.append(clock() - began)
            sizes.append(len(answer))

    began = clock()
    await asyncio.gather(*(caller() for _ in range(concurrency)))
    return _load(latencies, clock() - began, requests[0], sizes)


async def fixed_rate(
    address: str,
    workload: str,
    *,
    first: int,
    rate: float,
    seconds: float,
    method: str = "",
    options: dict[str, Any] | None = None,
) -> Load:
    """Send requests at a fixed rate, each at its own time, and count those that fail."""
    count = int(rate * seconds)
    requests = workloads.requests(workload, first, count, **(options or {}))
    call = _unary(address, method or method_path(workload))
    latencies: list[float] = []
    sizes: list[int] = []
    failed = 0

    async def send(index: int, due: float) -> None:
        nonlocal failed
        try:
            answer = await call(requests[index], timeout=_SECONDS_MAX)
        except grpc.aio.AioRpcError:  # The load is too high, which the case is meant to find out.
            failed += 1
            return
        latencies.append(time.monotonic() - due)
        sizes.append(len(answer))

    began = time.monotonic()
    await _at_rate(rate, count, send)
    load = _load(latencies, time.monotonic() - began, requests[0], sizes)
    load["failed"] = failed
    return load


async def stream(
    address: str,
    workload: str,
    *,
    first: int,
    seconds: float,
    commands: int,
    window: int = 64,
    method: str = EXECUTE,
    options: dict[str, Any] | None = None,
    rate_max: int = 40_000,
) -> Load:
    """Send commands over one bidirectional stream, with a limit on messages without an answer."""
    messages = max(window, int(seconds * rate_max / commands))
    requests = workloads.envelopes(workload, first, messages, commands, **(options or {}))
    answers, latencies, took = await _streamed(address, method, requests, window, seconds)
    if method == EXECUTE:
        _raise_refused(answers)
    load = _load(latencies, took, requests[0], [len(answer) for answer in answers])
    load["count"] *= commands
    load["rate"] *= commands
    return load


async def load(
    address: str, workload: str, *, first: int, count: int, options: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Execute commands as fast as possible; return the token of the last one."""
    last = b""
    began = time.perf_counter()
    for start in range(first, first + count, 20_000):
        some = min(20_000, first + count - start)
        step = 250 if some % 250 == 0 else 1 if some < 250 else next(n for n in range(250, 0, -1) if some % n == 0)
        requests = workloads.envelopes(workload, start, some // step, step, **(options or {}))
        answers, _, _ = await _streamed(address, EXECUTE, requests, 16, _SECONDS_MAX)
        _raise_refused(answers)
        last = answers[-1]
    token = ExecuteResponse.FromString(last).outcomes[-1].result.token
    return {"token": token, "seconds": time.perf_counter() - began}


async def orders(address: str, *, first: int, count: int, concurrency: int, products: int) -> dict[str, float]:
    """Place orders concurrently, and wait until the process of every order has ended."""
    requests = iter(workloads.requests("place_order", first, count, products=products))
    place = _unary(address, method_path("place_order"))
    list_processes = _unary(address, "/diptych.v1.ProcessService/ListProcesses")
    get_head = _unary(address, "/diptych.internal.v1.LogService/GetHead")

    async def caller() -> None:
        for request in requests:
            await place(request)

    async def head() -> int:
        return GetHeadResponse.FromString(await get_head(b"")).head_position

    async def head_at_rest() -> int:
        """Return the head if all processes have taken every event and have nothing open, else 0."""
        listed = ListProcessesResponse.FromString(await list_processes(b""))
        last = await head()
        open_ = any(one.position != last or one.open_commands or one.open_effects for one in listed.processes)
        return 0 if open_ else last

    before, began = await head(), time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(concurrency)))
    placed = time.perf_counter()
    last = await eventually(head_at_rest, what="all processes have ended", seconds=300, every=0.005)
    ended = time.perf_counter()
    return {
        "rate": count / (ended - began),
        "placed": count / (placed - began),
        "events": (last - before) / (ended - began),
        "events_each": (last - before) / count,
    }


async def subscribe(address: str, events: int) -> dict[str, float]:
    """Subscribe from the start of the log to its head. Events are counted after the clock has stopped."""
    channel = _channel(address)
    make: Any = channel.unary_stream("/diptych.v1.EventService/Subscribe")
    call = make(SubscribeRequest().SerializeToString())
    frames: list[bytes] = []
    began = time.perf_counter()
    while True:
        frame = await call.read()
        frames.append(frame)
        if len(frame) < 100 and SubscribeResponse.FromString(frame).HasField("caught_up"):
            break
    took = time.perf_counter() - began
    call.cancel()
    seen = sum(len(SubscribeResponse.FromString(frame).batch.events) for frame in frames)
    if seen != events:
        raise AssertionError(f"{seen} events came, and the log has {events}")
    return {"rate": seen / took, "bytes": sum(map(len, frames))}


async def page_token(address: str, category: int, pages: int) -> str:
    """Return the token of the page after `pages` pages of a category's products."""
    call = _unary(address, method_path("search_products"))
    token = ""
    for _ in range(pages):
        request = SearchProductsRequest(page_size=1000, category=f"category {category}", page_token=token)
        token = SearchProductsResponse.FromString(await call(request.SerializeToString())).next_page_token
    return token


async def wait_for(address: str, token: str, seconds: float = 300.0) -> float:
    """Wait until every projection includes a token; return the seconds it took."""
    call = _unary(address, "/diptych.v1.ReadModelService/WaitForVersion")
    began = time.perf_counter()
    while True:
        answer = await call(WaitForVersionRequest(token=token).SerializeToString(), timeout=30.0)
        outcome = WaitForVersionResponse.FromString(answer).outcome
        if outcome == WAIT_OUTCOME_REACHED:
            return time.perf_counter() - began
        if time.perf_counter() - began > seconds:
            raise AssertionError(f"not reached in time: {outcome}")


async def follow(
    commands: str, queries: str, *, first: int, rate: float, seconds: float, how: str
) -> dict[str, list[float]]:
    """Create products at a fixed rate; return the milliseconds from each acknowledgement until the row was visible.

    `how` is `wait` (WaitForVersion), `query` (a query with the command's token) or `watch` (a watch of all rows). For
    `watch` a value below zero means that the watcher had the row before the client had its answer.
    """
    count = int(rate * seconds)
    execute = _unary(commands, method_path("create_product"))
    requests = workloads.requests("create_product", first, count)
    keys = [CreateProductRequest.FromString(request).product_id for request in requests]
    wait = _unary(queries, "/diptych.v1.ReadModelService/WaitForVersion")
    get = _unary(queries, method_of(GetProductRequest).path)
    acknowledged: dict[str, float] = {}
    visible_at: dict[str, float] = {}
    latencies: list[float] = []
    clock = time.monotonic

    async def send(index: int, due: float) -> None:
        answer = await execute(requests[index])
        at = clock()
        latencies.append((at - due) * 1e3)
        acknowledged[keys[index]] = at
        token = CreateProductResponse.FromString(answer).result.token
        if how == "wait":
            told = await wait(WaitForVersionRequest(view="products", token=token).SerializeToString())
            assert WaitForVersionResponse.FromString(told).outcome == WAIT_OUTCOME_REACHED
        elif how == "query":
            query = GetProductRequest(product_id=keys[index]).SerializeToString()
            await get(query, metadata=((TOKEN_KEY, token),))
        if how != "watch":
            visible_at[keys[index]] = clock()

    watching = asyncio.create_task(_watch(queries, visible_at, keys[-1])) if how == "watch" else None
    if watching is not None:
        await asyncio.sleep(0.5)  # Enough for the snapshot; if not, the rows come with it.
    await _at_rate(rate, count, send)
    if watching is not None:
        async with asyncio.timeout(30):
            await watching
    return {"seen": [(visible_at[key] - acknowledged[key]) * 1e3 for key in keys], "commands": latencies}


async def _watch(address: str, visible_at: dict[str, float], last: str) -> None:
    request = WatchRequest(view="products")
    request.all.SetInParent()
    make: Any = _channel(address, 1).unary_stream("/diptych.v1.ReadModelService/Watch")
    call = make(request.SerializeToString())
    while last not in visible_at:
        frame = await call.read()
        at = time.monotonic()
        for row in WatchResponse.FromString(frame).rows.rows:
            visible_at.setdefault(row.key, at)
    call.cancel()


async def watchers(address: str, *, count: int, seconds: float, sampled: int, products: int, each: int) -> Any:
    """Run watchers of one view, each of all rows (`each` is 0) or of `each` keys.

    All of them read every frame; the first `sampled` also decode rows and note their times.
    """
    told: dict[str, list[float]] = {}
    frames = 0
    ready = 0

    async def one(number: int) -> None:
        nonlocal frames, ready
        request = WatchRequest(view="products")
        if each:
            request.keys.keys.extend(f"product-{(number * each + index) % products:09d}" for index in range(each))
        else:
            request.all.SetInParent()
        channel = _channel(address, number % 8)
        make: Any = channel.unary_stream("/diptych.v1.ReadModelService/Watch")
        call = make(request.SerializeToString())
        live = False
        while True:
            frame = await call.read()
            at = time.monotonic()
            frames += 1
            if not live:
                if WatchResponse.FromString(frame).HasField("caught_up"):
                    live = True
                    ready += 1
            elif number < sampled:
                for row in WatchResponse.FromString(frame).rows.rows:
                    told.setdefault(f"{row.key}@{row.position}", []).append(at)

    tasks = [asyncio.create_task(one(number)) for number in range(count)]
    began = time.monotonic()

    def all_live() -> bool:
        for task in tasks:
            if task.done():
                task.result()
        return ready == count

    await eventually(all_live, what=f"all {count} watchers are live", seconds=_SECONDS_MAX, every=0.05)
    frames = 0
    print("watching", flush=True)
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return {"told": told, "frames": frames, "opened": time.monotonic() - began - seconds}


async def changes(address: str, *, first: int, rate: float, seconds: float, products: int) -> dict[str, Any]:
    """Change rows at a fixed rate; return the time of each acknowledgement by row and position."""
    count = int(rate * seconds)
    requests = workloads.requests("adjust_in_turn", first, count, products=products)
    call = _unary(address, method_of(AdjustStockRequest).path)
    acknowledged: dict[str, float] = {}
    latencies: list[float] = []

    async def send(index: int, due: float) -> None:
        answer = await call(requests[index])
        at = time.monotonic()
        latencies.append((at - due) * 1e3)
        result = AdjustStockResponse.FromString(answer).result
        acknowledged[f"{result.aggregate.id}@{Token.parse(result.token).position}"] = at

    await _at_rate(rate, count, send)
    return {"acknowledged": acknowledged, "commands": latencies}


def _channel(address: str, number: int = 0) -> grpc.aio.Channel:
    key = (address, number)
    if key not in _channels:
        # Channels with the same options share a connection.
        _channels[key] = open_client_channel(address, options=(("benchmarks.number", number),))
    return _channels[key]


def _unary(address: str, method: str) -> Callable[..., Awaitable[bytes]]:
    call: Any = _channel(address).unary_unary(method)
    answer: Callable[..., Awaitable[bytes]] = call
    return answer


async def _at_rate(rate: float, count: int, send: Callable[[int, float], Awaitable[None]]) -> None:
    """Call `send` for each request at its time. A thread keeps the time, as the loop's timers count milliseconds."""
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[None]] = []
    sent: asyncio.Future[None] = loop.create_future()
    began = time.monotonic() + 0.02

    async def one(index: int, due: float) -> None:
        await send(index, due)

    def fire(index: int, due: float) -> None:
        tasks.append(loop.create_task(one(index, due)))
        if index == count - 1:
            sent.set_result(None)

    def keep_time() -> None:
        for index in range(count):
            due = began + index / rate
            if (left := due - time.monotonic()) > 0:
                time.sleep(left)
            loop.call_soon_threadsafe(fire, index, due)

    threading.Thread(target=keep_time, daemon=True).start()
    await sent
    await asyncio.gather(*tasks)


async def _streamed(
    address: str, method: str, requests: Sequence[bytes], window: int, seconds: float
) -> tuple[list[bytes], list[float], float]:
    """Send messages over one stream until the time is up; return the answers and their latencies."""
    make: Any = _channel(address).stream_stream(method)
    call = make()
    clock = time.perf_counter
    answers: list[bytes] = []
    latencies: list[float] = []
    sent: list[float] = []
    room = asyncio.Semaphore(window)
    until = clock() + seconds

    async def write() -> None:
        for request in requests:
            await room.acquire()
            if clock() > until:
                break
            sent.append(clock())
            await call.write(request)
        await call.done_writing()

    began = clock()
    writing = asyncio.create_task(write())
    while True:
        answer = await call.read()
        if answer is grpc.aio.EOF:
            break
        latencies.append(clock() - sent[len(answers)])
        answers.append(answer)
        room.release()
    took = clock() - began
    await writing
    if len(answers) != len(sent):
        raise AssertionError(f"{len(sent)} messages were sent and {len(answers)} answered: {await call.code()}")
    return answers, latencies, took


def _raise_refused(answers: Sequence[bytes]) -> None:
    for answer in answers:
        for outcome in ExecuteResponse.FromString(answer).outcomes:
            if outcome.HasField("error"):
                raise AssertionError(f"a command was refused: {outcome.error.message}")


def _load(latencies: Sequence[float], took: float, request: bytes, sizes: Sequence[int]) -> Load:
    return {
        "count": len(latencies),
        "rate": len(latencies) / took,
        "p50": percentile(latencies, 50) * 1e3,
        "p99": percentile(latencies, 99) * 1e3,
        "request_bytes": len(request),
        "response_bytes": round(sum(sizes) / len(sizes)),
        "failed": 0,
    }


async def catch_up(address: str, projections: Sequence[str], head: int, seconds: float = 300.0) -> None:
    """Wait until a projector has applied `head` in all of these projections."""
    call = _unary(address, "/diptych.v1.ProjectionService/ListProjections")

    async def has_caught_up() -> bool:
        response = ListProjectionsResponse.FromString(await call(b""))
        applied = [one.progress.applied_position for one in response.projections if one.name in projections]
        return bool(applied) and min(applied) >= head

    await eventually(has_caught_up, what=f"all of {list(projections)} are at {head}", seconds=seconds)


async def steer(address: str, what: str, projection: str) -> None:
    """Call an rpc that controls a projection. Of a stream, the first message is read."""
    request = PauseRequest(projection=projection).SerializeToString()  # Field 1 of all their requests.
    make: Any = _channel(address).unary_stream(f"/diptych.v1.ProjectionService/{what}")
    call = make(request)
    await call.read()
    call.cancel()
