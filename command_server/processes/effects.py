"""Effects: calls of ports, off the hot path.

A port stays open as long as the server runs. A call is made at least once, under a key that is always the same. A
transient failure is retried with backoff; a permanent one is an outcome for the process. An exception that depends on
the request alone, as ValueError, is permanent after `FINAL_ATTEMPTS`.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import structlog

from command_server.processes.backoff import backoff
from command_server.processes.inputs import ANSWERED, FAILED
from command_server.processes.metrics import EFFECT_ATTEMPTS
from command_server.processes.outputs import Content, OpenOutputs, OutcomeHandler, Output, OutputQueue
from command_server.store.records import WorkKind
from diptych.domain.errors import one_line, text_of
from diptych.domain.port import Calling, Effect, EffectFailed, Port
from diptych.internal.v1.parking_pb2 import Outcome

_log = structlog.get_logger(__name__)

FINAL_ATTEMPTS = 10
"""Failed attempts after which an exception that depends on the request alone is a final failure."""
_FINAL_REASON = "EFFECT_ERROR"
_REASON_CHARACTERS_MAX = 1000

_REQUEST_ERRORS = (ValueError, TypeError, LookupError)
"""Exceptions of an adapter that depend on the request: the next attempt raises them again."""
_ANSWER_ERRORS = (json.JSONDecodeError, UnicodeDecodeError)
"""Exceptions among them that depend on the provider's answer, as on an error page: they are temporary."""


class Effects:
    """Calls one port.

    Args:
        port: the port.
        outputs: the open outputs.
        on_outcome: called with the outcome of each call.
    """

    def __init__(self, port: Port[Any, Any], outputs: OpenOutputs, on_outcome: OutcomeHandler) -> None:
        self._port = port
        self._name = port.request.DESCRIPTOR.full_name
        self._outputs = outputs
        self._on_outcome = on_outcome
        self._queue = OutputQueue()
        self._slots = asyncio.Semaphore(port.concurrency)
        self._calls: set[asyncio.Task[None]] = set()
        self.open = False
        """True while the port is open."""

    def start(self, output: Output) -> None:
        """Queue a call."""
        self._queue.put(output)

    async def run(self) -> None:
        """Open the port and make calls until cancelled; then cancel the running calls and close the port."""
        attempts = 0
        while True:
            try:
                async with self._port.connect() as effect:
                    attempts = 0
                    self.open = True
                    await self._call_all(effect)
            except Exception as error:
                attempts += 1
                _log.error("port not opened, retrying", port=self._name, attempts=attempts, exc_info=error)
                await asyncio.sleep(backoff(attempts))
            finally:
                self.open = False

    async def _call_all(self, effect: Effect[Any, Any]) -> None:
        try:
            while True:
                output = await self._queue.take()
                await self._slots.acquire()
                if output.given_up:
                    self._slots.release()
                    continue
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
                raise _WrongAnswer(f"the port answered with {type(answer).__name__}, not {self._port.answer.__name__}")
        except EffectFailed as failure:
            self._fail(output, content, failure.reason, str(failure))
        except TimeoutError as error:
            EFFECT_ATTEMPTS.labels(self._name, "passing").inc()
            self._retry_later(output, f"TimeoutError: {str(error) or f'no answer within {self._port.timeout}'}")
        except Exception as error:
            if _is_final(error) and output.attempts + 1 >= FINAL_ATTEMPTS and not content.compensates:
                self._fail(output, content, _FINAL_REASON, one_line(text_of(error), _REASON_CHARACTERS_MAX))
            else:
                EFFECT_ATTEMPTS.labels(self._name, "passing").inc()
                self._retry_later(output, text_of(error))
        else:
            EFFECT_ATTEMPTS.labels(self._name, "answered").inc()
            outcome = Outcome(kind=ANSWERED)
            outcome.answer.Pack(answer)
            self._on_outcome(output, content, outcome)
        finally:
            self._slots.release()

    def _fail(self, output: Output, content: Content, reason: str, message: str) -> None:
        """Report a final failure. An effect that compensates must succeed, and is tried again."""
        EFFECT_ATTEMPTS.labels(self._name, "failed").inc()
        if content.compensates:
            self._retry_later(output, f"{reason}: {message}")
        else:
            self._on_outcome(output, content, Outcome(kind=FAILED, reason=reason, message=message))

    def _retry_later(self, output: Output, reason: str) -> None:
        self._outputs.retry_later(output, reason, lambda: self.start(output))


class _WrongAnswer(Exception):
    """An answer of another type than the port's. The effect may have been performed."""


def _is_final(error: Exception) -> bool:
    return isinstance(error, _REQUEST_ERRORS) and not isinstance(error, _ANSWER_ERRORS)
