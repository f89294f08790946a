"""The image and the compose file, without an engine to run them.

Linters check both files. Then plain processes follow them: the wheels are built from the build context and installed
with their run-time dependencies only. Each service runs with exactly its command, its environment and a user that owns
only the data, in the order and by the health checks of the file. The tests change only ports, folders and host names.
"""

from __future__ import annotations

import asyncio
import fnmatch
import grp
import json
import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from graphlib import TopologicalSorter
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from packaging.requirements import Requirement
from ruamel.yaml import YAML

from diptych.cli.ports import Reservation
from diptych.client import Connection
from diptych.server.leash import LEASH
from shop.v1.user_commands_pb2 import RegisterUserRequest
from shop.v1.user_queries_pb2 import GetUserRequest
from tests.support.programs import ROOT

COMPOSE: dict[str, Any] = YAML(typ="safe").load(ROOT / "docker-compose.yml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DATA = "/data"
TOOLS = Path(sys.executable).parent


class Instruction(NamedTuple):
    word: str
    value: str


def instructions(dockerfile: str) -> list[Instruction]:
    """Return the instructions of a Dockerfile, each in one line."""
    lines = re.sub(r"^#.*\n", "", dockerfile, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [Instruction(*line.split(maxsplit=1)) for line in lines if line.strip()]


def runtime_stage() -> list[Instruction]:
    """Return the instructions of the last stage, which makes the image."""
    found = instructions((ROOT / "Dockerfile").read_text())
    last = max(number for number, instruction in enumerate(found) if instruction.word == "FROM")
    return found[last:]


def single_value(word: str) -> str:
    """Return the value of an instruction that the last stage has once."""
    (value,) = (instruction.value for instruction in runtime_stage() if instruction.word == word)
    return value


def build_context() -> Iterator[Path]:
    """Yield the files of the build context by the rules of `.dockerignore`."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    named = [ROOT / line[1:] for line in lines if line.startswith("!")]
    left_out = [line.removeprefix("**/") for line in lines[1:] if not line.startswith("!")]
    assert not [name for name in left_out if "/" in name], "This reads names at any depth, and no other patterns."
    for place in named:
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            parts = path.relative_to(ROOT).parts
            if path.is_file() and not any(fnmatch.fnmatch(part, name) for part in parts for name in left_out):
                yield path.relative_to(ROOT)


def runtime_distributions() -> dict[str, metadata.Distribution]:
    """Return the installed distributions that Diptych needs at run time."""
    found: dict[str, metadata.Distribution] = {}
    shop = tomllib.loads((ROOT / "shop" / "pyproject.toml").read_text())["project"]["dependencies"]
    open_requirements = [(Requirement(line), "") for line in [*(metadata.requires("diptych") or ()), *shop]]
    resolved: set[tuple[str, str]] = set()
    while open_requirements:
        requirement, extra = open_requirements.pop()
        if requirement.name == "diptych" or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        found[requirement.name] = distribution = metadata.distribution(requirement.name)
        for extra in {"", *requirement.extras} - {extra for name, extra in resolved if name == requirement.name}:
            resolved.add((requirement.name, extra))
            open_requirements += [(Requirement(line), extra) for line in distribution.requires or ()]
    return found


def python_for_all() -> Path | None:
    """Return a Python of this version that any user can run; that of the tests may be in a home folder."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for path in (Path(sys.base_prefix, "bin", name), Path("/usr/local/bin", name), Path("/usr/bin", name)):
        if path.exists() and all(each.stat().st_mode & 0o001 for each in (path.resolve(), *path.resolve().parents)):
            return path
    return None


def run(*arguments: str | Path) -> None:
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"


class Image:
    """Content of the image in a folder that any user can read, and the image's user."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = folder / "opt" / "diptych"
        self.data = folder / "data"
        python = python_for_all()
        self.python = python or Path(sys.base_prefix, "bin", "python3")
        self.user: dict[str, Any] = {}
        self.run_as_tester_cause = ""
        """Cause for processes to run as the user of the tests; empty if they do not."""
        if os.geteuid() != 0:
            self.run_as_tester_cause = "Only root can run a process as another user."
        elif python is None:
            self.run_as_tester_cause = "There is no Python of the tests' version here that any user can run."
        else:
            # Nobody has this number, so whatever is not open to everybody is closed to this user.
            taken = {entry.pw_uid for entry in pwd.getpwall()} | {entry.gr_gid for entry in grp.getgrall()}
            uid = next(number for number in range(10_001, 20_000) if number not in taken)
            self.user = {"user": uid, "group": uid, "extra_groups": ()}

    def build(self) -> None:
        """Run the steps of the Dockerfile, with installed distributions instead of those of a registry."""
        self.folder.chmod(0o755)
        for path in build_context():
            target = self.folder / "build" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / path, target)
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        wheels = self.folder / "wheels"
        build = self.folder / "build"
        run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, build, build / "shop")
        run(self.python, "-m", "venv", "--without-pip", self.environment)
        (packages,) = self.environment.glob("lib/python*/site-packages")
        for distribution in runtime_distributions().values():
            for file in distribution.files or ():
                if ".." not in file.parts and file.suffix != ".pyc":
                    target = packages / file
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(str(distribution.locate_file(file)), target)
        built = sorted(wheels.glob("diptych*.whl"))
        assert len(built) == 2
        run(*pip, "--python", self.environment / "bin" / "python", "install", "--no-deps", "--no-index", *built)
        self.data.mkdir(mode=0o700)
        if self.user:
            os.chown(self.data, self.user["user"], self.user["group"])

    def popen(self, arguments: list[str], env: Mapping[str, str], **options: Any) -> subprocess.Popen[str]:
        """Start a process as the image's user, with this environment and no more."""
        return subprocess.Popen(
            arguments, cwd=single_value("WORKDIR"), env=env, text=True, start_new_session=True, **self.user, **options
        )


class Container:
    """A service of the compose file as a plain process."""

    def __init__(self, name: str, image: Image, adapted: Callable[[str], str]) -> None:
        self.name = name
        self._image = image
        self._service = SERVICES[name]
        self._adapted = adapted
        path = single_value("ENV").removeprefix("PATH=").replace("$PATH", "/usr/bin:/bin")
        settings = {key: adapted(value) for key, value in self._service["environment"].items()}
        self._env = {"PATH": adapted(path), "HOME": "/nonexistent", **settings}
        self._log = image.folder / f"{name}.log"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the service and wait until its health check succeeds."""
        command = [*json.loads(single_value("ENTRYPOINT")), *self._service["command"]]
        with self._log.open("w") as log:
            self._process = self._image.popen(
                [self._adapted(argument) for argument in command],
                self._env | {LEASH: "1"},  # When the test process dies, so does this one.
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        check = self._service["healthcheck"]
        seconds = duration(check["start_period"]) + check["retries"] * duration(check["interval"])
        deadline = time.monotonic() + seconds
        while (done := self.check_health()).returncode != 0:
            assert self._process.poll() is None, f"{self.name} has ended:\n{self._log.read_text()}"
            assert time.monotonic() < deadline, f"{self.name}: {done.stderr}\n{self._log.read_text()}"
            time.sleep(0.1)

    def check_health(self) -> subprocess.CompletedProcess[str]:
        """Run the health check as it is declared, once."""
        check = self._service["healthcheck"]
        kind, *command = check["test"]
        assert kind == "CMD"
        return self.exec(command, duration(check["timeout"]))

    def exec(
        self, arguments: list[str], seconds: float, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the container, as `docker compose exec` would."""
        process = self._image.popen(
            [self._adapted(argument) for argument in arguments],
            self._env | dict(env or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            out, err = process.communicate(timeout=seconds)
        finally:
            process.kill()
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def stop(self) -> int:
        """Stop the service as an engine would; return its exit status."""
        assert self._process is not None, "not started"
        self._process.send_signal(signal.Signals[single_value("STOPSIGNAL")])
        return self._process.wait(duration(self._service["stop_grace_period"]))

    def kill(self) -> None:
        """End the service, if it still runs."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


def duration(text: str) -> float:
    assert re.fullmatch(r"\d+s", text), text
    return float(text[:-1])


class Composition:
    """All services of the compose file, as plain processes on ports of their own."""

    def __init__(self, image: Image) -> None:
        published = [port.split(":")[-1] for service in SERVICES.values() for port in service["ports"]]
        assert len(published) == len(set(published))
        self._image = image
        self._reservations = {port: Reservation("0.0.0.0:0") for port in published}
        self.containers = {name: Container(name, image, self._adapted) for name in SERVICES}

    def published(self, port: int | str) -> str:
        """Return the published address of a container's port."""
        return self._adapted(f"127.0.0.1:{port}")

    @property
    def defaults(self) -> dict[str, str]:
        """Environment that gives the command line the addresses of the servers."""
        return {"DIPTYCH_COMMANDS": self.published(50051), "DIPTYCH_QUERY": self.published(50052)}

    def start(self) -> None:
        """Start the services one by one, each when those that it depends on are healthy."""
        order = TopologicalSorter({name: service.get("depends_on", {}) for name, service in SERVICES.items()})
        for name in order.static_order():
            assert self.containers[name].check_health().returncode == 1
            self.containers[name].start()

    def close(self) -> None:
        for container in self.containers.values():
            container.kill()
        for reservation in self._reservations.values():
            reservation.close()

    def _adapted(self, text: str) -> str:
        def address(match: re.Match[str]) -> str:
            host = "127.0.0.1" if match[1] in SERVICES else match[1]
            return f"{host}:{self._reservations[match[2]].address.rpartition(':')[2]}"

        hosts = "|".join(re.escape(host) for host in ("0.0.0.0", "127.0.0.1", *SERVICES))
        text = re.sub(rf"\b({hosts}):(\d+)\b", address, text)
        text = text.replace("/opt/diptych", str(self._image.environment))
        return text.replace(f"{DATA}/", f"{self._image.data}/")


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    # Not in pytest's own folder, which is closed to all other users.
    with tempfile.TemporaryDirectory(prefix="diptych-image-") as folder:
        image = Image(Path(folder))
        image.build()
        yield image


@pytest.fixture
def running(image: Image) -> Iterator[Composition]:
    composition = Composition(image)
    try:
        composition.start()
        yield composition
    finally:
        composition.close()


def test_the_composed_services_take_a_write_and_read_it_back(image: Image, running: Composition) -> None:
    async def write_and_read() -> str:
        async with Connection(running.published(50051), running.published(50052)) as shop:
            answer = await shop.execute(RegisterUserRequest(user_id="ada", email="ada@example.com"))
            user = await shop.query(GetUserRequest(user_id="ada"), token=answer.result.token)
            return str(user.email)

    assert asyncio.run(write_and_read()) == "ada@example.com"

    for service in SERVICES.values():
        port = service["environment"]["DIPTYCH_METRICS_ADDRESS"].rpartition(":")[2]
        with urllib.request.urlopen(f"http://{running.published(port)}/metrics", timeout=10) as metrics:
            assert b"# TYPE " in metrics.read()

    commands = re.findall(r"^docker compose exec (\S+) (.*)$", (ROOT / "docs" / "running.md").read_text(), re.MULTILINE)
    assert commands, "docs/running.md shows nothing to run in a container."
    for name, command in commands:
        done = running.containers[name].exec(shlex.split(command), 30, running.defaults)
        assert (done.returncode, done.stderr) == (0, ""), f"{command}\n{done.stdout}\n{done.stderr}"

    projector = running.containers["projector"]
    for name, status in (("shop.v1.QueryService", 1), ("diptych.projection.users", 0), ("nobody.v1.Service", 1)):
        done = projector.exec(["diptych", "health", "--service", name], 10)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr

    for name in reversed(SERVICES):
        assert running.containers[name].stop() == 0
        assert running.containers[name].check_health().returncode == 1
    assert {"log.db", "read.db"} <= {path.name for path in image.data.iterdir()}
    assert {path.stat().st_uid for path in image.data.iterdir()} == {image.user.get("user", os.geteuid())}


def test_the_user_can_write_to_the_data_and_nothing_else(image: Image) -> None:
    if image.run_as_tester_cause:
        pytest.skip(image.run_as_tester_cause)
    list_writable = (
        "import os, sys\n"
        "for folder, _, names in os.walk(sys.argv[1]):\n"
        "    for path in (folder, *(os.path.join(folder, name) for name in names)):\n"
        "        if os.access(path, os.W_OK):\n"
        "            print(path)\n"
    )
    python = str(image.environment / "bin" / "python")
    process = image.popen([python, "-c", list_writable, str(image.folder)], {}, stdout=subprocess.PIPE)
    writable = {Path(line) for line in process.communicate(timeout=30)[0].splitlines()}
    assert process.returncode == 0
    assert {path for path in writable if image.data not in path.parents} == {image.data}


def test_the_image_runs_as_a_user_that_owns_the_data_alone() -> None:
    user, group = single_value("USER").split(":")
    assert int(user) > 0
    assert int(group) > 0
    script = " ".join(instruction.value for instruction in runtime_stage() if instruction.word == "RUN")
    assert re.findall(r"--owner=(\S+) --group=(\S+) --mode=0700 (\S+)", script) == [(user, group, DATA)]
    # Copied files belong to root unless the Dockerfile names another owner.
    assert not [value for word, value in runtime_stage() if word in ("COPY", "ADD") and "--ch" in value]
    assert single_value("WORKDIR") == "/"


def test_the_image_alone_listens_nowhere_beyond_loopback() -> None:
    image = " ".join(value for _, value in runtime_stage())
    assert "insecure" not in image
    assert "DIPTYCH_" not in image


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["image"] == SERVICES["command-server"]["image"]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["volumes"] == [f"{next(iter(COMPOSE['volumes']))}:{DATA}"]
    assert not {"user", "cap_add", "privileged", "network_mode", "pid", "ipc", "devices"} & set(service)
    for port in service["ports"]:
        assert re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port)
    for needed in service.get("depends_on", {}).values():
        assert needed == {"condition": "service_healthy"}


def test_the_dockerfile_passes_its_linter() -> None:
    run(TOOLS / "hadolint", "--failure-threshold", "style", "Dockerfile")


def test_the_compose_file_is_one() -> None:
    run(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")
    volumes = {volume.split(":")[0] for service in SERVICES.values() for volume in service["volumes"]}
    assert volumes == set(COMPOSE["volumes"])
    # Schemas know nothing of names that must exist; a cycle would raise.
    order = TopologicalSorter({name: service.get("depends_on", {}) for name, service in SERVICES.items()})
    assert set(order.static_order()) == set(SERVICES)
