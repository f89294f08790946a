"""Digest of the code that makes rows: equal for equal code, and another one for code that makes other rows."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from diptych.domain.code_digest import code_digest, is_comparable
from diptych.domain.projection import Projection
from library.lending import lending
from tests.support.notes import Note, Noted
from tests.support.sources import ROOT

PARTS = {
    "key": "lambda e: e.key",
    "reads": "None",
    "body": "return Note(text=helper(event.text))",
    "column": "lambda row: row.edits",
    "helper": "return text + SUFFIX",
    "suffix": "'!'",
    "doc": "Fold.",
}

SOURCE = """
SUFFIX = {suffix}

def helper(text):
    {helper}

def fold(row, event, at):
    '''{doc}'''
    {body}

view.column("edits", {column})
view.on(Noted, key={key}, reads={reads})(fold)
"""


def digest(blank_lines: int = 0, /, **changed: str) -> str:
    """Return the digest of a projection that is made by a source text."""
    projection = Projection("notes", version=1)
    scope: dict[str, Any] = {"Note": Note, "Noted": Noted, "__name__": "bank.views"}
    scope["view"] = projection.view("notes", Note)
    exec("\n" * blank_lines + SOURCE.format(**{**PARTS, **changed}), scope)
    return code_digest(projection)


def test_digest_is_equal_for_equal_code() -> None:
    assert digest() == digest()
    assert digest(7, doc="Fold the note.") == digest()


@pytest.mark.parametrize(
    "changed",
    [
        {"key": "lambda e: e.text"},
        {"reads": "lambda e: []"},
        {"body": "return Note(text=helper(event.key))"},
        {"body": "return Note(text=helper(event.text), edits=1)"},
        {"column": "lambda row: -row.edits"},
        {"helper": "return text + SUFFIX + SUFFIX"},
        {"suffix": "'?'"},
        {"body": "return Note(text=''.join(helper(t) for t in event.text))"},
    ],
)
def test_digest_differs_for_code_that_makes_other_rows(changed: dict[str, str]) -> None:
    assert digest(**changed) != digest()


@pytest.mark.parametrize("seed", ["1", "2"])
def test_digest_is_equal_in_every_run_of_python(seed: str) -> None:
    code = (
        "from library.lending import lending; from diptych.domain.code_digest import code_digest; "
        "print(code_digest(lending))"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "library_domain")])
    env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}
    printed = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == code_digest(lending)


def test_digests_of_other_minor_versions_of_python_are_not_compared() -> None:
    assert is_comparable(digest())
    assert not is_comparable("")
    assert not is_comparable("2.7:0123456789abcdef")
