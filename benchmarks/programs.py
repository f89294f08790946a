"""Programs under test: the real servers, each a child process with its files in a folder of the case."""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import grpc

from diptych.cli.leash import LEASH
from diptych.cli.ports import Reservation
from diptych.v1.read_model_pb2 import GetStatusResponse

ROOT = Path(__file__).resolve().parents[1]
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
_HERE = Path(__file__).resolve().parent


class ProgramFailed(Exception):
    """A program did not start, or ended; the message holds what it logged."""


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of child processes: ours without settings of the servers."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("DIPTYCH_")}
    return {**inherited, "PYTHONPATH": str(ROOT), **(more or {})}


class Program:
    """A program that says on stdout when it is ready. Use it in `with`."""

    def __init__(self, command: list[str], ready: str, log: Path, env: Mapping[str, str] | None = None) -> None:
        self._command = command
        self._ready = ready
        self._log = log
        self._env = env or {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of the run."""
        assert self._process is not None
        return self._process.pid

    def spawn(self) -> None:
        """Starts the process."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,  # The leash of our servers.
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment({LEASH: "1", **self._env}),
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Waits for the line that says so; raises `ProgramFailed`."""
        assert self._process is not None
        assert self._process.stdout is not None
        if not _said(self._process.stdout, self._ready.encode(), _START_SECONDS):
            self.stop()
            raise ProgramFailed(f"{self._command} did not say {self._ready!r}:\n{self.logged()}")

    def start(self) -> None:
        """Starts the process and waits until it is ready."""
        self.spawn()
        self.wait_ready()

    def stop(self) -> None:
        """Stops the process as an operator would."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process = None

    def logged(self) -> str:
        """What it wrote to stderr, the last of it."""
        return self._log.read_text("utf-8", "replace")[-4000:] if self._log.exists() else ""

    def resident_mib(self) -> float:
        """Its resident memory in MiB."""
        return resident_mib(self.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def resident_mib(pid: int) -> float:
    """The resident memory of a process in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def _said(output: IO[bytes], ready: bytes, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    said = b""
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if selector.select(left):
                some = os.read(output.fileno(), 4096)
                if not some:
                    return False
                said += some
                if ready in said:
                    return True
    return False


class Server(Program):
    """One of the three servers, or a program of ours that takes `--address`. It keeps its port over restarts."""

    def __init__(self, name: str, *arguments: str, log: Path, env: Mapping[str, str] | None = None) -> None:
        self._reservation = Reservation("127.0.0.1:0")
        self.address = self._reservation.address
        command = [sys.executable, "-m", name.replace("-", "_"), f"--address={self.address}", *arguments]
        super().__init__(command, f"diptych {name} ready ", log, env)

    def close(self) -> None:
        """Ends the process and lets the port go."""
        self.stop()
        self._reservation.close()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


Settings = Mapping[str, Mapping[str, object]]
"""Settings by server: `{"command-server": {"state_cache_entries": 0}}`."""


class Pair:
    """The three servers of the shop on one folder. Those that a case has no need of are not started."""

    def __init__(self, data: Path, settings: Settings | None = None, env: Mapping[str, str] | None = None) -> None:
        data.mkdir(parents=True, exist_ok=True)
        self.data = data
        self._settings = settings or {}
        self._env = env
        read_store = f"--read-store=sqlite:///{data / 'read.db'}"
        self.command = self._server("command-server", f"--log=sqlite:///{data / 'log.db'}")
        commands = f"--commands={self.command.address}"
        self.projector = self._server("projector", commands, read_store)
        self._query_arguments = (commands, f"--projector={self.projector.address}", read_store)
        self.query = self._server("query-server", *self._query_arguments)
        self._more: list[Server] = []

    @property
    def servers(self) -> tuple[Server, ...]:
        """All servers."""
        return (self.command, self.projector, self.query, *self._more)

    def start(self) -> None:
        """Starts all servers and waits until every projection can be read."""
        for server in self.servers:
            server.spawn()
        for server in self.servers:
            server.wait_ready()
        self.wait_readable()

    def wait_readable(self) -> None:
        """Waits until the query server can read every projection."""
        deadline = time.monotonic() + _START_SECONDS
        with grpc.insecure_channel(self.query.address) as channel:
            get_status: Any = channel.unary_unary("/diptych.v1.ReadModelService/GetStatus")
            while True:
                status = GetStatusResponse.FromString(get_status(b"", timeout=_START_SECONDS))
                if status.projections and all(projection.generation for projection in status.projections):
                    return
                if time.monotonic() > deadline:
                    raise ProgramFailed(f"not every projection can be read: {status}")
                time.sleep(0.02)

    def stop(self) -> None:
        """Stops all servers; they can be started again."""
        for server in reversed(self.servers):
            server.stop()

    def another_query_server(self) -> Server:
        """One more query server on the same read store, started."""
        server = self._server("query-server", *self._query_arguments, number=len(self._more) + 2)
        self._more.append(server)
        server.start()
        return server

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for server in reversed(self.servers):
            server.close()

    def _server(self, name: str, *arguments: str, number: int = 1) -> Server:
        own = [f"--{key.replace('_', '-')}={value}" for key, value in self._settings.get(name, {}).items()]
        log = self.data / f"{name}{number if number > 1 else ''}.log"
        return Server(name, "--domain=shop", "--log-level=warning", *arguments, *own, log=log, env=self._env)


def fsync_delay(folder: Path, milliseconds: int) -> dict[str, str] | None:
    """The environment of a process in which every sync of a file takes so much longer; None without a C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        return None
    library = folder / "fsync_delay.so"
    source = str(_HERE / "fsync_delay.c")
    built = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), source, "-ldl"], check=False, capture_output=True
    )
    if built.returncode:
        return None
    return {"LD_PRELOAD": str(library), "FSYNC_DELAY_MILLISECONDS": str(milliseconds)}
