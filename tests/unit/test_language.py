"""Plain language: the openings of docstrings, and the names of functions, classes, attributes and arguments."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.support.sources import Module, modules

PACKAGES = ("diptych", "command_server", "projector", "query_server", "shop", "benchmarks", "tests")

OPENINGS = frozenset("what who whoever whether how so as nobody somebody".split())
"""Words that may not open a docstring: it begins with a verb, or with the noun that it describes."""

NAMES = frozenset("told heard said asked kept known got found seen wanted way place at".split())
"""Names that say nothing of their thing."""

NAMES_AT = ("diptych/domain/", "diptych/testing/", "shop/", "tests/")
"""Folders with deciders and folds, whose third argument is `at`."""


def docstrings(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the docstrings of a module, those of attributes too, with their lines."""
    for node in ast.walk(tree):
        for statement in getattr(node, "body", ()) if not isinstance(node, ast.Lambda | ast.IfExp) else ():
            match statement:
                case ast.Expr(ast.Constant(str(text))):
                    yield text, statement.lineno


def identifiers(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the names of functions, classes, attributes and arguments, with their lines."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name, node.lineno
            case ast.arg():
                yield node.arg, node.lineno
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr, node.lineno
        if isinstance(node, ast.ClassDef):
            for statement in node.body:
                targets = statement.targets if isinstance(statement, ast.Assign) else []
                targets = [statement.target] if isinstance(statement, ast.AnnAssign) else targets
                yield from ((name.id, name.lineno) for name in targets if isinstance(name, ast.Name))


def faults(module: Module) -> Iterator[str]:
    """Yield one line for each docstring and each name of a module that is not in plain language."""
    tree = ast.parse(module.path.read_text("utf-8"))
    for text, line in docstrings(tree):
        word = re.match(r"[A-Za-z]*", text.strip())
        if word is not None and word[0].lower() in OPENINGS:
            yield f"{module.file}:{line} docstring: {text.strip().splitlines()[0]}"
    for name, line in identifiers(tree):
        bare = name.strip("_")
        if bare in NAMES and not (bare == "at" and module.file.startswith(NAMES_AT)):
            yield f"{module.file}:{line} name: {name}"


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings_and_names_are_plain(package: str) -> None:
    wrong = [fault for module in modules(package) for fault in faults(module)]
    assert not wrong, "\n".join(wrong)


def test_every_kind_of_name_and_docstring_is_read() -> None:
    tree = ast.parse(
        'class Told:\n    """What it is."""\n    said = 1\n    heard: int\n    """So long."""\n'
        "    def asked(self, kept):\n        self.found = kept\n"
    )
    assert {text for text, _ in docstrings(tree)} == {"What it is.", "So long."}
    names = {name for name, _ in identifiers(tree)} - {"self"}
    assert names == {"Told", "said", "heard", "asked", "kept", "found"}
