"""`docs/reliability.md` names what exists: every test, every planted bug, and every bug that has a test of its own."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from diptych.server.failpoints import NAMES
from tests.faults.test_planted_in_layers import PLANTS
from tests.history.judge import check_names
from tests.integration.test_planted_bugs import BUGS

ROOT = Path(__file__).resolve().parents[2]
RECORD = (ROOT / "docs" / "reliability.md").read_text("utf-8")
TESTS = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", RECORD)


def names_in(path: Path) -> set[str]:
    """The tests of a module: functions, and names that a state machine's test case is given."""
    found: set[str] = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {name for name in found if name.startswith(("test_", "Test"))}


def test_every_test_that_is_named_exists() -> None:
    assert TESTS
    missing = [f"{path}::{name}" for path, name in TESTS if name not in names_in(ROOT / path)]
    assert missing == []


def test_every_file_that_is_named_exists() -> None:
    files = re.findall(r"`((?:tests|diptych)/[\w/.-]+)`", RECORD)
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_every_bug_that_has_a_test_is_named() -> None:
    named = set(TESTS)
    missing = [
        f"{path.relative_to(ROOT)}::{name}"
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for name in sorted(names_in(path))
        if name.startswith("test_bug_") and (str(path.relative_to(ROOT)), name) not in named
    ]
    assert missing == []


def test_every_planted_bug_is_named_with_what_finds_it() -> None:
    for _, bug, check in BUGS:
        assert re.search(rf"^\|.*`{bug.partition('@')[0]}`.*\| `{check}` \|$", RECORD, re.MULTILINE), bug
        assert check in check_names()
    for name, (machine, *_) in PLANTS.items():
        assert re.search(rf"^\|.*`{name}` \| `{machine.__name__}` \|$", RECORD, re.MULTILINE), name


def test_every_promise_is_attacked() -> None:
    rows = re.findall(r"^\| (\d) \|.*?\|(.*)\|$", RECORD, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 10))
    assert all("::" in attacks for _, attacks in rows)


def test_the_failpoint_that_is_shown_is_one() -> None:
    assert set(re.findall(r'FAILPOINTS="([a-z.]+)=', RECORD)) <= set(NAMES)
