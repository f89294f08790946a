"""Go program of first contact, with code that it generates from `contracts.binpb`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.polyglot.story import check_printed
from tests.polyglot.workshop import Workshop, commands_for, go_environment
from tests.support.pair import Pair

pytestmark = pytest.mark.timeout(900)  # It may download and compile everything that gRPC needs.


def test_first_contact(tmp_path: Path, shared_pair: Pair) -> None:
    workshop = Workshop("go", tmp_path, go_environment(), shared_pair)
    printed = [workshop.run(command) for command in commands_for("Go")]
    check_printed(printed[-1])
    assert workshop.run("gofmt -l *.go") == ""
    assert workshop.run("go vet .") == ""
