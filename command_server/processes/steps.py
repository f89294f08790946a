"""Steps: the first inputs of instances on their way through the writer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import structlog

from command_server.processes.backoff import backoff
from command_server.processes.instance_queue import InstanceQueue
from command_server.submission import Submission
from command_server.writer import Writer
from diptych.contract.reasons import InternalError, LogUnavailable, OutcomeUnknown
from diptych.domain.refusal import Refusal

_log = structlog.get_logger(__name__)

_STEPS_MAX = 1000
"""Steps in the writer at once."""

_STORE_FAILURES = (LogUnavailable, OutcomeUnknown, InternalError)
"""Refusals of a whole batch. They say nothing about the input of one instance, so the step is tried again."""


class Steps:
    """Submits the first input of each ready instance.

    Args:
        writer: the writer that decides and records the steps.
        forward: called with an instance whose first input has no instance yet.
        on_taken: called with an instance whose first input is recorded.
        on_failed: called with an instance whose first input failed, and the error.
    """

    def __init__(
        self,
        writer: Writer,
        forward: Callable[[InstanceQueue], None],
        on_taken: Callable[[InstanceQueue], None],
        on_failed: Callable[[InstanceQueue, BaseException], None],
    ) -> None:
        self._writer = writer
        self._forward = forward
        self._on_taken = on_taken
        self._on_failed = on_failed
        self._ready: deque[InstanceQueue] = deque()
        self._running = 0
        self._submitting = False
        self._closing = False

    def close(self) -> None:
        """Submit no further step."""
        self._closing = True

    def start(self, queue: InstanceQueue) -> None:
        """Submit the first input of an instance as soon as there is room."""
        queue.busy = True
        self._ready.append(queue)
        self._submit_ready()

    def _submit_ready(self) -> None:
        if self._submitting:
            return
        self._submitting = True
        while self._ready and self._running < _STEPS_MAX and not self._closing:
            queue = self._ready.popleft()
            if queue.inputs[0].route is not None:
                self._forward(queue)
            else:
                self._submit(queue)
        self._submitting = False

    def _submit(self, queue: InstanceQueue) -> None:
        submission = queue.inputs[0].submission()
        submission.done = lambda: self._on_done(queue, submission)
        try:
            self._writer.submit(submission)
        except Refusal as refusal:
            self._retry_later(queue, refusal)
        else:
            self._running += 1

    def _on_done(self, queue: InstanceQueue, submission: Submission) -> None:
        self._running -= 1
        refusal = submission.refusal
        if submission.early_refusal is not None:
            # The server stops during the commit: the input stays untaken, and is given again after the next start.
            queue.fail_retries(submission.early_refusal)
            return
        if refusal is None:
            self._on_taken(queue)
        elif refusal.__cause__ is not None:
            self._on_failed(queue, refusal.__cause__)
        elif isinstance(refusal, _STORE_FAILURES):
            self._retry_later(queue, refusal)  # If the batch was recorded after all, its request key drops the repeat.
        else:
            self._on_failed(queue, refusal)
        self._submit_ready()

    def _retry_later(self, queue: InstanceQueue, refusal: Refusal) -> None:
        if self._closing:
            return
        queue.attempts += 1
        _log.warning("step of a process postponed", process=queue.process, instance=queue.id, cause=str(refusal))
        asyncio.get_running_loop().call_later(backoff(queue.attempts), self.start, queue)
