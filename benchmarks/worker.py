"""Workers: processes that run jobs and return the results.

Clients, references and peers each run in one of their own, so that none shares an interpreter. A worker runs as long
as its case and keeps its channels open. A job is a line of JSON: the function's name, as `module:function`, and its
arguments.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import subprocess
import sys
import traceback
from typing import Any, Self, TextIO

import uvloop

from tests.support.programs import environment


class JobFailed(Exception):
    """A job raised; the message is its trace."""


class Worker:
    """A worker process. Use it in `with`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def call(self, job: str, **arguments: Any) -> Any:
        """Run a job and return its result; raise `JobFailed`."""
        self.start(job, **arguments)
        return self.result()

    def start(self, job: str, **arguments: Any) -> None:
        """Start a job; `result` waits for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([job, arguments]) + "\n")
        self._process.stdin.flush()

    def result(self) -> Any:
        """Return the result of the started job; raise `JobFailed`."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise JobFailed(f"the worker ended with status {self._process.wait()}")
        failed, result = json.loads(line)
        if failed:
            raise JobFailed(result)
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


async def _serve(output: TextIO) -> None:
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        job, arguments = json.loads(line)
        try:
            module, _, name = job.partition(":")
            result = getattr(importlib.import_module(module), name)(**arguments)
            if inspect.isawaitable(result):
                result = await result
            answer = json.dumps([False, result])
        except Exception:
            answer = json.dumps([True, traceback.format_exc()])
        print(answer, file=output, flush=True)


if __name__ == "__main__":
    answers = sys.stdout
    sys.stdout = sys.stderr  # Libraries may print to stdout, which is for answers.
    uvloop.run(_serve(answers))
