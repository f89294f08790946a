"""Imports point down through the layers. The test reads every import of every module, those given as strings too."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.sources import ROOT, Module, modules

SERVERS = ("command_server", "projector", "query_server")

LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"diptych.v1", "diptych.internal", "diptych.buf"}),  # Generated from the contracts.
    frozenset({"diptych.domain"}),
    frozenset({"diptych.contract"}),
    frozenset({"diptych.server"}),
    frozenset({"diptych.storage", "diptych.client", "diptych.testing"}),
    frozenset(SERVERS),
    frozenset({"diptych.cli"}),
)
"""Layers from bottom to top. A part imports itself and the layers below it, never a neighbour."""

PUBLIC = (
    *("diptych.domain", "diptych.contract", "diptych.client", "diptych.testing"),
    *("diptych.v1", "diptych.buf"),
)
"""Packages that a domain may import, beside the names that `diptych` itself exports."""

NAMES_GRPC_AIO = (
    "diptych/server/grpc_transport.py",  # Serves.
    "diptych/server/channels.py",  # Opens channels.
    *("diptych/client/", "shop/payments/"),
)
"""Files and folders that may name `grpc.aio`. `shop/payments` stands for a service of somebody else."""

NAMES_SQLITE = ("diptych/storage/", "command_server/store/", "projector/store/", "command_server/maintenance/")
"""Folders that may name `sqlite3`. Maintenance copies and checks the files of SQLite themselves."""

IMPORTS_BY_NAME = (
    "diptych/domain/loading.py",  # A domain and its contracts.
    "diptych/contract/generate.py",  # Packages that hold .proto files.
    "diptych/client/",  # The contracts of a domain.
    *("diptych/cli/domain_source.py", "diptych/cli/sample.py"),  # A domain and its sample.
    "shop/ports.py",  # The adapter of a port, by its setting.
    "shop/hatch_build.py",  # The compiler of contracts, by its path.
)
"""Folders and files that may import a module by a name that is not in their text."""

DOES_IO = frozenset(
    "aiosqlite asyncio asyncpg concurrent ftplib glob grpc grpc_health grpc_reflection http imaplib io logging "
    "mailbox multiprocessing os pathlib pickle prometheus_client random secrets select selectors shutil signal smtplib "
    "socket socketserver sqlalchemy sqlite3 ssl structlog subprocess sys tempfile threading time urllib uuid uvloop "
    "rich tenacity typer diptych.client diptych.cli diptych.server diptych.storage ".split()
)
"""Modules that a domain does not need: the engine gives it the time, and it returns values."""

LOADERS = frozenset({"import_module", "__import__", "run_module", "run_path", "find_spec"})


class Import(NamedTuple):
    """One import in a module. `name` is empty if the text does not contain the imported name."""

    name: str
    line: int


@functools.cache
def imports(path: Path, *, at_once: bool = False) -> tuple[Import, ...]:
    """Return all imports of a module, or with `at_once` those that run when the module is imported."""
    return tuple(_imports(path, at_once))


def _imports(path: Path, at_once: bool) -> Iterator[Import]:
    tree = ast.parse(path.read_text("utf-8"), str(path))
    for node in tree.body if at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            yield from (Import(f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and _function_name(node.func) in LOADERS:
            argument = node.args[0] if node.args else None
            literal = isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            yield Import(str(argument.value) if literal else "", node.lineno)  # type: ignore[union-attr]


def _function_name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


@functools.cache
def module_of(name: str) -> str:
    """Return the module of this repository that an import of a name loads; empty if it is none of ours."""
    while name and not (_exists(name) or name.endswith(("_pb2", "_pb2_grpc"))):
        name = name.rpartition(".")[0]
    return name


def _exists(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def part_of(name: str) -> str:
    """Return the part of the engine that a name is in, such as `diptych.client`; empty for `diptych` itself."""
    for part in (part for layer in LAYERS for part in layer):
        if name == part or name.startswith(f"{part}."):
            return part
    return ""


def rank(part: str) -> int:
    """Return the number of a part's layer, from the bottom."""
    return next(number for number, layer in enumerate(LAYERS) if part in layer)


def is_below(part: str, importer: str) -> bool:
    """Return True if one part may import another."""
    return part == importer or rank(part) < rank(importer)


def engine() -> tuple[Module, ...]:
    """Return all modules of the engine but `diptych/__init__`, which exports the API of domain authors."""
    return tuple(module for module in modules("diptych", *SERVERS) if module.name != "diptych")


def assert_none(wrong: list[str]) -> None:
    """Fail with all wrong imports, one a line."""
    assert not wrong, "\n".join(sorted(set(wrong)))


def test_every_module_of_the_engine_is_in_a_layer() -> None:
    assert [module.file for module in engine() if not part_of(module.name)] == []


def test_imports_point_down() -> None:
    wrong = []
    for module in engine():
        for name, _ in imports(module.path):
            part, package = part_of(name), name.partition(".")[0]
            upwards = part and not is_below(part, part_of(module.name))
            # The engine imports a name from its own module, not from the API of domain authors.
            if upwards or (package == "diptych" and not part) or package in ("shop", "tests", "benchmarks"):
                wrong.append(f"{module.file} imports {name}")
    assert_none(wrong)


def test_no_module_imports_itself_in_a_circle() -> None:
    ours = modules("diptych", *SERVERS, "shop")
    graph = {module.name: {module_of(name) for name, _ in imports(module.path)} - {"", module.name} for module in ours}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other: {' <- '.join(error.args[1])}")


def test_a_domain_imports_public_packages_only() -> None:
    exported = {f"diptych.{name}" for name in _exported_names()}
    wrong = [
        f"{module.file} imports {name}"
        for module in modules("shop")
        for name, _ in imports(module.path)
        if name.partition(".")[0] in ("diptych", *SERVERS, "tests", "benchmarks")
        and name not in exported
        and not any(name == public or name.startswith(f"{public}.") for public in PUBLIC)
    ]
    assert_none(wrong)


def _exported_names() -> set[str]:
    import diptych

    return set(diptych.__all__)


@pytest.mark.parametrize(("library", "folders"), [("grpc.aio", NAMES_GRPC_AIO), ("sqlite3", NAMES_SQLITE)])
def test_a_library_is_imported_in_its_folders_alone(library: str, folders: tuple[str, ...]) -> None:
    wrong = [
        f"{module.file} imports {name}"
        for module in modules("diptych", *SERVERS, "shop")
        for name, _ in imports(module.path)
        if (name == library or name.startswith(f"{library}.")) and not module.file.startswith(folders)
    ]
    assert_none(wrong)


def test_modules_are_imported_by_a_computed_name_in_few_places() -> None:
    wrong = [
        f"{module.file}:{line}"
        for module in modules("diptych", *SERVERS, "shop")
        for name, line in imports(module.path)
        if not name and not module.file.startswith(IMPORTS_BY_NAME)
    ]
    assert wrong == []


def domain_modules() -> list[Path]:
    """Return the modules of the domain: those of the shop that `import shop` imports.

    Adapters are not among them. They do I/O, and are imported when a port is connected.
    """
    reached: dict[Path, None] = {ROOT / "shop" / "__init__.py": None}
    waiting = list(reached)
    while waiting:
        for name, _ in imports(waiting.pop(), at_once=True):
            if name.partition(".")[0] == "shop" and "_pb2" not in name:
                path = ROOT.joinpath(*module_of(name).split("."))
                for module in (path.with_suffix(".py"), path / "__init__.py"):
                    if module.exists() and module not in reached:
                        reached[module] = None
                        waiting.append(module)
    return sorted(reached)


def test_the_domain_does_no_io() -> None:
    paths = domain_modules()
    names = {path.name for path in paths}
    assert {"users.py", "products.py", "orders.py", "user_views.py", "registration.py", "ports.py"} <= names
    assert not {"email_smtp.py", "payment_provider.py"} & names
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in paths
        for name, line in imports(path)
        if name.partition(".")[0] in DOES_IO or name.split(".")[:2] in [each.split(".") for each in DOES_IO]
    ]
    assert wrong == []


def test_the_servers_contain_no_name_of_a_domain() -> None:
    # A server loads a domain by name; only a default setting contains `shop`.
    named = [
        f"{module.file}:{node.lineno}"
        for module in modules(*SERVERS)
        for node in ast.walk(ast.parse(module.path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("shop")
    ]
    assert named == []


def test_every_kind_of_import_is_read(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(
        "import shop.users\n"
        "def late():\n    from command_server import writer\n"
        "if TYPE_CHECKING:\n    from projector import feed\n"
        "importlib.import_module('query_server.server')\n"
        "runpy.run_module(name)\n"
    )
    assert set(imports(module)) == {
        Import("shop.users", 1),
        Import("command_server.writer", 3),
        Import("projector.feed", 5),
        Import("query_server.server", 6),
        Import("", 7),
    }
    assert list(imports(module, at_once=True)) == [("shop.users", 1)]


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("diptych.server", "diptych.contract", True),
        ("diptych.contract", "diptych.server", False),
        ("diptych.storage", "diptych.client", False),
        ("command_server", "projector", False),
        ("projector", "diptych.storage", True),
        ("projector", "diptych.cli", False),
        ("diptych.cli", "query_server", True),
    ],
)
def test_a_part_imports_the_layers_below_it(importer: str, imported: str, allowed: bool) -> None:
    assert is_below(imported, importer) is allowed
