"""`diptych up`, with the real servers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from diptych.client import CallRefused, Connection
from diptych.contract.token import Token
from diptych.v1 import read_model_pb2
from shop.v1.order_queries_pb2 import GetOrderRequest
from shop.v1.product_queries_pb2 import GetProductRequest
from shop.v1.user_commands_pb2 import RegisterUserRequest
from shop.v1.user_queries_pb2 import GetUserRequest
from tests.support.polling import eventually
from tests.support.programs import ROOT, Program

SERVERS = ("command-server", "projector", "query-server")


class Up(Program):
    """A `diptych up` on free ports."""

    def __init__(self, data: Path, *arguments: str) -> None:
        self.data = data
        addresses = [f"--{name}-address=127.0.0.1:0" for name in ("command", "query", "projector")]
        log = data.with_name(f"{data.name}.up.log")
        super().__init__(["-m", "diptych.cli", "up", f"--data={data}", *addresses, *arguments], log=log)

    def start(self) -> None:
        """Start it and wait until it has shown calls to try, which it does when queries include the sample."""
        before = len(self.lines)
        self.spawn()
        self.wait_for_line(lambda line: "See how far each projection is" in line, 60, after=before)
        self.wait_for_line(lambda line: "ReadModelService/GetStatus" in line, after=before)

    @property
    def addresses(self) -> dict[str, str]:
        """Address of each server, from the latest ready line."""
        ready = [line for line in self.lines if line.startswith("diptych up ready ")][-1]
        return dict(part.split("=") for part in ready.split()[3:])

    @property
    def status_options(self) -> tuple[str, ...]:
        """Options of `diptych status` with the servers' addresses."""
        names = {"--commands": "command-server", "--query": "query-server", "--projector": "projector"}
        return tuple(f"{option}={self.addresses[name]}" for option, name in names.items())

    @property
    def calls(self) -> list[str]:
        """Shell commands that the screen shows."""
        return [line.strip() for line in self.lines if "diptych call " in line]

    @property
    def children(self) -> dict[str, int]:
        """Process id of each running child."""
        found = {}
        for pid, (parent, command) in processes().items():
            for name in SERVERS:
                if parent == self.pid and f" -m {name.replace('-', '_')} " in command:
                    found[name] = pid
        return found

    def connect(self) -> Connection:
        """Return a client of its servers."""
        return Connection(self.addresses["command-server"], self.addresses["query-server"], retry_seconds=20)

    async def head(self) -> int:
        """Return the head of the log."""
        async with self.connect() as shop:
            get_status = shop.queries.unary_unary(
                "/diptych.v1.ReadModelService/GetStatus",
                request_serializer=read_model_pb2.GetStatusRequest.SerializeToString,
                response_deserializer=read_model_pb2.GetStatusResponse.FromString,
            )
            answer = await get_status(read_model_pb2.GetStatusRequest(), timeout=10)
            return answer.head_position


def processes() -> dict[int, tuple[int, str]]:
    """Return parent and command line of every running process."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            found[int(folder.name)] = (int(fields[1]), command)
    return found


@contextmanager
def started(data: Path, *arguments: str) -> Iterator[Up]:
    """Yield an `up` that is ready."""
    up = Up(data, *arguments)
    try:
        up.start()
        yield up
    finally:
        up.kill()


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Yield an `up` for tests that do not stop it."""
    with started(tmp_path_factory.mktemp("up") / "data") as up:
        yield up


def diptych(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    command = [sys.executable, "-m", "diptych.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_the_start_names_domain_log_head_and_read_store(up: Up) -> None:
    (domain,) = (line for line in up.lines if line.startswith("Domain "))
    assert re.fullmatch(r"Domain shop (\S+ )?from (.+)", domain)
    assert domain.endswith(f"from {ROOT / 'shop'}")
    (log,) = (line for line in up.lines if line.startswith("Log "))
    files = (
        rf"Log sqlite:///{up.data}/log\.db, id [0-9a-f]{{16}}, epoch 1, head 0; read store sqlite:///{up.data}/read\.db"
    )
    assert re.fullmatch(files, log)
    assert up.lines.index(domain) < up.lines.index(log)


async def test_the_sample_is_there(up: Up) -> None:
    async with up.connect() as shop:
        assert (await shop.query(GetUserRequest(user_id="ada"))).email == "ada@example.com"
        assert (await shop.query(GetProductRequest(product_id="tea"))).product_id == "tea"
        assert (await shop.query(GetOrderRequest(order_id="order-1"))).customer_id == "ada"


def test_every_shown_call_works_as_a_shell_command(up: Up) -> None:
    assert len(up.calls) >= 5
    for call in up.calls:
        for _ in range(2):
            done = subprocess.run(call, shell=True, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
            assert done.returncode == 0, f"{call}\n{done.stderr}"
            assert json.loads(done.stdout), call


def test_only_changes_of_state_are_printed(up: Up) -> None:
    changes = [line for line in up.lines if line.startswith("projection ")]
    assert len(changes) == len(set(changes))


async def test_status_shows_every_projection(up: Up) -> None:
    def all_running() -> bool:
        done = diptych("status", *up.status_options)
        assert done.returncode == 0, done.stderr
        return set(names) <= set(re.findall(r"^(\w+) +RUNNING", done.stdout, re.MULTILINE))

    names = ("users", "products", "orders", "analytics", "processes")
    await eventually(all_running)  # A test before this one may have killed a server.
    told = json.loads(diptych("status", "--json", *up.status_options).stdout)
    assert {each["name"] for each in told["projections"]} == set(names)


def test_events_are_printed_as_lines_of_json(up: Up) -> None:
    address = up.addresses["command-server"]
    done = diptych("events", "--commands", address)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [int(event["position"]) for event in events] == list(range(1, len(events) + 1))
    assert events[0]["event"]["@type"].endswith("/shop.v1.UserRegistered")
    assert events[0]["event"]["email"] == "ada@example.com"

    after = diptych("events", "--commands", address, "--after", str(len(events) - 1)).stdout.splitlines()
    assert [json.loads(line) for line in after] == events[-1:]
    some = diptych("events", "--commands", address, "--types", "shop.v1.ProductCreated").stdout.splitlines()
    assert {json.loads(line)["aggregate"]["type"] for line in some} == {"product"}

    unknown = diptych("events", "--commands", address, "--domain", "nobody")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "Leave --domain out" in unknown.stderr


async def test_events_can_be_followed_until_a_signal(up: Up) -> None:
    address = up.addresses["command-server"]
    log = up.data.with_name("follow.log")
    following = Program(["-m", "diptych.cli", "events", "--commands", address, "--follow"], log=log)
    following.spawn()
    async with up.connect() as shop:
        await shop.execute(RegisterUserRequest(user_id="followed", email="followed@example.com"))
    await asyncio.to_thread(following.wait_for_line, lambda line: '"followed@example.com"' in line)
    following.signal(signal.SIGINT)
    assert following.wait() == 0
    assert following.logged() == ""


def test_events_names_a_type_that_does_not_exist(up: Up) -> None:
    done = diptych("events", "--commands", up.addresses["command-server"], "--types", "shop.v1.Nonsense")
    assert done.returncode == 1
    assert "shop.v1.Nonsense" in done.stderr
    close = diptych("events", "--commands", up.addresses["command-server"], "--types", "shop.v1.UserRegisterd")
    assert "Did you mean shop.v1.UserRegistered?" in close.stderr
    assert "Traceback" not in done.stderr


def test_a_mistyped_projection_or_view_is_answered_with_a_similar_name(up: Up) -> None:
    projector, query = f"--projector={up.addresses['projector']}", f"--query={up.addresses['query-server']}"
    for words in (("pause", "user"), ("rebuild", "user"), ("parked", "list", "user")):
        done = diptych(*words, projector)
        assert (done.returncode, "Did you mean users?" in done.stderr) == (1, True), done.stderr
    done = diptych("watch", "usres", query)
    assert (done.returncode, "Did you mean users?" in done.stderr) == (1, True), done.stderr


@pytest.mark.parametrize("name", SERVERS)
async def test_a_killed_server_is_named_and_restarted_on_its_port(up: Up, name: str) -> None:
    before = up.children[name]
    printed = len(up.lines)
    os.kill(before, signal.SIGKILL)
    await asyncio.to_thread(up.wait_for_line, lambda line: f"{name} was killed by SIGKILL" in line, after=printed)
    await asyncio.to_thread(up.wait_for_line, lambda line: f"{name} is serving again" in line, after=printed)
    assert up.children[name] != before
    async with up.connect() as shop:
        answer = await shop.execute(RegisterUserRequest(user_id=f"after-{name}", email=f"{name}@example.com"))
        user = await shop.query(GetUserRequest(user_id=f"after-{name}"), token=answer.result.token)
        assert user.email == f"{name}@example.com"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_stops_all_with_status_0_and_the_next_start_continues(
    number: signal.Signals, tmp_path: Path
) -> None:
    with started(tmp_path / "data") as up:
        async with up.connect() as shop:
            answer = await shop.execute(RegisterUserRequest(user_id="kept", email="kept@example.com"))
        head = Token.parse(answer.result.token).position
        children = up.children
        assert set(children) == set(SERVERS)
        asked = time.monotonic()
        up.signal(number)
        assert up.wait() == 0
        assert time.monotonic() - asked < 5
        await asyncio.to_thread(
            up.wait_for_line, lambda line: line.startswith(f"stopped, data in {up.data}, run `") and "to go on" in line
        )
        assert not set(children.values()) & set(processes())
        assert up.logged() == ""

        up.start()
        assert await up.head() == head
        assert len([line for line in up.lines if line.startswith("Loaded the sample")]) == 1
        async with up.connect() as shop:
            assert (await shop.query(GetUserRequest(user_id="kept"))).email == "kept@example.com"


def test_a_reader_of_the_output_that_ends_stops_all_without_a_traceback(tmp_path: Path) -> None:
    addresses = " ".join(f"--{name}-address=127.0.0.1:0" for name in ("command", "query", "projector"))
    command = f"{sys.executable} -m diptych.cli up --empty --data={tmp_path / 'data'} {addresses} | head -1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)
    assert done.stderr.startswith(f"diptych up: stopped, data in {tmp_path / 'data'}, run `")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["status", "status --watch --every=0.1", "events", "watch users", "processes"])
def test_bug_reader_of_the_output_that_ended_left_a_traceback(up: Up, command: str) -> None:
    words = {"events": ("--commands",), "processes": ("--commands",), "watch": ("--query",)}
    options = [
        option
        for option in up.status_options
        if option.partition("=")[0] in words.get(command.split(maxsplit=1)[0], ("--commands", "--query", "--projector"))
    ]
    line = f"{sys.executable} -m diptych.cli {command} {' '.join(options)} | true"
    done = subprocess.run(line, shell=True, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert "Traceback" not in done.stderr
    assert "Error" not in done.stderr


async def test_servers_do_not_outlive_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    with started(tmp_path / "data", "--empty") as up:
        children = set(up.children.values())
        up.kill()
        await eventually(lambda: not children & set(processes()))


def test_the_library_of_the_checkout_is_served_from_its_folder(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "domain.md").read_text()
    assert "cd tests/library_domain\ndiptych up --domain library\n" in guide
    addresses = " ".join(f"--{name}-address=127.0.0.1:0" for name in ("command", "query", "projector"))
    up = f"{sys.executable} -P -m diptych.cli up --domain library --data={tmp_path / 'data'} {addresses}"
    with Program(
        ["-c", f"cd tests/library_domain && exec {up}"],
        log=tmp_path / "up.log",
        env={"PYTHONPATH": str(ROOT)},
        executable="bash",
    ) as program:
        program.spawn()
        program.wait_for_line(lambda line: line.startswith("diptych up ready "))
        assert f"from {ROOT / 'tests' / 'library_domain' / 'library'}" in program.lines[0]
        assert program.stop() == 0


async def test_empty_loads_no_sample(tmp_path: Path) -> None:
    with started(tmp_path / "data", "--empty") as up:
        assert await up.head() == 0
        async with up.connect() as shop:
            with pytest.raises(CallRefused) as refused:
                await shop.query(GetUserRequest(user_id="ada"))
            assert refused.value.reason == "USER_NOT_FOUND"


async def test_an_interrupted_sample_is_completed(tmp_path: Path) -> None:
    with started(tmp_path / "data", "--empty") as up:
        assert up.stop() == 0
    (tmp_path / "data" / "sample.unfinished").touch()
    with started(tmp_path / "data") as up:
        head = await up.head()
        assert head > 0
        assert up.stop() == 0
    (tmp_path / "data" / "sample.unfinished").touch()
    with started(tmp_path / "data") as up:
        assert await up.head() == head
        assert not (tmp_path / "data" / "sample.unfinished").exists()


def test_a_port_in_use_is_named_with_status_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        done = diptych("up", f"--data={tmp_path / 'data'}", "--command-address", address)
    assert done.returncode == 1
    assert f"Cannot listen on {address}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_cannot_start_ends_all_with_its_log(tmp_path: Path) -> None:
    up = Up(tmp_path / "data", "--domain=nobody")
    up.spawn()
    assert up.wait() == 1
    assert re.search(r"ended with status 1 before it was healthy:\n.*nobody", up.logged())
    assert "Traceback" not in up.logged()


def test_a_folder_in_use_is_named(up: Up) -> None:
    second = Up(up.data, "--empty")
    second.log = up.data.with_name("second.log")
    second.spawn()
    assert second.wait() == 1
    # Either of the two servers with a file may fail first.
    holder = re.search(r"is in use by another process \(pid=(\d+) address=", second.logged())
    assert holder is not None, second.logged()
    assert int(holder[1]) in (up.children["command-server"], up.children["projector"])
    assert set(up.children) == set(SERVERS)
