"""The wheels of the engine and of the shop, installed into environments without the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pb2

from tests.integration.test_containers import build_context
from tests.support.sources import ROOT

PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
ENGINE = {"diptych", "command_server", "projector", "query_server"}


def run(*arguments: str | Path, cwd: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a program in an environment that leads to no checkout."""
    env = {"PATH": "/usr/bin:/bin", "HOME": str(cwd)}
    done = subprocess.run(arguments, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build both wheels from a copy of their sources; return them by the names of their distributions."""
    folder = tmp_path_factory.mktemp("wheels")
    for path in build_context():
        target = folder / "build" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, target)
    options = ("--no-deps", "--no-build-isolation", f"--wheel-dir={folder}")
    run(*PIP, "wheel", *options, folder / "build", folder / "build" / "shop", cwd=folder)
    return {path.name.split("-")[0]: path for path in folder.glob("*.whl")}


def environment(folder: Path, *wheels: Path) -> Path:
    """Make an environment with these wheels and the dependencies that the tests run with; return its programs."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    (packages,) = folder.glob("lib/python*/site-packages")
    # Only its own folder: a .pth file in there, such as that of an editable installation, has no effect here.
    (packages / "dependencies.pth").write_text(f"{Path(grpc.__file__).parents[1]}\n")
    run(
        *PIP,
        f"--python={folder}/bin/python",
        "install",
        "--no-deps",
        "--no-index",
        "--ignore-installed",
        *wheels,
        cwd=folder,
    )
    return folder / "bin"


def names_in(wheel: Path) -> set[str]:
    """Return the names of the packages in a wheel."""
    with zipfile.ZipFile(wheel) as content:
        return {name.split("/")[0] for name in content.namelist() if ".dist-info" not in name}


def requirements_of(wheel: Path) -> list[str]:
    """Return the names of the distributions that a wheel requires at run time."""
    with zipfile.ZipFile(wheel) as content:
        (metadata,) = (name for name in content.namelist() if name.endswith(".dist-info/METADATA"))
        lines = content.read(metadata).decode().splitlines()
    return [line.split()[1] for line in lines if line.startswith("Requires-Dist: ") and "extra ==" not in line]


def test_each_wheel_contains_its_packages_and_requires_its_libraries(wheels: dict[str, Path]) -> None:
    assert set(wheels) == {"diptych", "diptych_shop"}
    assert names_in(wheels["diptych"]) == ENGINE
    assert names_in(wheels["diptych_shop"]) == {"shop"}
    assert not [name for name in requirements_of(wheels["diptych"]) if name.startswith("aiosmtplib")]
    assert requirements_of(wheels["diptych_shop"]) == ["aiosmtplib>=4", "diptych>=0.1"]


def test_both_wheels_serve_the_shop_outside_of_the_checkout(wheels: dict[str, Path], tmp_path: Path) -> None:
    programs = environment(tmp_path / "venv", *wheels.values())
    assert "query-server" in run(programs / "diptych", "--help", cwd=tmp_path).stdout
    code = "import diptych, shop; from diptych.domain.loading import load;"
    code += "load('shop'); print(diptych.__file__, shop.__file__)"
    for path in run(programs / "python", "-c", code, cwd=tmp_path).stdout.split():
        assert Path(path).is_relative_to(tmp_path / "venv")
    run(programs / "diptych", "contracts", "--out=all.binpb", cwd=tmp_path)
    files = descriptor_pb2.FileDescriptorSet.FromString((tmp_path / "all.binpb").read_bytes()).file
    assert {"diptych/v1/commands.proto", "shop/v1/users.proto"} <= {file.name for file in files}


def test_the_engine_alone_names_the_domain_that_is_not_installed(wheels: dict[str, Path], tmp_path: Path) -> None:
    programs = environment(tmp_path / "venv", wheels["diptych"])
    arguments = ["--domain=shop", "--address=127.0.0.1:0", f"--log=sqlite:///{tmp_path}/log.db"]
    done = run(programs / "diptych", "command-server", *arguments, cwd=tmp_path, status=1)
    assert "There is no Python package shop" in done.stderr
    assert "pip install diptych-shop" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "log.db").exists()
    done = run(programs / "diptych", "contracts", "--out=all.binpb", cwd=tmp_path, status=1)
    assert "There is no Python package shop." in done.stderr
    run(programs / "diptych", "contracts", "--domain=diptych", "--out=all.binpb", cwd=tmp_path)


def test_the_engine_alone_makes_python_of_the_contracts_of_a_domain(wheels: dict[str, Path], tmp_path: Path) -> None:
    programs = environment(tmp_path / "venv", wheels["diptych"])
    shutil.copytree(ROOT / "tests" / "library_domain" / "protos", tmp_path / "protos")
    done = run(programs / "diptych", "generate", "protos", "--out=src", cwd=tmp_path)
    assert "src/library/v1/events_pb2.py" in done.stdout.split()
    code = "import sys; sys.path.insert(0, 'src');"
    code += "import library.v1.command_service_pb2_grpc as made; print(made.__file__)"
    assert str(tmp_path / "src") in run(programs / "python", "-c", code, cwd=tmp_path).stdout
    folder = Path(run(programs / "diptych", "contracts", "--path", cwd=tmp_path).stdout.strip())
    assert folder.is_relative_to(tmp_path / "venv")
    engine = sorted(path.name for path in (ROOT / "protos" / "diptych" / "v1").glob("*.proto"))
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.proto")) == [
        f"diptych/v1/{name}" for name in engine
    ]
