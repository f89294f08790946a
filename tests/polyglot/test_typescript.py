"""TypeScript program of first contact, with code that it generates from `contracts.binpb`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.polyglot.story import check_printed
from tests.polyglot.workshop import HERE, Workshop, commands_for, environment
from tests.support.pair import Pair

pytestmark = pytest.mark.timeout(900)  # It may download everything that gRPC needs.


def test_first_contact(tmp_path: Path, shared_pair: Pair) -> None:
    workshop = Workshop("typescript", tmp_path, environment("node", "npm"), shared_pair)
    printed = [workshop.run(command) for command in commands_for("TypeScript")]
    check_printed(printed[-1])


def test_the_lock_file_names_no_registry() -> None:
    lock = json.loads((HERE / "typescript" / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages
    for name, package in packages.items():
        assert "resolved" not in package, name
        assert "integrity" in package, name
