"""Real servers for tests: each in a process of its own, on a port of its own, in a folder of the test.

A pair is started by the fixture `pair` (see `conftest.py`) or, with settings of one's own, by `started_pair`. Each
server can be killed, stopped, frozen and started again, on the port it had::

    async def test_a_command_survives_a_kill(pair: Pair) -> None:
        async with pair.connect() as shop:
            answer = await shop.execute(RegisterUserRequest(user_id="ada", email="ada@example.com"))
            pair.command.kill()
            await pair.command.restart()
            ...
"""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc

from diptych.cli.leash import LEASH
from diptych.cli.ports import Reservation
from diptych.client import Connection
from diptych.v1.read_model_pb2 import GetStatusResponse

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
STOP_SECONDS = 30.0
T = TypeVar("T")


class Program:
    """A program in a process of its own, whose output is kept."""

    def __init__(self, arguments: list[str], *, log: Path, env: Mapping[str, str] | None = None) -> None:
        self.arguments = arguments
        self.log = log
        self.lines: list[str] = []
        """What it wrote to stdout, in all its runs."""
        self.env = dict(env or {})
        """What its next run finds in its environment, besides what it always does."""
        self._process: subprocess.Popen[str] | None = None
        self._changed = threading.Condition()

    @property
    def maildir(self) -> Path:
        """Where the shop's emails go, if it is told nothing else."""
        return self.log.parent / "mail"

    @property
    def pid(self) -> int:
        """The process id of this run, or of the last one."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def spawn(self) -> None:
        """Starts the process and returns at once."""
        assert not self.running, f"{self.arguments} runs already"
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("DIPTYCH_", "SHOP_"))}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *self.arguments],
                stdin=subprocess.PIPE,  # The leash: when the test process dies, so do its servers.
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env={**inherited, "PYTHONPATH": _path(), LEASH: "1", "SHOP_MAILDIR": str(self.maildir), **self.env},
                start_new_session=True,
            )
        threading.Thread(target=self._read, args=(self._process, len(self.lines)), daemon=True).start()

    def wait_for_line(self, what: Callable[[str], bool], seconds: float = START_SECONDS, *, after: int = 0) -> str:
        """The first line on stdout for which that is true, from number `after` on; fails with the log if none comes."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                for line in self.lines[after:]:
                    if what(line):
                        return line
                left = deadline - time.monotonic()
                if left <= 0 or not self.running:
                    raise AssertionError(
                        f"{self.arguments[:3]} {'is silent' if self.running else 'has ended'}; it said "
                        f"{self.lines[after:]} and logged:\n{self.logged()}"
                    )
                self._changed.wait(min(left, 0.2))

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Waits until the process has ended; returns its exit status."""
        assert self._process is not None, "not started"
        return self._process.wait(seconds)

    def signal(self, number: signal.Signals) -> None:
        """Sends the process a signal."""
        assert self._process is not None, "not started"
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kills the process, as a crash would."""
        if self.running:
            self.signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> int:
        """Stops the process as an operator would; returns its exit status."""
        if self.running:
            self.signal(signal.SIGTERM)
        return self.wait()

    def freeze(self) -> None:
        """Makes the process stand still, as a machine that hangs would."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets a frozen process go on."""
        self.signal(signal.SIGCONT)

    def logged(self) -> str:
        """What it wrote to stderr."""
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    def _read(self, process: subprocess.Popen[str], _: int) -> None:
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
    """One of the three servers. It keeps its port when it is started again."""

    def __init__(self, name: str, *arguments: str, log: Path, env: Mapping[str, str] | None = None) -> None:
        self._reservation = Reservation("127.0.0.1:0")
        self.name = name
        self.address = self._reservation.address
        super().__init__(["-m", name.replace("-", "_"), f"--address={self.address}", *arguments], log=log, env=env)

    def start(self) -> None:
        """Starts the server and waits until it is ready."""
        before = len(self.lines)
        self.spawn()
        self.wait_ready(before)

    def wait_ready(self, after: int = 0) -> None:
        """Waits until the server says that it is ready."""
        line = self.wait_for_line(lambda line: line.startswith(f"diptych {self.name} ready "), after=after)
        assert line == f"diptych {self.name} ready address={self.address}"

    async def restart(self) -> None:
        """Kills the server if it runs, starts it again, and waits until it is ready."""
        self.kill()
        before = len(self.lines)
        self.spawn()
        await asyncio.to_thread(self.wait_ready, before)

    def close(self) -> None:
        """Ends the process if it still runs, and lets the port go."""
        self.kill()
        self._reservation.close()


class Pair:
    """The three servers of a domain, and the folder with their files."""

    def __init__(
        self, data: Path, domain: str, settings: Mapping[str, Mapping[str, object]], env: Mapping[str, str]
    ) -> None:
        self.data = data
        self.domain = domain
        self._settings = settings
        self._env = env
        read_store = f"--read-store=sqlite:///{data / 'read.db'}"
        self.command = self._server("command-server", f"--log=sqlite:///{data / 'log.db'}")
        commands = f"--commands={self.command.address}"
        self.projector = self._server("projector", commands, read_store)
        projector = f"--projector={self.projector.address}"
        self._query_arguments = (commands, projector, read_store)
        self.query = self._server("query-server", *self._query_arguments)
        self._more: list[Server] = []

    @property
    def servers(self) -> tuple[Server, ...]:
        """All servers of the pair."""
        return (self.command, self.projector, self.query, *self._more)

    def connect(self, **options: Any) -> Connection:
        """A client of the command server and the (first) query server; use it in `async with`."""
        return Connection(self.command.address, self.query.address, **options)

    def another_query_server(self) -> Server:
        """One more query server on the same read store, started."""
        server = self._server("query-server", *self._query_arguments, number=len(self._more) + 2)
        self._more.append(server)
        server.start()
        return server

    def start(self) -> None:
        """Starts all servers together and waits until they are ready."""
        for server in self.servers:
            server.spawn()
        for server in self.servers:
            server.wait_ready()
        self._wait_until_readable()

    def _wait_until_readable(self) -> None:
        """Waits until the query server can read every projection, and not just the first."""
        deadline = time.monotonic() + START_SECONDS
        with grpc.insecure_channel(self.query.address) as channel:
            get_status: Any = channel.unary_unary("/diptych.v1.ReadModelService/GetStatus")
            while True:
                status = GetStatusResponse.FromString(get_status(b"", timeout=START_SECONDS))
                if all(projection.generation for projection in status.projections):
                    return
                assert time.monotonic() < deadline, f"not every projection can be read: {status}"
                time.sleep(0.02)

    def close(self) -> None:
        """Ends all servers."""
        for server in self.servers:
            server.close()

    def _server(self, name: str, *arguments: str, number: int = 1) -> Server:
        own = [f"--{key.replace('_', '-')}={value}" for key, value in self._settings.get(name, {}).items()]
        log = self.data / f"{name}{number if number > 1 else ''}.log"
        return Server(name, f"--domain={self.domain}", *arguments, *own, log=log, env=self._env)


@contextmanager
def started_pair(
    data: Path,
    domain: str = "shop",
    settings: Mapping[str, Mapping[str, object]] | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[Pair]:
    """A pair that is ready. `settings` holds settings by server: `{"command-server": {"batch_commands_max": 1}}`.

    `env` is what the domain is told, such as `SHOP_PAYMENTS`.
    """
    data.mkdir(parents=True, exist_ok=True)
    pair = Pair(data, domain, settings or {}, env or {})
    try:
        pair.start()
        yield pair
    finally:
        pair.close()


async def eventually(condition: Callable[[], T | Awaitable[T]], *, seconds: float = 30.0, every: float = 0.02) -> T:
    """The condition's value as soon as it is true; fails with its last value if it does not become so in time."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        value: T = await found if inspect.isawaitable(found) else found
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s: {inspect.getsource(condition).strip()}: {value!r}"
        await asyncio.sleep(every)


def _path() -> str:
    """Where the servers find the domains: the checkout, and the tests' own domain."""
    return os.pathsep.join([str(ROOT), str(ROOT / "tests" / "library_domain")])
