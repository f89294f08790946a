"""Dependencies of the author's API: no I/O libraries, and nothing of the engine but the generated messages."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.sources import ROOT

IO_LIBRARIES = frozenset({"grpc", "sqlalchemy", "aiosqlite", "sqlite3", "asyncio", "structlog", "prometheus_client"})


def imported(path: Path) -> Iterator[str]:
    """Yield the names of the modules that a module imports, those in functions and type-checking blocks included."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize(
    ("package", "engine"),
    [
        ("domain", ("diptych.domain.", "diptych.v1.")),
        ("testing", ("diptych.testing.", "diptych.domain.", "diptych.contract.", "diptych.v1.")),
    ],
)
def test_package_imports_no_io_library_and_no_higher_layer(package: str, engine: tuple[str, ...]) -> None:
    files = sorted((ROOT / "diptych" / package).glob("*.py"))
    assert len(files) > 5
    wrong = [
        f"{path.name} imports {name}"
        for path in files
        for name in imported(path)
        if name.partition(".")[0] in IO_LIBRARIES or (name.startswith("diptych") and not name.startswith(engine))
    ]
    assert wrong == []
