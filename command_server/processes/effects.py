"""Effects: calls of what lies outside, off the hot path.

Each port is open as long as the server runs. A call is made at least once, under a key that is always the same for
it; what fails in passing is tried again with backoff, what fails for good is told to the process.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from command_server.processes.commands import Told
from command_server.processes.inputs import ANSWERED, FAILED
from command_server.processes.metrics import EFFECT_ATTEMPTS
from command_server.processes.outputs import Content, OpenOutputs, Output, OutputQueue, backoff
from command_server.store.records import WorkKind
from diptych.domain.port import Calling, Effect, EffectFailed, Port
from diptych.internal.v1.parking_pb2 import Outcome

_log = structlog.get_logger(__name__)

_REASON_CHARACTERS_MAX = 1000


class Effects:
    """Calls one port. `told` is called with what came of each call."""

    def __init__(self, port: Port[Any, Any], outputs: OpenOutputs, told: Told) -> None:
        self._port = port
        self._name = port.request.DESCRIPTOR.full_name
        self._outputs = outputs
        self._told = told
        self._queue = OutputQueue()
        self._slots = asyncio.Semaphore(port.concurrency)
        self._calls: set[asyncio.Task[None]] = set()
        self.open = False
        """Whether the port is open."""

    def start(self, output: Output) -> None:
        """Has an effect called."""
        self._queue.put(output)

    async def run(self) -> None:
        """Opens the port, and calls effects for as long as it is not cancelled; then closes it."""
        attempts = 0
        while True:
            try:
                async with self._port.connect() as effect:
                    attempts = 0
                    self.open = True
                    await self._call_all(effect)
            except Exception as error:
                attempts += 1
                _log.error("a port cannot be opened", port=self._name, attempts=attempts, exc_info=error)
                await asyncio.sleep(backoff(attempts))
            finally:
                self.open = False

    async def _call_all(self, effect: Effect[Any, Any]) -> None:
        try:
            while True:
                output = await self._queue.take()
                await self._slots.acquire()
                call = asyncio.create_task(self._call(effect, output, await self._outputs.content(output)))
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)
        finally:
            calls = list(self._calls)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    async def _call(self, effect: Effect[Any, Any], output: Output, content: Content) -> None:
        assert output.work.kind is WorkKind.EFFECT
        calling = Calling(
            f"{content.event_id}/{output.work.ordinal}",
            output.attempts + 1,
            content.correlation_id,
            content.traceparent,
        )
        try:
            request = self._port.request.FromString(content.message.value)
            async with asyncio.timeout(self._port.timeout.total_seconds()):
                answer = await effect(request, calling)
            if not isinstance(answer, self._port.answer):
                raise TypeError(f"the port answered with {type(answer).__name__}, not {self._port.answer.__name__}")
        except EffectFailed as failure:
            EFFECT_ATTEMPTS.labels(self._name, "failed").inc()
            if content.compensates:
                self._again(output, f"{failure.reason}: {failure}")
            else:
                self._told(output, content, Outcome(kind=FAILED, reason=failure.reason, message=str(failure)))
        except TimeoutError as error:
            EFFECT_ATTEMPTS.labels(self._name, "passing").inc()
            self._again(output, f"TimeoutError: {str(error) or f'no answer within {self._port.timeout}'}")
        except Exception as error:
            EFFECT_ATTEMPTS.labels(self._name, "passing").inc()
            self._again(output, f"{type(error).__name__}: {error}")
        else:
            EFFECT_ATTEMPTS.labels(self._name, "answered").inc()
            outcome = Outcome(kind=ANSWERED)
            outcome.answer.Pack(answer)
            self._told(output, content, outcome)
        finally:
            self._slots.release()

    def _again(self, output: Output, reason: str) -> None:
        self._outputs.again(output, reason[:_REASON_CHARACTERS_MAX], lambda: self.start(output))
