"""Imports point one way: the shop and the servers import `diptych`, and nothing imports them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVERS = ("command_server", "projector", "query_server")
PACKAGES = (*SERVERS, "diptych", "shop")

DOES_IO = frozenset(
    "aiosqlite asyncio asyncpg concurrent ftplib glob grpc grpc_health grpc_reflection http imaplib io logging "
    "mailbox multiprocessing os pathlib pickle prometheus_client random secrets select selectors shutil signal smtplib "
    "socket socketserver sqlalchemy sqlite3 ssl structlog subprocess sys tempfile threading time urllib uuid uvloop "
    "rich tenacity typer diptych.client diptych.cli diptych.server diptych.storage ".split()
)
"""What a domain has no need of: it is told the time and gives back values."""


def sources(package: str) -> list[Path]:
    """The package's modules that somebody wrote."""
    return sorted(path for path in (ROOT / package).rglob("*.py") if not path.stem.endswith(("_pb2", "_pb2_grpc")))


def imported(path: Path, *, at_once: bool = False) -> Iterator[tuple[str, int]]:
    """The full names that a module imports, with their lines: anywhere in it, or at once, when it is imported."""
    module = ast.parse(path.read_text("utf-8"), str(path))
    for node in module.body if at_once else ast.walk(module):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def wrong_imports(package: str, forbidden: frozenset[str]) -> list[str]:
    """Imports of forbidden top-level packages, as `file:line imports name`."""
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(package)
        for name, line in imported(path)
        if name.partition(".")[0] in forbidden
    ]


@pytest.mark.parametrize("server", SERVERS)
def test_a_server_imports_no_other_server_and_no_domain(server: str) -> None:
    others = frozenset(PACKAGES) - {server, "diptych"}
    assert wrong_imports(server, others | {"tests", "benchmarks"}) == []


def test_diptych_imports_no_server_and_no_domain() -> None:
    assert wrong_imports("diptych", frozenset(PACKAGES) - {"diptych"} | {"tests", "benchmarks"}) == []


def test_the_shop_imports_no_server() -> None:
    assert wrong_imports("shop", frozenset({*SERVERS, "tests", "benchmarks"})) == []


def domain_modules() -> list[Path]:
    """The modules that make up the domain: what `import shop` imports of the shop.

    Adapters are none of them. They do I/O, and are imported when a port is connected.
    """
    found: dict[Path, None] = {ROOT / "shop" / "__init__.py": None}
    waiting = list(found)
    while waiting:
        for name, _ in imported(waiting.pop(), at_once=True):
            if name.partition(".")[0] == "shop" and "_pb2" not in name:
                for each in (name, name.rpartition(".")[0]):  # The module, or the module of what was imported.
                    path = ROOT.joinpath(*each.split("."))
                    for module in (path.with_suffix(".py"), path / "__init__.py"):
                        if module.exists() and module not in found:
                            found[module] = None
                            waiting.append(module)
    return sorted(found)


def test_the_domain_does_no_io() -> None:
    modules = domain_modules()
    names = {path.name for path in modules}
    assert {"users.py", "products.py", "orders.py", "user_views.py", "registration.py", "ports.py"} <= names
    assert not {"email_smtp.py", "payment_provider.py"} & names
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules
        for name, line in imported(path)
        if name.partition(".")[0] in DOES_IO or name.split(".")[:2] in [each.split(".") for each in DOES_IO]
    ]
    assert wrong == []


def test_the_servers_name_their_domain_nowhere() -> None:
    # A domain is loaded by name; a default setting is all that may say `shop`.
    named = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for package in SERVERS
        for path in sources(package)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("shop")
    ]
    assert named == []


def test_an_import_the_wrong_way_is_seen(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("import shop.users\n\ndef late():\n    from command_server import writer\n")
    assert list(imported(module)) == [("shop.users", 1), ("command_server.writer", 4)]
    assert list(imported(module, at_once=True)) == [("shop.users", 1)]
