"""Loading of a domain: its package, its origin and the errors of a package that has none."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import library
from diptych.domain.errors import DomainError
from diptych.domain.loading import LoadedDomain, load
from tests.support.sources import ROOT

DOMAIN = "from diptych import Domain\ndomain = Domain('{name}', aggregates=[], projections=[])\n"

CONTRACTS = """
from google.protobuf import descriptor_pb2, descriptor_pool

file = descriptor_pb2.FileDescriptorProto(name="{name}/v1/services.proto", package="{name}.v1", syntax="proto3")
file.service.add(name="CommandService")
file.service.add(name="QueryService")
descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
"""

Write = Callable[[Path, str, str], None]


@pytest.fixture
def write_package(tmp_path: Path) -> Iterator[Write]:
    """Write Python packages under `tmp_path`, and unload them afterwards."""
    before = set(sys.modules)

    def write(folder: Path, name: str, text: str) -> None:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(text)

    yield write
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of installed packages on the import path."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the test."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def write_domain(write_package: Write, folder: Path, name: str) -> None:
    """Write a domain without rpcs."""
    write_package(folder, name, DOMAIN.format(name=name))
    write_package(folder / name, "v1", "")
    (folder / name / "v1" / "services_pb2.py").write_text(CONTRACTS.format(name=name))


def install(folder: Path, name: str, version: str, *, record: str = "", direct_url: str = "") -> None:
    """Write the metadata of a distribution."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text(record)
    if direct_url:
        (info / "direct_url.json").write_text(direct_url)


def editable_url(project: Path) -> str:
    """Return the direct_url.json of an editable installation."""
    return json.dumps({"url": project.as_uri(), "dir_info": {"editable": True}})


def test_load_returns_the_domains_of_this_repository() -> None:
    shop = load("shop")
    assert (shop.command_service, shop.query_service) == ("shop.v1.CommandService", "shop.v1.QueryService")
    assert {"users", "user_summaries", "products", "orders", "order_summaries"} <= set(shop.domain.views)
    assert set(shop.domain.projections) == {"users", "products", "orders", "analytics", "processes"}
    loaded = load("library")
    assert loaded.domain is library.domain
    assert loaded.commands["library.v1.BorrowCopyRequest"].name == "BorrowCopy"
    assert set(loaded.codecs) == {"member", "copy", "reservation"}


def test_loaded_domain_has_the_name_and_the_path_of_its_package() -> None:
    loaded = load("shop")
    assert (loaded.name, loaded.path) == ("shop", ROOT / "shop")


def test_domain_without_a_package_has_neither_path_nor_version() -> None:
    loaded = LoadedDomain(library.domain)
    assert (loaded.name, loaded.path, loaded.version) == ("library", None, None)
    assert loaded.description == {
        "domain": "library",
        "domain_path": "no package",
        "domain_version": "not installed",
    }


def test_domain_in_the_working_directory_wins_over_an_installed_one(
    write_package: Write, installed: Path, working_directory: Path
) -> None:
    write_domain(write_package, installed, "twofold_domain")
    install(installed, "twofold", "1.2.3", record="twofold_domain/__init__.py,,\n")
    write_domain(write_package, working_directory, "twofold_domain")
    before = list(sys.path)
    loaded = load("twofold_domain")
    assert (loaded.path, loaded.version) == (working_directory / "twofold_domain", None)
    assert sys.path == before


@pytest.mark.usefixtures("working_directory")
def test_installed_domain_has_the_version_of_its_distribution(write_package: Write, installed: Path) -> None:
    write_domain(write_package, installed, "installed_domain")
    install(installed, "other", "9.9.9", record="other_domain/__init__.py,,\n")
    install(installed, "any-name", "1.2.3", record="installed_domain/__init__.py,,\n")
    loaded = load("installed_domain")
    assert (loaded.path, loaded.version) == (installed / "installed_domain", "1.2.3")
    assert loaded.description == {
        "domain": "installed_domain",
        "domain_path": str(installed / "installed_domain"),
        "domain_version": "1.2.3",
    }


def test_editable_domain_has_the_version_of_its_distribution(
    write_package: Write, installed: Path, working_directory: Path
) -> None:
    project = working_directory / "project"
    write_domain(write_package, project, "editable_domain")
    (project / "pyproject.toml").touch()
    install(installed, "outer", "9.9.9", direct_url=editable_url(working_directory))
    install(installed, "editable", "1.2.3", direct_url=editable_url(project))
    sys.path.insert(0, str(project))
    try:
        loaded = load("editable_domain")
    finally:
        sys.path.remove(str(project))
    assert (loaded.path, loaded.version) == (project / "editable_domain", "1.2.3")


def test_load_refuses_a_package_that_does_not_exist() -> None:
    with pytest.raises(DomainError, match="There is no Python package no_such_domain"):
        load("no_such_domain")


def test_load_refuses_a_package_without_a_domain(write_package: Write, installed: Path) -> None:
    write_package(installed, "empty_domain", "domain = 3\n")
    with pytest.raises(DomainError, match="Package empty_domain has no `domain`"):
        load("empty_domain")


def test_load_refuses_a_domain_of_another_name(write_package: Write, installed: Path) -> None:
    write_package(installed, "misnamed_domain", DOMAIN.format(name="other"))
    with pytest.raises(DomainError, match="Package misnamed_domain holds the domain other"):
        load("misnamed_domain")


def test_load_refuses_a_domain_without_generated_contracts(write_package: Write, installed: Path) -> None:
    write_package(installed, "bare_domain", DOMAIN.format(name="bare_domain"))
    with pytest.raises(DomainError, match="The contracts of bare_domain have not been generated"):
        load("bare_domain")


def test_wrong_declaration_is_named_with_file_and_line(write_package: Write, working_directory: Path) -> None:
    text = (
        "from diptych import Projection\n"
        "from google.protobuf.duration_pb2 import Duration\n"
        "view = Projection('p', version=1).view('balances', Duration)\n"
        "view.column('balance', lambda row: row.balance)\n"
    )
    write_package(working_directory, "wrong_column", text)
    with pytest.raises(DomainError, match=r"^wrong_column/__init__\.py:4: Column balance of view balances fails on an"):
        load("wrong_column")


def test_import_of_contracts_that_are_not_generated_names_the_command(
    write_package: Write, working_directory: Path
) -> None:
    write_package(working_directory, "early_import", "import early_import.v1.commands_pb2\n")
    with pytest.raises(DomainError, match=r"have not been generated: .* Run `diptych generate PROTOS --out DIR`"):
        load("early_import")


def test_error_of_the_authors_own_code_is_left_as_it_is(write_package: Write, working_directory: Path) -> None:
    write_package(working_directory, "own_error", "int('x')\n")
    with pytest.raises(ValueError, match="invalid literal"):
        load("own_error")
