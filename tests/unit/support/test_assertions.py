"""Assertions of all tests can fail: no test holds one of the known shapes that are always true."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[2]


def always_true(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and kind of each assertion that cannot fail, and of each `pytest.raises` around several statements."""
    true_helpers = {node.name for node in ast.walk(module) if _returns_only_true(node)}  # type: ignore[attr-defined]
    for node in ast.walk(module):
        match node:
            case ast.Assert(test=test):
                if isinstance(test, ast.Tuple | ast.GeneratorExp | ast.Lambda | ast.JoinedStr | ast.Constant):
                    yield node.lineno, f"assert on a {type(test).__name__}"
                for part in ast.walk(test):
                    if isinstance(part, ast.BoolOp) and isinstance(part.op, ast.Or) and _has_true(part):
                        yield node.lineno, "assert `x or True`"
                    if isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id in true_helpers:
                        yield node.lineno, f"assert on {part.func.id}(), which always returns True"
            case ast.Expr(value=ast.Compare()):
                yield node.lineno, "a comparison without assert"
            case ast.For(iter=ast.List(elts=[]) | ast.Tuple(elts=[])):
                yield node.lineno, "a loop over nothing"
            case ast.With() | ast.AsyncWith() if len(node.body) > 1:
                if any(_is_raises(item.context_expr) for item in node.items):
                    yield node.lineno, "pytest.raises around several statements"


def _has_true(operation: ast.BoolOp) -> bool:
    return any(isinstance(value, ast.Constant) and bool(value.value) for value in operation.values)


def _returns_only_true(node: ast.AST) -> bool:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    returns = [part.value for part in ast.walk(node) if isinstance(part, ast.Return)]
    return bool(returns) and all(isinstance(value, ast.Constant) and value.value is True for value in returns)


def _is_raises(expression: ast.expr) -> bool:
    return isinstance(expression, ast.Call) and ast.unparse(expression.func) == "pytest.raises"


def test_no_assertion_of_any_test_is_always_true() -> None:
    found = []
    for path in sorted(TESTS.rglob("*.py")):
        if not path.stem.endswith(("_pb2", "_pb2_grpc")):
            module = ast.parse(path.read_text("utf-8"), str(path))
            found += [f"{path.relative_to(TESTS)}:{line}: {kind}" for line, kind in always_true(module)]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "assert (x == 1, 'one')",
        "assert 'text'",
        "assert (x for x in xs)",
        "assert x or True",
        "async def look():\n    return True\nassert bad or await look()",
        "x == 1",
        "for x in []:\n    assert x",
        "with pytest.raises(ValueError) as error:\n    prepare()\n    act()",
    ],
)
def test_the_search_finds_an_assertion_that_is_always_true(code: str) -> None:
    assert list(always_true(ast.parse(code)))
