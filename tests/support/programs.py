"""Process launcher of tests and benchmarks: start a program, wait for its lines, signal it, end it.

It lives here and not in `benchmarks`, as far more tests use it, and benchmarks may depend on tests but not the
reverse. It imports nothing of pytest.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from diptych.cli.ports import Reservation
from diptych.server.leash import LEASH

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
STOP_SECONDS = 30.0
LOG_TAIL_CHARACTERS = 4000


class ProgramFailed(AssertionError):
    """A program ended early, or did not write an expected line in time. The message has the tail of its log."""


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a child process: ours without settings of servers and shop, plus `more`.

    Python finds the checkout and the tests' own domain in it.
    """
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("DIPTYCH_", "SHOP_"))}
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "library_domain")])
    return {**inherited, "PYTHONPATH": path, **(more or {})}


class Program:
    """A program in a process of its own. Its stdout is kept in memory, its stderr in a file.

    In `with` it is killed at the end. When the process that started it dies, servers of Diptych end as well: they
    hold the other end of their standard input as a leash.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        executable: str = sys.executable,
        ready: str = "",
    ) -> None:
        self.arguments = arguments
        self.log = log
        """File that the program's stderr is appended to."""
        self.lines: list[str] = []
        """Lines of stdout, of all runs."""
        self.env = dict(env or {})
        """Environment variables of the next run, in addition to `environment()`."""
        self.ready = ready
        """Beginning of the line that `wait_ready` waits for."""
        self._executable = executable
        self._process: subprocess.Popen[str] | None = None
        self._reader = threading.Thread()
        self._lines_of_earlier_runs = 0
        self._changed = threading.Condition()

    @property
    def maildir(self) -> Path:
        """Folder of the shop's emails, unless `env` has another one."""
        return self.log.parent / "mail"

    @property
    def pid(self) -> int:
        """Process id of the current run, or of the last one."""
        return self._started.pid

    @property
    def running(self) -> bool:
        """True while the process runs."""
        return self._process is not None and self._process.poll() is None

    def spawn(self) -> None:
        """Start the process and return at once."""
        assert not self.running, f"{self.arguments} runs already"
        if self._process is not None:
            self._reader.join(STOP_SECONDS)  # All lines of the last run come before those of this one.
        self._lines_of_earlier_runs = len(self.lines)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._executable, *self.arguments],
                stdin=subprocess.PIPE,  # Held open as a leash: a server ends when it is closed.
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env=environment({LEASH: "1", "SHOP_MAILDIR": str(self.maildir), **self.env}),
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()

    def start(self) -> None:
        """Start the process and wait until it is ready."""
        self.spawn()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until this run has written its ready line."""
        self.wait_for_line(lambda line: line.startswith(self.ready), after=self._lines_of_earlier_runs)

    async def restart(self) -> None:
        """Kill the process if it runs, start it again, and wait until it is ready."""
        self.kill()
        self.spawn()
        await asyncio.to_thread(self.wait_ready)

    def wait_for_line(self, matches: Callable[[str], bool], seconds: float = START_SECONDS, *, after: int = 0) -> str:
        """Return the first line of stdout, from line number `after` on, for which `matches` is true.

        Raises:
            ProgramFailed: No such line within the limit, or the program ended without it.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                ended = not self.running  # Read before the lines, as one may come just before the end.
                for line in self.lines[after:]:
                    if matches(line):
                        return line
                left = deadline - time.monotonic()
                if left <= 0 or (ended and not self._reader.is_alive()):
                    raise ProgramFailed(self._failure(seconds, after))
                self._changed.wait(min(left, 0.2))

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Wait until the process has ended; return its exit status."""
        return self._started.wait(seconds)

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        self._started.send_signal(number)

    def kill(self) -> None:
        """Kill the process, as a crash would."""
        if self.running:
            self.signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> int:
        """Stop the process as an operator would; return its exit status."""
        if self.running:
            self.signal(signal.SIGTERM)
        return self.wait()

    def freeze(self) -> None:
        """Suspend the process, as a machine that hangs would."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume a frozen process."""
        self.signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill the process if it runs. Does nothing if it was never started."""
        if self._process is not None:
            self.kill()

    def logged(self) -> str:
        """Return the program's stderr of all runs."""
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    def resident_mib(self) -> float:
        """Return the resident memory of the process in MiB."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _started(self) -> subprocess.Popen[str]:
        assert self._process is not None, f"{self.arguments} was not started"
        return self._process

    def _failure(self, seconds: float, after: int) -> str:
        end = f"wrote no such line within {seconds:g} s" if self.running else f"ended with status {self.wait()}"
        tail = self.logged()[-LOG_TAIL_CHARACTERS:]
        return f"{' '.join(self.arguments[:3])} {end}; stdout: {self.lines[after:]}; end of {self.log.name}:\n{tail}"

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as output:
            for line in output:
                with self._changed:
                    self.lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        process.wait()
        with self._changed:
            self._changed.notify_all()


class Server(Program):
    """One of the three servers, or a program of ours that takes `--address`. It keeps its port over restarts."""

    def __init__(self, name: str, *arguments: str, log: Path, env: Mapping[str, str] | None = None) -> None:
        self._reservation = Reservation("127.0.0.1:0")
        self.name = name
        self.address = self._reservation.address
        super().__init__(
            ["-m", name.replace("-", "_"), f"--address={self.address}", *arguments],
            log=log,
            env=env,
            ready=f"diptych {name} ready address={self.address}",
        )

    def close(self) -> None:
        """Kill the process if it runs, and release the port."""
        super().close()
        self._reservation.close()
